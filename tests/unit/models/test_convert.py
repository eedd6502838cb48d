"""GGUF files: what is refused before anything is converted."""

from pathlib import Path

import pytest

from pytest_tenpak.errors import CheckpointError, ModelError
from pytest_tenpak.models.convert import convert_gguf


def gguf(file: Path, parts: int = 0) -> Path:
    """A GGUF file with metadata and no tensors."""
    from gguf import GGUFWriter

    writer = GGUFWriter(file, "llama")
    if parts:
        writer.add_uint16("split.count", parts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_one_part_of_a_file_that_was_split_is_refused(tmp_path):
    """Its tensors are a share of the model's, and the others would be made up."""
    file = gguf(tmp_path / "model-00001-of-00003.gguf", parts=3)
    with pytest.raises(ModelError, match="one part of a GGUF file that was split into 3"):
        convert_gguf(file, tmp_path / "out")


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"not a GGUF file at all, but some text", b"GGUF" + bytes(40)]
)
def test_what_is_no_gguf_file_is_named(tmp_path, content):
    """Cut short, or another file under the name."""
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.gguf cannot be read"):
        convert_gguf(file, tmp_path / "out")


def test_a_file_that_git_lfs_has_not_fetched_is_named(tmp_path):
    """Its pointer is no damaged model."""
    file = tmp_path / "model.gguf"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(CheckpointError, match="is a pointer of git-lfs"):
        convert_gguf(file, tmp_path / "out")
