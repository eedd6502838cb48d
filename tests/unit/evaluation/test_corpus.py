"""Corpora: from wherever they come, the same text has the same digest; what is no text is an error."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from pytest_tenpak.errors import CorpusError
from pytest_tenpak.evaluation.corpus import DEFAULT, load_corpus


def test_the_packaged_text_is_the_one_its_readme_names(tmp_path):
    """Its bytes are fixed, since committed baselines rest on them."""
    text = load_corpus(DEFAULT, tmp_path).documents[0]
    assert hashlib.sha256(text.encode()).hexdigest().startswith("4df169ca6cd55cd9")
    assert text.isascii()


def test_files_of_every_kind_give_the_same_corpus(tmp_path):
    """.jsonl and .parquet with the same documents have the same digest; order matters."""
    import datasets

    documents = ["One document.", "Zwei – with a dash."]
    rows = [json.dumps({"text": document}) for document in documents]
    (tmp_path / "a.jsonl").write_text("\n\n".join(rows), encoding="utf-8")
    datasets.Dataset.from_dict({"text": documents}).to_parquet(str(tmp_path / "a.parquet"))
    (tmp_path / "b.jsonl").write_text("\n".join(reversed(rows)), encoding="utf-8")
    first = load_corpus("a.jsonl", tmp_path)
    assert list(first.documents) == documents
    assert load_corpus("a.parquet", tmp_path).digest == first.digest
    assert load_corpus("b.jsonl", tmp_path).digest != first.digest


def test_a_text_file_is_one_document_to_the_byte(tmp_path):
    """Line ends included: what the digest covers is what was written."""
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\n")
    assert load_corpus("a.txt", tmp_path).documents == ["one\r\ntwo\n"]


def test_a_file_inside_an_installed_package(tmp_path):
    """package:NAME/FILE, found without importing the package."""
    assert load_corpus("package:pytest_tenpak/evaluation/corpora/shakespeare.txt", tmp_path).documents


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.txt", b"", "is empty"),
        ("blank.txt", b" \n\n ", "is empty"),
        ("pointer.txt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of git-lfs"),
        ("latin.txt", "caf\xe9".encode("latin-1"), "is not UTF-8"),
        ("bad.jsonl", b'{"text": "a"}\n{"txt": "b"}', "line 2 .* has no 'text'"),
        ("bad.jsonl", b"[1]", "line 1 .* has no 'text'"),
        ("bad.jsonl", b'{"text": "a"', "line 1 .* is not JSON"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, name, content, said):
    """Empty, not UTF-8, or a line without text: the error names corpus and place."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=said):
        load_corpus(name, tmp_path)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("nowhere.txt", "does not exist"),
        ("shakespear", "did you mean 'shakespeare'"),
        (".", "is a folder"),
        ("package:no_such_package/x.txt", "is not installed"),
        ("hub:", "names no dataset and split"),
        ("hub:owner/name", "names no dataset and split"),
    ],
)
def test_what_does_not_exist_is_named(tmp_path, reference, said):
    """The error says what was looked for and which forms there are."""
    with pytest.raises(CorpusError, match=said):
        load_corpus(reference, tmp_path)


def test_a_hub_corpus_that_cannot_be_reached_says_how_to_pass_a_file(tmp_path, monkeypatch):
    """Offline, real loading code ends in a clear error."""
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "none"))
    with pytest.raises(CorpusError, match="cannot be loaded from the hub") as caught:
        load_corpus("hub:some-owner/some-text/raw:test:text", tmp_path)
    assert "pass a file" in str(caught.value)


def test_a_missing_column_names_those_that_exist(tmp_path):
    """A parquet file without a text column."""
    import datasets

    datasets.Dataset.from_dict({"body": ["x"]}).to_parquet(str(tmp_path / "a.parquet"))
    with pytest.raises(CorpusError, match="no column 'text'") as caught:
        load_corpus("a.parquet", tmp_path)
    assert "body" in str(caught.value)


def parquet(folder: Path, values: list, name: str = "a.parquet") -> Path:
    """A Parquet file with these values in its column of text."""
    import pyarrow
    from pyarrow.parquet import write_table

    write_table(pyarrow.table({"text": values}), folder / name)
    return folder / name


