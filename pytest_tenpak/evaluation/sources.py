"""The rows of a text from a file or from the hub, read one by one and no further than they are asked for."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import CorpusError
from ..store.git_lfs import POINTER

#: The column, or the field, with the text of a row, where none is named.
_COLUMN = "text"
#: Where a row is, for messages, and what it holds.
Row = tuple[str, object]
#: Bytes, and rows, that are read at once.
_CHUNK, _ROWS = 1 << 20, 1000


def rows_of_file(path: Path, reference: str, most: int | None = None) -> Iterator[Row]:
    """Yield the rows of a .parquet or .jsonl file, or the one of a text file.

    Of a text file no more is read than it takes to have more than ``most`` characters (None: all of it).
    Raises CorpusError for a file that cannot be read as what its name says.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from _from_parquet(path, reference)
        return
    with path.open("rb") as stream:
        if stream.read(len(POINTER)) == POINTER:
            raise CorpusError(
                f"the corpus {reference!r} is a pointer of git-lfs, not the text itself",
                given=str(path),
                remedy="run in that repository: git lfs install && git lfs pull",
            )
        # A byte order mark says how the file is encoded; it is no text.
        stream.seek(0)
        begin = len(codecs.BOM_UTF8) if stream.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
        stream.seek(begin)
        if kind == ".jsonl":
            yield from _from_jsonl(_lines(stream, begin, reference), reference)
        else:
            yield "the text", _beginning(_decoded(stream, begin, reference), most)


def _beginning(pieces: Iterable[str], most: int | None) -> str:
    """Join pieces until there are more than ``most`` characters."""
    read, characters = [], 0
    for piece in pieces:
        read.append(piece)
        characters += len(piece)
        if most is not None and characters > most:
            break
    return "".join(read)


def _decoded(stream: IO[bytes], offset: int, reference: str) -> Iterator[str]:
    """Decode a file from ``offset`` on, piece by piece."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    ended = False
    while not ended:
        chunk = stream.read(_CHUNK)
        ended = not chunk
        pending = len(decoder.getstate()[0])
        try:
            piece = decoder.decode(chunk, final=ended)
        except UnicodeDecodeError as fault:
            raise _not_utf8(fault, offset - pending, reference) from None
        offset += len(chunk)
        yield piece


def _lines(stream: IO[bytes], offset: int, reference: str) -> Iterator[str]:
    """Decode a file from ``offset`` on, line by line.

    Lines end at a line feed only: other characters that end lines elsewhere may stand in JSON's strings.
    """
    for line in stream:
        try:
            yield line.removesuffix(b"\n").decode()
        except UnicodeDecodeError as fault:
            raise _not_utf8(fault, offset, reference) from None
        offset += len(line)


def _not_utf8(fault: UnicodeDecodeError, offset: int, reference: str) -> CorpusError:
    """Return the error for bytes of which the first ones are at ``offset`` in the file."""
    return CorpusError(
        f"the corpus {reference!r} is not UTF-8",
        given=f"byte {fault.object[fault.start]:#04x} at offset {offset + fault.start:,}",
        remedy="convert it to UTF-8",
    )


def _from_jsonl(lines: Iterable[str], reference: str) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
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
        with parquet.ParquetFile(path, buffer_size=_CHUNK) as file:
            _require_column(file.schema_arrow.names, _COLUMN, reference)
            batches = file.iter_batches(batch_size=_ROWS, columns=[_COLUMN])
            yield from _rows((value for batch in batches for value in batch[0].to_pylist()), _COLUMN)
    except (ArrowException, OSError) as fault:
        raise CorpusError(
            f"the corpus {reference!r} cannot be read",
            given=f"{path}: {str(fault).splitlines()[0][:200]}",
            accepted="a whole Parquet file",
            remedy="copy or write it again",
        ) from None


def rows_of_hub(reference: str) -> Iterator[Row]:
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
    name = column or _COLUMN
    _require_column(rows.column_names, name, reference)
    batches = rows.select_columns([name]).iter(batch_size=_ROWS)
    yield from _rows((value for batch in batches for value in batch[name]), name)


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
