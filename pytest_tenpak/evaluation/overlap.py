"""How much of two texts was copied from one to the other: calibration on the corpus flatters every figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .corpus import Corpus

#: Increased whenever a change of this module changes a share; part of cache keys.
OVERLAP_VERSION = 2
#: Characters of the passages that texts are compared by.
_PASSAGE = 64
#: A stretch of so many passages is a copy. Shorter ones are phrases that texts of one kind have in common:
#: openings of stories, licences, headlines.
_STRETCH = 4


def overlap(calibration: Corpus, corpus: Corpus) -> float:
    """Return the share (0 to 1) of either text that was copied from the other, the larger of the two.

    Copied are stretches of 256 characters (found for sure from 319 on) and whole documents of 64 characters
    or more, ignoring white space and letter case.
    """
    one, other = _plain(calibration), _plain(corpus)
    return max(_share(one, other), _share(other, one))


def _plain(corpus: Corpus) -> list[str]:
    return [plain for document in corpus.documents if (plain := " ".join(document.lower().split()))]


def _share(documents: Sequence[str], others: Sequence[str]) -> float:
    """Return the share of the characters of ``documents`` that are copied from ``others``."""
    text, other = " ".join(documents), " ".join(others)
    if len(text) < _PASSAGE:
        return float(bool(text) and text in other)
    copied = bytearray(len(text))
    for start, stop in [*_stretches(text, other), *_documents(documents, others)]:
        copied[start:stop] = b"\x01" * (stop - start)
    return sum(copied) / len(copied)


def _stretches(text: str, other: str) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of stretches of consecutive passages of ``text``, each of which is in ``other``."""
    starts = range(0, len(text) - _PASSAGE + 1, _PASSAGE)
    passages = {text[start : start + _PASSAGE] for start in starts}
    everywhere = range(len(other) - _PASSAGE + 1)
    common = {passage for start in everywhere if (passage := other[start : start + _PASSAGE]) in passages}
    begin = 0
    for start in (*starts, len(text)):
        if text[start : start + _PASSAGE] not in common:
            if start - begin >= _STRETCH * _PASSAGE:
                yield begin, start
            begin = start + _PASSAGE


def _documents(documents: Sequence[str], others: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of whole documents that are documents of the other text too."""
    known = {other for other in others if len(other) >= _PASSAGE}
    start = 0
    for document in documents:
        if document in known:
            yield start, start + len(document)
        start += len(document) + 1
