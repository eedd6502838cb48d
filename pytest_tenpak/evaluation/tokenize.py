"""The corpus as token ids: one stream, and where in it each document begins."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import MeasurementError
from .protocol import Protocol


@dataclass(frozen=True)
class Stream:
    """Token ids of a whole corpus, and the positions in them at which its documents begin.

    ``starts`` grows strictly and begins with 0. A document that left no token of its own has no place
    in it; where a tokenizer cannot tell which characters a token stands for, it is ``(0,)``.
    """

    ids: list[int]
    starts: tuple[int, ...]


def tokenize(tokenizer: Any, documents: Sequence[str], protocol: Protocol) -> Stream:
    """The stream that a protocol's windows are cut from.

    Documents are joined and tokenized once, with the tokenizer's own BOS. Where the protocol takes each
    document by itself, a prefix token (BOS, or EOS where there is none) stands in front of each, and
    starts it.
    """
    if protocol.bos == "document":
        return _separate(tokenizer, documents)
    encoded = tokenizer(protocol.join.join(documents), verbose=False)
    ids: list[int] = encoded["input_ids"]
    if len(documents) == 1 or not encoded.is_fast:
        return Stream(ids, (0,))
    return Stream(ids, _starts(encoded, len(ids), documents, len(protocol.join)))


def _starts(encoded: Any, tokens: int, documents: Sequence[str], joint: int) -> tuple[int, ...]:
    """The first token of each document: the first one that reaches beyond the characters before it.

    Asked for one by one and found by bisection, because the table of all offsets would take more
    memory than everything else that is held of the corpus.
    """

    def end(token: int) -> int:
        """Where the characters of a token end; special tokens stand for none, at the front or the back."""
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