def jsonl(folder: Path, values: list) -> Path:
    file = folder / "a.jsonl"
    file.write_text("".join(json.dumps({"text": value}) + "\n" for value in values), encoding="utf-8")
    return file


@pytest.mark.parametrize("write", [parquet, jsonl])
@pytest.mark.parametrize(
    "value", [3, 1.5, True, ["a"], {"a": "b"}, [{"role": "user", "content": "a"}]], ids=repr
)
def test_values_that_are_no_text_are_refused_whatever_the_form(tmp_path, write, value):
    """Numbers and chat messages would be measured as Python writes them."""
    file = write(tmp_path, [value] * 2)
    with pytest.raises(CorpusError, match="is not text") as caught:
        load_corpus(file.name, tmp_path)
    assert "'text'" in caught.value.problem
    assert {"a.parquet": "row 0", "a.jsonl": "line 1"}[file.name] in caught.value.problem


@pytest.mark.parametrize("write", [parquet, jsonl])
def test_rows_without_text_are_left_out_and_counted(tmp_path, write):
    """Null is no text, and not the word None; a corpus of nothing else is empty."""
    file = write(tmp_path, [None, "one", None, "two"])
    found = load_corpus(file.name, tmp_path)
    assert (list(found.documents), found.nulls) == (["one", "two"], 2)
    with pytest.raises(CorpusError, match="is empty"):
        load_corpus(write(tmp_path, ["", None]).name, tmp_path)


def test_a_parquet_file_is_read_again_though_size_and_time_are_as_before(tmp_path):
    """No cache of another library answers for it."""
    file = parquet(tmp_path, ["one"])
    times = file.stat()
    assert load_corpus("a.parquet", tmp_path).documents == ["one"]
    parquet(tmp_path, ["two"])
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert load_corpus("a.parquet", tmp_path).documents == ["two"]


def test_a_damaged_parquet_file_is_named(tmp_path):
    """Cut short, or another file under its name."""
    file = parquet(tmp_path, ["one"])
    for content in (file.read_bytes()[:-9], b"PAR1", b"text"):
        file.write_bytes(content)
        with pytest.raises(CorpusError, match="cannot be read"):
            load_corpus("a.parquet", tmp_path)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r"])
def test_lines_of_json_end_at_line_feeds_only(tmp_path, mark):
    """Other characters that end lines for Python may stand in JSON's strings; a CR before the LF is blank."""
    row = json.dumps({"text": "before" + mark + "after"}, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_bytes(f"{row}\r\n{row}\n".encode())
    assert load_corpus("a.jsonl", tmp_path).documents == ["before" + mark + "after"] * 2


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_byte_order_mark_is_no_text(tmp_path, name):
    """The same text without it has the same digest; inside a text the character stays."""
    content = '{"text": "one \ufeff two"}' if name.endswith("l") else "one \ufeff two"
    (tmp_path / name).write_bytes(content.encode())
    plain = load_corpus(name, tmp_path)
    (tmp_path / name).write_bytes(content.encode("utf-8-sig"))
    assert load_corpus(name, tmp_path).digest == plain.digest
    assert "\ufeff" in plain.documents[0]


def test_half_a_character_is_refused(tmp_path):
    """JSON can write what no text is."""
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud800"}')
    with pytest.raises(CorpusError, match="line 1, 'text', of .* is not valid Unicode"):
        load_corpus("a.jsonl", tmp_path)


def test_other_line_ends_are_recognized(tmp_path):
    """By the digest that the same text has with them."""
    (tmp_path / "lf.txt").write_bytes(b"one\ntwo\n")
    (tmp_path / "crlf.txt").write_bytes(b"one\r\ntwo\r\n")
    (tmp_path / "mixed.txt").write_bytes(b"one\r\ntwo\n")
    lf, crlf, mixed = (load_corpus(f"{name}.txt", tmp_path) for name in ("lf", "crlf", "mixed"))
    assert lf.with_other_line_ends == {crlf.digest: "the same text with line ends CRLF"}
    assert crlf.with_other_line_ends == {lf.digest: "the same text with line ends LF"}
    assert mixed.with_other_line_ends.keys() == {lf.digest, crlf.digest}
