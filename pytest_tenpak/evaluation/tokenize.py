"""Tokenizing a corpus: one stream of token ids, and the position at which each document begins."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..errors import CorpusError, MeasurementError
from ..store.digest import fingerprint
from .protocol import Protocol, Window, within

#: Tokens at the cut of a part that may be others than in the whole text.
_EDGE = 256


@dataclass(frozen=True)
class Stream:
    """Token ids of a whole corpus, and the positions in them at which its documents begin.

    ``starts`` increases strictly and begins with 0. A document without a token of its own is not in it. With
    a tokenizer that does not map tokens to characters it is ``(0,)``. ``known_digest`` is the digest of the
    ids where that was computed before.
    """

    ids: list[int]
    starts: tuple[int, ...]
    known_digest: str = field(default="", compare=False)

    @cached_property
    def digest(self) -> str:
        """Digest of the token ids."""
        return self.known_digest or fingerprint(self.ids)


def tokenize(tokenizer: Any, documents: Sequence[str], protocol: Protocol) -> Stream:
    """Tokenize documents into the stream that a protocol's windows are cut from.

    Documents are joined and tokenized once, with the tokenizer's own BOS. Where the protocol runs each
    document by itself, each begins with a prefix token (BOS, or EOS where there is none).
    """
    if protocol.bos == "document":
        return _separate(tokenizer, documents)
    encoded = tokenizer(protocol.join.join(documents), verbose=False)
    ids: list[int] = encoded["input_ids"]
    if len(documents) == 1 or not encoded.is_fast:
        return Stream(ids, (0,))
    return Stream(ids, _starts(encoded, len(ids), documents, len(protocol.join)))


def plan_windows(stream: Stream, protocol: Protocol, budget: int, part: int) -> list[Window]:
    """Return all windows of a stream, in order of the text.

    ``part`` is the number of characters where the stream is of the beginning of a longer text, else 0. Raises
    CorpusError where not one window fits, and where the windows that ``budget`` tokens allow would be others
    of the whole text.
    """
    tokens = len(stream.ids)
    if part and tokens < protocol.context + _EDGE:
        raise _too_short(tokens, part, budget)
    windows = protocol.windows(tokens, 0, stream.starts)
    planned = within([window.scored for window in windows], budget)
    if part and (planned == len(windows) or windows[planned - 1].stop > tokens - _EDGE):
        raise _too_short(tokens, part, budget)
    return windows


def _too_short(tokens: int, part: int, budget: int) -> CorpusError:
    return CorpusError(
        "the part of the corpus that the budget uses has too few tokens for it",
        given=f"{tokens:,} tokens in the first {part:,} characters, for a budget of {budget:,}",
        accepted="a token for every 64 characters or fewer, and a context that fits into the part",
        remedy="set the budget to 0 for the whole text (max_tokens, --tenpak-max-tokens); "
        "or remove runs of white space or of one character from the text",
    )


def _starts(encoded: Any, tokens: int, documents: Sequence[str], joint: int) -> tuple[int, ...]:
    """Return the first token of each document: the first one that extends beyond the characters before it.

    Found by bisection, one document at a time, because the table of all offsets would take more memory than
    the rest of the corpus.
    """

    def end(token: int) -> int:
        """Return where the characters of a token end; special tokens have none, and are first or last."""
        span = encoded.token_to_chars(token)
        return span.end if span else (0 if token < tokens // 2 else characters)

    characters = sum(map(len, documents)) + joint * len(documents)
    starts = [0]
    begin = 0
    for before in documents[:-1]:
        begin += len(before) + joint
        start = bisect_right(range(tokens), begin, lo=starts[-1], key=end)
        if starts[-1] < start < tokens:
            starts.append(start)
    return tuple(starts)


def _separate(tokenizer: Any, documents: Sequence[str]) -> Stream:
    prefix = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if prefix is None:
        raise MeasurementError(
            "protocol 'rolling' needs a token in front of each document, and the tokenizer has none",
            given="neither a BOS nor an EOS token",
            accepted="a tokenizer with bos_token or eos_token",
            remedy="name one in tokenizer_config.json, or use protocol='gptq'",
        )
    ids: list[int] = []
    starts: list[int] = []
    for document in documents:
        starts.append(len(ids))
        ids.append(prefix)
        ids += tokenizer(document, verbose=False)["input_ids"]
    return Stream(ids, tuple(starts))
