"""Corpora: from wherever they come, the same text has the same digest; what is no text is an error."""

import hashlib
import json
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tenpak.errors import CorpusError
from pytest_tenpak.evaluation import corpus as module
from pytest_tenpak.evaluation import sources
from pytest_tenpak.evaluation.corpus import DEFAULT, WHOLE, Corpus, load_corpus, part_for
from pytest_tenpak.store import digest


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


def test_a_hub_corpus_is_read_by_rows(tmp_path, monkeypatch):
    """The column that is named, in the order of its rows; a local folder stands for the hub's."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(sources, "_ROWS", 2)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    rows = [{"body": f"row {number}", "other": number} for number in range(5)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_corpus("hub:owner/name:train:body", tmp_path)
    assert found.documents == [f"row {number}" for number in range(5)]


# ------------------------------------------------------------ decoding piece by piece


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1 << 20])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "with a byte order mark"])
def test_a_text_is_the_same_however_it_is_read(tmp_path, monkeypatch, size, mark):
    """Characters of several bytes lie across the pieces of a file."""
    monkeypatch.setattr(sources, "_CHUNK", size)
    (tmp_path / "a.txt").write_text(mark + "é–😀\r\n" * 3, encoding="utf-8", newline="")
    assert load_corpus("a.txt", tmp_path).documents == ["é–😀\r\n" * 3]


@pytest.mark.parametrize("size", [1, 4, 1 << 20])
@pytest.mark.parametrize(
    ("content", "offset"), [(b"caf\xe9!", 3), ("é😀".encode() + b"\xff", 6), ("ab é".encode()[:-1], 3)]
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_byte_that_is_not_utf8_is_named_by_its_place_in_the_file(
    tmp_path, monkeypatch, size, content, offset, name
):
    """Whatever was read before it, and where a character is cut off by the end."""
    monkeypatch.setattr(sources, "_CHUNK", size)
    before = '{"text": "é"}\n'.encode() if name.endswith("l") else b""
    (tmp_path / name).write_bytes(before + content)
    with pytest.raises(CorpusError, match="is not UTF-8") as caught:
        load_corpus(name, tmp_path)
    assert caught.value.given == f"byte {content[offset]:#04x} at offset {len(before) + offset}"


# ------------------------------------------------------------ a part for a budget

LINE = "So quick bright things come to confusion.\n"


@pytest.fixture
def small(monkeypatch):
    """Texts of more than 4,096 characters count as large, and the smallest part has 1,024."""
    monkeypatch.setattr(module, "WHOLE", 4096)
    monkeypatch.setattr(module, "_LEAST", 1024)
    monkeypatch.setattr(sources, "_CHUNK", 512)


@pytest.mark.parametrize(
    ("budget", "characters"),
    [(1, 1 << 19), (8192, 1 << 19), (8193, 1 << 21), (32_768, 1 << 21), (32_769, 1 << 23), (10**6, 1 << 27)],
)
def test_a_part_has_64_characters_for_each_token_in_steps_of_four(budget, characters):
    """Most changes of a budget change no part, and so no identity."""
    assert part_for(budget) == characters


def test_texts_in_use_are_whole_whatever_the_budget(tmp_path):
    """The packaged ones, and all up to two million characters: no committed baseline's identity moves."""
    assert load_corpus(DEFAULT, tmp_path, 1) == load_corpus(DEFAULT, tmp_path)
    (tmp_path / "a.txt").write_text("x" * WHOLE)
    assert load_corpus("a.txt", tmp_path, 1).part == 0
    (tmp_path / "a.txt").write_text("x" * (WHOLE + 1))
    assert load_corpus("a.txt", tmp_path, 1).part == part_for(1)


def test_the_part_of_a_text_is_its_first_lines(tmp_path, small):
    """Its digest is that of the same lines in a file of their own, and line ends explain nothing."""
    (tmp_path / "large.txt").write_text(LINE * 200)
    found = load_corpus("large.txt", tmp_path, 16)
    assert found.documents == [LINE * (1024 // len(LINE))]
    assert found.part == len(found.documents[0])
    (tmp_path / "lines.txt").write_text(found.documents[0])
    assert load_corpus("lines.txt", tmp_path, 16).digest == found.digest
    assert found.with_other_line_ends == {}
    whole = load_corpus("large.txt", tmp_path)
    assert (whole.part, len(whole.documents[0])) == (0, 200 * len(LINE))
    assert load_corpus("large.txt", tmp_path, 1000) == whole


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("word " * 2000, ("word " * 205)[:-1]),
        ("word " * 100 + "x" * 9000, "word " * 100 + "x" * 524),
        ("one line\n" + "word " * 2000, "one line\n" + "word " * 203),
        ("a " + "word " * 2000, "a " + ("word " * 204)[:-1]),
        ("字" * 9000, "字" * 1024),
        ("é" * 1023 + "\n" + "é" * 9000, "é" * 1023 + "\n"),
    ],
    ids=[
        "word",
        "characters",
        "a line too far in front",
        "inside a word",
        "no spaces",
        "exactly at a line's end",
    ],
)
def test_a_part_ends_after_a_line_or_a_word_where_there_is_one(tmp_path, small, text, part):
    """Failing both, after as many characters as are used; at most half of these are given up."""
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    found = load_corpus("a.txt", tmp_path, 16)
    assert found.documents == [part]
    assert found.part == len(part)


@pytest.mark.parametrize("write", [parquet, jsonl])
def test_documents_are_used_whole_up_to_the_last_one(tmp_path, small, write):
    """In order; what is null counts where it stands in front of the cut."""
    rows = [None, "", *[LINE * 10, None] * 30]
    found = load_corpus(write(tmp_path, rows).name, tmp_path, 16)
    rest = (1024 - 2 * 10 * len(LINE)) // len(LINE)
    assert found.documents == [LINE * 10, LINE * 10, LINE * rest]
    assert (found.nulls, found.part) == (3, len(LINE) * (20 + rest))
    assert load_corpus(found.name, tmp_path).nulls == 31


def test_documents_that_end_where_the_part_does(tmp_path, small):
    """No empty document is left of the next one."""
    found = load_corpus(jsonl(tmp_path, ["a" * 512] * 20).name, tmp_path, 16)
    assert found.documents == ["a" * 512] * 2


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_no_more_is_read_than_the_budget_needs(tmp_path, small, name):
    """Not even looked at: what is no text far behind the part is refused only where all is read."""
    line = json.dumps({"text": LINE}) + "\n" if name.endswith("l") else LINE
    (tmp_path / name).write_bytes(line.encode() * 200 + b"\xff")
    assert load_corpus(name, tmp_path, 16).part
    with pytest.raises(CorpusError, match="is not UTF-8"):
        load_corpus(name, tmp_path)


def test_reading_a_part_takes_the_memory_of_the_part(tmp_path):
    """Of 64 million characters, less than a quarter is ever held."""
    with (tmp_path / "a.txt").open("w") as stream:
        for _ in range(64):
            stream.write("x" * 999_999 + "\n")
    tracemalloc.start()
    found = load_corpus("a.txt", tmp_path, 8192)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.part == part_for(8192)
    assert peak < 16e6


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=5), st.integers(1, 9)
)
def test_the_digest_of_a_text_is_that_of_its_documents(documents, size):
    """As it always was: SHA-256 of the documents as canonical JSON, however it is computed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digest, "_CHUNK", size)
        assert Corpus("made up", documents).digest == digest.labelled(digest.fingerprint(documents))
