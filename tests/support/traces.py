"""Traces as a worker leaves them: real models run over real windows, in any stretches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny import byte_tokenizer

from pytest_tenpak.evaluation import divergence
from pytest_tenpak.evaluation.perplexity import Scorer
from pytest_tenpak.evaluation.protocol import Protocol, Window
from pytest_tenpak.evaluation.trace import Plan, Trace
from pytest_tenpak.store.digest import fingerprint

_TOKENIZER = byte_tokenizer()
TOKENS: list[int] = _TOKENIZER("O, she doth teach the torches to burn bright! " * 12)["input_ids"]
SIDE_BY_SIDE = Protocol.resolve("gptq", 64, None, 256).windows(len(TOKENS))


def letter(character: str) -> int:
    """The token of one letter."""
    (token,) = _TOKENIZER(character)["input_ids"]
    return int(token)


def begin(folder: Path, windows: list[Window], kind: str) -> Trace:
    """A trace of these windows, begun or gone on with."""
    folder.mkdir(parents=True, exist_ok=True)
    trace = Trace(folder)
    scored = [window.scored for window in windows]
    trace.begin(Plan(fingerprint(TOKENS), scored, [0] * len(windows), kind), {})
    return trace


def run(
    model: Any,
    folder: Path,
    windows: list[Window] = SIDE_BY_SIDE,
    *,
    keep: str = "",
    beside: Trace | None = None,
    stops: tuple[int, ...] = (),
    batch_size: int = 0,
    bos: int | None = None,
) -> Trace:
    """The trace of a run that went on at each of ``stops`` and ends with the last window.

    ``keep`` is the kind that a reference keeps (a mode is resolved), ``beside`` a reference's trace.
    """
    scorer = Scorer(model, TOKENS, bos=bos, batch_size=batch_size)
    kind = divergence.kind_of(scorer, keep) if keep in divergence.MODES else keep
    kind = beside.kind if beside else kind
    trace = begin(folder, windows, kind)
    observer: Any = None
    if beside is not None:
        observer = divergence.Comparer(beside, scorer.device, scorer.head)
    elif kind:
        observer = divergence.ReferenceRecorder(kind)
        if kind == divergence.EXACT:
            trace.save_head(scorer.head)
    for stop in (*stops, len(windows)):
        first = trace.count
        if first < stop:
            trace.add(scorer.score(windows[first:stop], first, observer=observer))
    return trace
