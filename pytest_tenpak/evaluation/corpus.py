"""Texts to measure on: packaged, from a file, inside an installed package, or from the hub."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import CorpusError
from ..models.locate import installed_file
from ..spec import nearest
from ..store.digest import fingerprint, labelled

#: Packaged texts by name: the file in ``pytest_tenpak/evaluation/corpora`` (its README names the source).
PACKAGED = {
    "shakespeare": "shakespeare.txt",
    "shakespeare-calibration": "shakespeare-calibration.txt",
}
DEFAULT = "shakespeare"
CALIBRATION = "shakespeare-calibration"
#: A common passage of so many characters is a copy; shorter ones are common phrases.
_PASSAGE = 64

_FORMS = (
    "a packaged name ({names}), a .txt, .jsonl or .parquet file, package:NAME/FILE, "
    "or hub:DATASET[/SUBSET]:SPLIT[:COLUMN]"
)


@dataclass(frozen=True)
class Corpus:
    """A text as documents in order, with the digest that identifies it."""

    name: str
    documents: Sequence[str]

    @property
    def digest(self) -> str:
        """``sha256:`` over the documents: the same text has the same digest, whatever its source."""
        return labelled(fingerprint(list(self.documents)))


def load_corpus(reference: str, root: Path) -> Corpus:
    """Load the corpus that a marker names; relative paths start at ``root``.

    Raises CorpusError when it does not exist, is empty, is not UTF-8, or cannot be downloaded.
    """
    if reference in PACKAGED:
        text = resources.files(__package__).joinpath(f"corpora/{PACKAGED[reference]}")
        documents = [text.read_text(encoding="utf-8")]
    elif reference.startswith("hub:"):
        documents = _from_hub(reference)
    else:
        documents = _from_file(_locate(reference, root), reference)
    documents = [document for document in documents if document.strip()]
    if not documents:
        raise CorpusError(f"the corpus {reference!r} is empty", remedy="give a text that is not empty")
    return Corpus(reference, documents)


def overlap(calibration: Corpus, corpus: Corpus) -> float:
    """Return the share (0 to 1) of either text that occurs in the other, the larger of the two.

    Counted in passages of 64 characters, ignoring white space and letter case: a common span is sure to
    be found from 127 characters on. Two texts of similar style share nearly none.
    """
    one, other = _plain(calibration), _plain(corpus)
    return max(_share(one, other), _share(other, one))


def _plain(corpus: Corpus) -> str:
    return " ".join(" ".join(corpus.documents).lower().split())


def _share(text: str, other: str) -> float:
    """Return the share of passages of ``text`` that occur anywhere in ``other``."""
    passages = {text[start : start + _PASSAGE] for start in range(0, len(text) - _PASSAGE + 1, _PASSAGE)}
    if not passages:
        return float(bool(text) and text in other)
    starts = range(len(other) - _PASSAGE + 1)
    common = {passage for start in starts if (passage := other[start : start + _PASSAGE]) in passages}
    return len(common) / len(passages)


def _locate(reference: str, root: Path) -> Path:
    path = installed_file(reference) or root / Path(reference).expanduser()
    if path.is_file():
        return path
    names = ", ".join(sorted(PACKAGED))
    raise CorpusError(
        f"there is no corpus {reference!r}{nearest(reference, PACKAGED)}",
        given=f"{path} does not exist" if not path.is_dir() else f"{path} is a folder",
        accepted=_FORMS.format(names=names),
    )


def _from_file(path: Path, reference: str) -> list[str]:
    if path.suffix == ".parquet":
        return _column(_datasets().Dataset.from_parquet(str(path)), "text", reference)
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as fault:
        raise CorpusError(
            f"the corpus {reference!r} is not UTF-8",
            given=f"byte {fault.object[fault.start]:#04x} at offset {fault.start:,}",
            remedy="convert it to UTF-8",
        ) from None
    return _from_jsonl(text, reference) if path.suffix == ".jsonl" else [text]


def _from_jsonl(text: str, reference: str) -> list[str]:
    documents = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            problem = "has no text"
        except ValueError:
            row, problem = None, "is not JSON"
        document = row.get("text") if isinstance(row, dict) else None
        if not isinstance(document, str):
            raise CorpusError(
                f"line {number} of the corpus {reference!r} {problem}",
                given=line[:80],
                accepted='one JSON object per line, with a string "text"',
            )
        documents.append(document)
    return documents


def _from_hub(reference: str) -> list[str]:
    """Load ``hub:DATASET[/SUBSET]:SPLIT[:COLUMN]``, where a dataset id has the form ``owner/name``."""
    name, split, column = [*reference.removeprefix("hub:").split(":"), "", ""][:3]
    if not name or not split:
        raise CorpusError(
            f"the corpus {reference!r} names no dataset and split",
            given=reference,
            accepted="hub:DATASET[/SUBSET]:SPLIT[:COLUMN]",
            remedy="for example hub:Salesforce/wikitext/wikitext-2-raw-v1:test:text",
        )
    owner, _, rest = name.partition("/")
    dataset, _, subset = rest.partition("/")
    try:
        rows = _datasets().load_dataset(
            f"{owner}/{dataset}" if dataset else owner, subset or None, split=split
        )
    except CorpusError:
        raise
    except Exception as fault:  # the hub client's errors have no common base
        raise CorpusError(
            f"the corpus {reference!r} cannot be loaded from the hub",
            given=f"{type(fault).__name__}: {str(fault).splitlines()[0] if str(fault) else ''}",
            remedy="where the hub cannot be reached, pass a file: corpus='path/to/text.txt'",
        ) from None
    return _column(rows, column or "text", reference)


def _column(rows: Any, column: str, reference: str) -> list[str]:
    if column not in rows.column_names:
        raise CorpusError(
            f"the corpus {reference!r} has no column {column!r}",
            given=column,
            accepted=", ".join(rows.column_names),
        )
    return [str(text) for text in rows[column]]


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise CorpusError(
            "reading .parquet and hub: corpora needs the datasets library",
            remedy="pip install 'pytest-tenpak[datasets]', or pass a .txt or .jsonl file",
        ) from None
    return datasets
