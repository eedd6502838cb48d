"""Texts to measure on: packaged, from a file, inside an installed package, or from the hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import CorpusError
from ..models.locate import installed_file
from ..spec import nearest
from ..store.digest import fingerprint, labelled
from ..store.git_lfs import POINTER

#: Packaged texts by name: the file in ``pytest_tenpak/evaluation/corpora`` (its README names the source).
PACKAGED = {
    "shakespeare": "shakespeare.txt",
    "shakespeare-calibration": "shakespeare-calibration.txt",
}
DEFAULT = "shakespeare"
CALIBRATION = "shakespeare-calibration"
#: The column, or the field, with the text of a row, where none is named.
_COLUMN = "text"
#: Where a row is, for messages, and what it holds.
Row = tuple[str, object]

_FORMS = (
    "a packaged name ({names}), a .txt, .jsonl or .parquet file, package:NAME/FILE, "
    "or hub:DATASET[/SUBSET]:SPLIT[:COLUMN]"
)


@dataclass(frozen=True)
class Corpus:
    """A text as documents in order, with the digest that identifies it.

    ``nulls`` counts the rows of the source that have no text (null), which are left out.
    """

    name: str
    documents: Sequence[str]
    nulls: int = 0

    @cached_property
    def digest(self) -> str:
        """``sha256:`` over the documents: the same text has the same digest, whatever its source."""
        return _digest(self.documents)

    @property
    def with_other_line_ends(self) -> dict[str, str]:
        """The digests of the same text with other line ends, each with what these are."""
        lines = [document.replace("\r\n", "\n") for document in self.documents]
        found = {
            _digest(lines): "the same text with line ends LF",
            _digest(
                [document.replace("\n", "\r\n") for document in lines]
            ): "the same text with line ends CRLF",
        }
        found.pop(self.digest, None)
        return found


def _digest(documents: Sequence[str]) -> str:
    return labelled(fingerprint(list(documents)))


def load_corpus(reference: str, root: Path) -> Corpus:
    """Load the corpus that a marker names; relative paths start at ``root``.

    Raises CorpusError when it does not exist, is empty, is not UTF-8, has rows that are no text, or cannot be
    downloaded.
    """
    if reference in PACKAGED:
        text = resources.files(__package__).joinpath(f"corpora/{PACKAGED[reference]}")
        rows: Iterable[Row] = [("", text.read_text(encoding="utf-8"))]
    elif reference.startswith("hub:"):
        rows = _from_hub(reference)
    else:
        rows = _from_file(_locate(reference, root), reference)
    values = [_checked(place, value, reference) for place, value in rows]
    documents = [value for value in values if value is not None and value.strip()]
    nulls = values.count(None)
    if not documents:
        raise CorpusError(
            f"the corpus {reference!r} is empty",
            given=f"{len(values):,} rows, of which {nulls:,} are null" if nulls else None,
            remedy="give a text that is not empty",
        )
    return Corpus(reference, documents, nulls)


def _checked(place: str, value: object, reference: str) -> str | None:
    """Return a row's text, None for null; raise CorpusError for everything else, which is no text."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise CorpusError(
            f"{place} of the corpus {reference!r} is not text",
            given=f"{type(value).__name__}: {str(value)[:80]}",
            accepted="text, or null, which is left out",
            remedy="name a column of text; render chat messages with the model's chat template first",
        )
    try:
        value.encode()
    except UnicodeEncodeError as fault:
        raise CorpusError(
            f"{place} of the corpus {reference!r} is not valid Unicode",
            given=f"half of a surrogate pair at character {fault.start:,}",
            remedy="write the text as UTF-8 again",
        ) from None
    return value


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


def _from_file(path: Path, reference: str) -> Iterator[Row]:
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from _from_parquet(path, reference)
        return
    try:
        content = path.read_bytes()
        # A byte order mark says how the file is encoded; it is no text.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise CorpusError(
            f"the corpus {reference!r} is not UTF-8",
            given=f"byte {fault.object[fault.start]:#04x} at offset {fault.start:,}",
            remedy="convert it to UTF-8",
        ) from None
    if content.startswith(POINTER):
        raise CorpusError(
            f"the corpus {reference!r} is a pointer of git-lfs, not the text itself",
            given=str(path),
            remedy="run in that repository: git lfs install && git lfs pull",
        )
    if kind == ".jsonl":
        yield from _from_jsonl(text, reference)
    else:
        yield "the text", text


def _from_jsonl(text: str, reference: str) -> Iterator[Row]:
    # Lines end at a line feed only: other characters that end lines elsewhere may stand in JSON's strings.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            problem = f"has no {_COLUMN!r}"
        except ValueError:
            row, problem = None, "is not JSON"
        if not isinstance(row, dict) or _COLUMN not in row:
            raise CorpusError(
                f"line {number} of the corpus {reference!r} {problem}",
                given=line[:80],
                accepted=f'one JSON object per line, with a string "{_COLUMN}"',
            )
        yield f"line {number}, {_COLUMN!r},", row[_COLUMN]


def _from_parquet(path: Path, reference: str) -> Iterator[Row]:
    """Read a column with pyarrow: the datasets library would cache it by path, size and time."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise _without_datasets() from None
    try:
        file = parquet.ParquetFile(path)
        _require_column(file.schema_arrow.names, _COLUMN, reference)
        values = file.read(columns=[_COLUMN])[_COLUMN].to_pylist()
    except (ArrowException, OSError) as fault:
        raise CorpusError(
            f"the corpus {reference!r} cannot be read",
            given=f"{path}: {str(fault).splitlines()[0][:200]}",
            accepted="a whole Parquet file",
            remedy="copy or write it again",
        ) from None
    yield from _rows(values, _COLUMN)


def _from_hub(reference: str) -> Iterator[Row]:
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
    _require_column(rows.column_names, column or _COLUMN, reference)
    yield from _rows(rows[column or _COLUMN], column or _COLUMN)


def _rows(values: Iterable[object], column: str) -> Iterator[Row]:
    for number, value in enumerate(values):
        yield f"row {number:,}, column {column!r},", value


def _require_column(names: Sequence[str], column: str, reference: str) -> None:
    if column not in names:
        raise CorpusError(
            f"the corpus {reference!r} has no column {column!r}", given=column, accepted=", ".join(names)
        )


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise _without_datasets() from None
    return datasets


def _without_datasets() -> CorpusError:
    return CorpusError(
        "reading .parquet and hub: corpora needs the datasets library",
        remedy="pip install 'pytest-tenpak[datasets]', or pass a .txt or .jsonl file",
    )
