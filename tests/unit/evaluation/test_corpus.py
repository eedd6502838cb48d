"""Corpora: from wherever they come, the same text has the same digest; what is no text is an error."""

import hashlib
import json
from pathlib import Path

import pytest

from pytest_tenpak.errors import CorpusError
from pytest_tenpak.evaluation.corpus import CALIBRATION, DEFAULT, Corpus, load_corpus, overlap


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
        ("latin.txt", "caf\xe9".encode("latin-1"), "is not UTF-8"),
        ("bad.jsonl", b'{"text": "a"}\n{"txt": "b"}', "line 2 .* has no text"),
        ("bad.jsonl", b"[1]", "line 1 .* has no text"),
        ("bad.jsonl", b'{"text": "a"', "line 1 .* is not JSON"),
        ("bad.jsonl", b'{"text": 3}', "line 1 .* has no text"),
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


def corpus(*documents: str) -> Corpus:
    return Corpus("made up", documents)


OTHER, OWN = (load_corpus(name, Path()).documents[0][:20_000] for name in (CALIBRATION, DEFAULT))


def test_the_packaged_calibration_text_shares_no_passage_with_the_packaged_corpus():
    """So the defaults never flatter a figure."""
    whole = [load_corpus(name, Path()) for name in (CALIBRATION, DEFAULT)]
    assert overlap(*whole) == 0


@pytest.mark.parametrize(
    ("calibration", "share"),
    [
        (OWN, 1.0),
        (OWN.upper().replace(" ", "\n"), 1.0),
        (OTHER + OWN, 1.0),
        (OTHER + OWN[:2000], 0.1),
        (OTHER, 0.0),
        ("To be", 1.0),
        ("Not a word of it.", 0.0),
    ],
    ids=["same", "other case and spaces", "hidden in more", "a tenth", "another", "a short copy", "short"],
)
def test_overlap_is_the_larger_share_of_either_text(calibration, share):
    """A corpus inside a long calibration text flatters as much as the whole of it; quoting little does not."""
    assert overlap(corpus(calibration), corpus(OWN)) == pytest.approx(share, abs=0.02)
    assert overlap(corpus(OWN), corpus(calibration)) == pytest.approx(share, abs=0.02)
