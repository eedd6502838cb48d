"""How much of two texts was copied from one to the other: calibration on the corpus flatters every figure.

Passages of one text are found in the other by rolling hashes of its characters, block by block, and compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from .corpus import Corpus

#: Increased whenever a change of this module changes a share; part of cache keys.
OVERLAP_VERSION = 2
#: Characters of the passages that texts are compared by.
_PASSAGE = 64
#: A stretch of so many passages is a copy. Shorter ones are phrases that texts of one kind have in common:
#: openings of stories, licences, headlines.
_STRETCH = 4
#: Characters that are normalized, and hashed, at once.
_PIECE, _BLOCK = 1 << 20, 1 << 18
#: The base of the hashes: odd, and with bits everywhere, since they are taken modulo 2**64.
_BASE = 0x9E3779B97F4A7C15
#: Hashes are first looked up in a table by their highest bits: so many, and with this many places for each.
_FEWEST_BITS, _MOST_BITS, _PLACES = 12, 28, 32
_SPACE = re.compile(r"\s")


def overlap(calibration: Corpus, corpus: Corpus) -> float:
    """Return the share (0 to 1) of either text that was copied from the other, the larger of the two.

    Copied are stretches of 256 characters (found for sure from 319 on) and whole documents of 64 characters
    or more, ignoring white space and letter case.
    """
    one, other = _plain(calibration), _plain(corpus)
    return max(_share(one, other), _share(other, one))


def _plain(corpus: Corpus) -> list[str]:
    return [plain for document in corpus.documents if (plain := " ".join(_normal(document)))]


def _normal(document: str) -> Iterator[str]:
    """Yield a document in lower case, words one space apart, piece by piece."""
    start = 0
    while start < len(document):
        space = _SPACE.search(document, start + _PIECE)
        stop = space.start() if space else len(document)
        if piece := " ".join(document[start:stop].lower().split()):
            yield piece
        start = stop


def _share(documents: Sequence[str], others: Sequence[str]) -> float:
    """Return the share of the characters of ``documents`` that are copied from ``others``."""
    text, other = " ".join(documents), " ".join(others)
    if len(text) < _PASSAGE:
        return float(bool(text) and text in other)
    copied = bytearray(len(text))
    for start, stop in [*_stretches(text, other), *_documents(documents, others)]:
        copied[start:stop] = b"\x01" * (stop - start)
    return copied.count(1) / len(copied)


def _stretches(text: str, other: str) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of stretches of consecutive passages of ``text``, each of which is in ``other``."""
    begin = 0
    for number, is_copied in enumerate(_Passages(text).found_in(other)):
        if not is_copied:
            start = number * _PASSAGE
            if start - begin >= _STRETCH * _PASSAGE:
                yield begin, start
            begin = start + _PASSAGE
    if len(text) - begin >= _STRETCH * _PASSAGE:
        yield begin, len(text)


class _Passages:
    """The passages that a text is cut into, each at a multiple of its length, by their hashes."""

    def __init__(self, text: str) -> None:
        import numpy as np

        self._text = text
        blocks = range(0, len(text) - _PASSAGE + 1, _BLOCK)
        # Copies: a view would keep the hashes of all other places in memory.
        hashes = np.concatenate([_hashes(text, start)[::_PASSAGE].copy() for start in blocks])
        #: The hashes in order, for each where in the text the first of its passages begins, and which hash
        #: each passage has.
        self._hashes, first, self._which = np.unique(hashes, return_index=True, return_inverse=True)
        self._starts = first * _PASSAGE
        bits = min(_MOST_BITS, max(_FEWEST_BITS, (_PLACES * len(self._hashes)).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, dtype=bool)
        self._table[self._hashes >> self._shift] = True

    def found_in(self, other: str) -> list[bool]:
        """Return of each passage whether the other text has it, anywhere."""
        import numpy as np

        found = np.zeros(len(self._hashes), dtype=bool)
        for start in range(0, len(other) - _PASSAGE + 1, _BLOCK):
            hashes = _hashes(other, start)
            maybe = np.flatnonzero(self._table[hashes >> self._shift])
            place = np.searchsorted(self._hashes, hashes[maybe])
            place[place == len(self._hashes)] = 0
            hit = (self._hashes[place] == hashes[maybe]) & ~found[place]
            self._compare(found, place[hit], other, maybe[hit] + start)
        copied: list[bool] = found[self._which].tolist()
        self._correct(copied, other)
        return copied

    def _compare(self, found: Any, places: Any, other: str, positions: Any) -> None:
        """Note which hashes' passages really are at positions of the other text."""
        for place, position in zip(places.tolist(), positions.tolist(), strict=True):
            if not found[place]:
                start = self._starts[place]
                passage = self._text[start : start + _PASSAGE]
                found[place] = other.startswith(passage, position)

    def _correct(self, copied: list[bool], other: str) -> None:
        """Look up by itself each passage that shares its hash with another one: there are next to none."""
        import numpy as np

        counts = np.bincount(self._which, minlength=len(self._hashes))
        for number in np.flatnonzero(counts[self._which] > 1).tolist():
            start, first = number * _PASSAGE, self._starts[self._which[number]]
            passage = self._text[start : start + _PASSAGE]
            if passage != self._text[first : first + _PASSAGE]:
                copied[number] = passage in other


def _hashes(text: str, start: int) -> Any:
    """Return the hashes (uint64) of the passages that begin at each of the next characters of a text.

    The hash of characters c is Σ c[i]·b^(n-1-i), made by doubling n: that of both halves gives that of the
    whole.
    """
    import numpy as np

    block = text[start : start + _BLOCK + _PASSAGE - 1]
    hashes = np.frombuffer(block.encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    length, base = 1, _BASE
    while length < _PASSAGE:
        hashes = hashes[:-length] * np.uint64(base) + hashes[length:]
        length, base = 2 * length, base * base % (1 << 64)
    return hashes


def _documents(documents: Sequence[str], others: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of whole documents that are documents of the other text too."""
    known = {other for other in others if len(other) >= _PASSAGE}
    start = 0
    for document in documents:
        if document in known:
            yield start, start + len(document)
        start += len(document) + 1
