"""Texts to measure on: packaged, from a file, inside an installed package, or from the hub.

Of a large text a limited budget uses a part: its first characters, as many as any tokenizer needs for the
budget. How many depends on nothing but text and budget, so every model and machine has the same part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TypeGuard

from ..errors import CorpusError
from ..models.locate import installed_file
from ..spec import nearest
from ..store.digest import labelled, texts_fingerprint
from .sources import Row, rows_of_file, rows_of_hub

#: Packaged texts by name: the file in ``pytest_tenpak/evaluation/corpora`` (its README names the source).
PACKAGED = {
    "shakespeare": "shakespeare.txt",
    "shakespeare-calibration": "shakespeare-calibration.txt",
}
DEFAULT = "shakespeare"
CALIBRATION = "shakespeare-calibration"

_FORMS = (
    "a packaged name ({names}), a .txt, .jsonl or .parquet file, package:NAME/FILE, "
    "or hub:DATASET[/SUBSET]:SPLIT[:COLUMN]"
)

#: Texts of at most so many characters are used whole, whatever the budget.
WHOLE = 1 << 21
#: Of longer ones, the first characters for each token of the budget: four times as many as tokenizers need
#: for code, sixteen times as many as for prose.
_FOR_A_TOKEN = 64
#: Parts have so many characters, or 4, 16, 64 … times as many: most changes of the budget change no part.
_LEAST, _STEP = 1 << 19, 4


@dataclass(frozen=True)
class Corpus:
    """A text as documents in order, with the digest that identifies it.

    ``nulls`` counts the rows of the source that have no text (null), which are left out. ``part`` is 0 where
    the documents are the whole text; else they are the first so many characters of a longer one.
    """

    name: str
    documents: Sequence[str]
    nulls: int = 0
    part: int = 0

    @cached_property
    def digest(self) -> str:
        """``sha256:`` over the documents: the same text has the same digest, whatever its source."""
        return _digest(self.documents)

    @property
    def with_other_line_ends(self) -> dict[str, str]:
        """The digests of the same text with other line ends, each with what these are.

        Empty for a part, which would end elsewhere with other line ends.
        """
        if self.part:
            return {}
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
    return labelled(texts_fingerprint(documents))


def part_for(budget: int) -> int:
    """Return how many characters of a text longer than :data:`WHOLE` a budget (tokens, not 0) uses."""
    most = _LEAST
    while most < _FOR_A_TOKEN * budget:
        most *= _STEP
    return most


def load_corpus(reference: str, root: Path, budget: int = 0) -> Corpus:
    """Load the corpus that a marker names, or the part of it that a budget of tokens uses (0: all of it).

    Relative paths start at ``root``. Raises CorpusError when it does not exist, is empty, is not UTF-8, has
    rows that are no text, or cannot be downloaded.
    """
    most = part_for(budget) if budget else None
    longest = max(WHOLE, most) if most else None
    values = list(_up_to(longest, _values(reference, root, longest)))
    part = 0
    if most and longest and _characters(values) > longest:
        values = list(_first(most, values))
        part = _characters(values)
    documents = list(filter(_is_text, values))
    nulls = values.count(None)
    if not documents:
        raise CorpusError(
            f"the corpus {reference!r} is empty",
            given=f"{len(values):,} rows, of which {nulls:,} are null" if nulls else None,
            remedy="give a text that is not empty",
        )
    return Corpus(reference, documents, nulls, part)


def _values(reference: str, root: Path, longest: int | None) -> Iterator[str | None]:
    """Yield the text of each row, None for null."""
    if reference in PACKAGED:
        text = resources.files(__package__).joinpath(f"corpora/{PACKAGED[reference]}")
        rows: Iterable[Row] = [("", text.read_text(encoding="utf-8"))]
    elif reference.startswith("hub:"):
        rows = rows_of_hub(reference)
    else:
        rows = rows_of_file(_locate(reference, root), reference, longest)
    return (_checked(place, value, reference) for place, value in rows)


def _is_text(value: str | None) -> TypeGuard[str]:
    return bool(value) and not str(value).isspace()


def _characters(values: Iterable[str | None]) -> int:
    return sum(map(len, filter(_is_text, values)))


def _up_to(most: int | None, values: Iterable[str | None]) -> Iterator[str | None]:
    """Yield values until they have more than ``most`` characters together (None: all)."""
    characters = 0
    for value in values:
        yield value
        characters += len(value) if _is_text(value) else 0
        if most is not None and characters > most:
            return


def _first(most: int, values: Iterable[str | None]) -> Iterator[str | None]:
    """Yield values up to ``most`` characters, the last one cut there."""
    for value in values:
        if not _is_text(value):
            yield value
        elif len(value) <= most:
            most -= len(value)
            yield value
        else:
            if most:
                yield _cut(value, most)
            return


def _cut(text: str, most: int) -> str:
    """Cut a text after a line, failing that after a word, failing that after ``most`` characters.

    No more than half of these are given up for that.
    """
    line = text.rfind("\n", most // 2, most)
    if line >= 0:
        return text[: line + 1]
    beginning = text[:most]
    if text[most].isspace() or beginning[-1].isspace():
        return beginning
    words = beginning.rsplit(maxsplit=1)
    return words[0] if len(words) == 2 and len(words[0]) > most // 2 else beginning


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
