"""What the files of a directory show before anything is loaded: one sentence of ours for each fault."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pytest_tenpak.errors import CheckpointError
from pytest_tenpak.models.preflight import require_consistent, require_readable

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5543\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A directory with one matrix and every kind of file that loaders read."""
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    save_file({"model.layers.0.up.weight": torch.zeros(64, 32)}, tmp_path / "model.safetensors")
    return tmp_path


def test_a_whole_directory_is_fine(folder):
    """Its config is returned."""
    (folder / "config.json").write_text('{"dtype": "bfloat16", "quantization_config": null}')
    config = require_readable(folder)
    assert config["dtype"] == "bfloat16"
    require_consistent(folder, config)


@pytest.mark.parametrize(
    "name", ["consolidated.safetensors", "pytorch_model.bin", "model.gguf", "picture.png"]
)
def test_files_that_no_loader_reads_need_not_be_fetched(folder, name):
    """Repositories hold the weights in several formats, and one is enough."""
    (folder / name).write_bytes(LFS)
    require_readable(folder)


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja", "generation_config.json"],
)
def test_a_file_that_git_lfs_has_not_fetched_is_named(folder, name):
    """Whatever it is: its text would be read as JSON, as a template, or as the header of weights."""
    (folder / name).write_bytes(LFS)
    with pytest.raises(CheckpointError, match=f"{name} is a pointer of git-lfs") as caught:
        require_readable(folder)
    assert "git lfs pull" in caught.value.remedy


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
)
@pytest.mark.parametrize("text", ["", "{", '{"a": 1,}', "<html>"])
def test_a_file_that_is_no_json_is_named(folder, name, text):
    """Cut short, edited by hand, or a page of an error."""
    (folder / name).write_text(text)
    with pytest.raises(CheckpointError, match=f"{name} is not valid JSON"):
        require_readable(folder)


def test_no_tokenizer_is_said(folder):
    """In a checkpoint as in a model."""
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        require_readable(folder)


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("dtype", ["torch.bfloat16", "bf16", "int4", 16])
def test_a_dtype_that_does_not_exist_is_said(folder, name, dtype):
    """transformers looks it up as an attribute of torch."""
    (folder / "config.json").write_text(json.dumps({name: dtype}))
    with pytest.raises(CheckpointError, match="names a dtype that does not exist") as caught:
        require_readable(folder)
    assert caught.value.given == f"{name}: {dtype!r}"


PARTS = {
    "nf4": {"weight": torch.zeros(1024, 1).byte(), "weight.absmax": torch.zeros(32)},
    "int8": {"weight": torch.zeros(64, 32).char(), "SCB": torch.zeros(64)},
    "gptq": {"qweight": torch.zeros(4, 64).int(), "scales": torch.zeros(1, 64)},
    "compressed": {"weight_packed": torch.zeros(64, 4).int(), "weight_scale": torch.zeros(64, 1)},
    "fp8": {"weight": torch.zeros(64, 32).byte(), "weight_scale_inv": torch.zeros(1, 1)},
}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_quantized_tensors_need_a_config_that_says_so(folder, parts):
    """transformers would load codes as weights, or not at all."""
    save_file(
        {f"model.layers.0.up.{name}": part for name, part in parts.items()}, folder / "model.safetensors"
    )
    with pytest.raises(
        CheckpointError, match="are quantized, but its config.json has no quantization_config"
    ):
        require_consistent(folder, require_readable(folder))


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq"])
def test_a_config_of_quantized_tensors_needs_some(folder, method):
    """Left over from another checkpoint."""
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": method}}))
    with pytest.raises(CheckpointError, match="says that the weights are quantized, but none of them is"):
        require_consistent(folder, require_readable(folder))


def packed(folder: Path, method: str, bits: int, group: int, inputs: int = 128, outputs: int = 64) -> None:
    """One layer as GPTQ or AWQ pack it."""
    groups = 1 if group == -1 else -(-inputs // group)
    shape = (inputs * bits // 32, outputs) if method == "gptq" else (inputs, outputs * bits // 32)
    parts = {"qweight": torch.zeros(shape).int(), "scales": torch.zeros(groups, outputs).half()}
    if method == "gptq":
        parts["g_idx"] = torch.zeros(inputs).int()
    save_file(
        {f"model.layers.0.up.{name}": part for name, part in parts.items()}, folder / "model.safetensors"
    )


def configured(folder: Path, **recipe) -> None:
    (folder / "config.json").write_text(json.dumps({"quantization_config": recipe}))


@pytest.mark.parametrize(
    ("method", "bits", "group"),
    [
        ("gptq", 2, 32),
        ("gptq", 3, 64),
        ("gptq", 4, -1),
        ("gptq", 8, 128),
        ("gptq", 4, 96),
        ("awq", 4, 64),
        ("awq", 4, -1),
    ],
)
def test_bits_and_group_of_a_config_are_those_of_the_tensors(folder, method, bits, group):
    """Edited by hand, the loader would fail with a shape, or read other weights."""
    packed(folder, method, bits, group)
    configured(folder, quant_method=method, bits=bits, group_size=group)
    require_consistent(folder, require_readable(folder))
    configured(folder, quant_method=method, bits=bits + 1, group_size=group)
    with pytest.raises(CheckpointError, match="does not fit its tensors") as caught:
        require_consistent(folder, require_readable(folder))
    assert f"bits={bits + 1}, but model.layers.0.up.qweight has the shape" in caught.value.given
    configured(folder, quant_method=method, bits=bits, group_size=16)
    with pytest.raises(CheckpointError, match="does not fit its tensors") as caught:
        require_consistent(folder, require_readable(folder))
    assert "group_size=16, but model.layers.0.up.scales has the shape" in caught.value.given
