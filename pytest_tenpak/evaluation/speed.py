"""Timing a checkpoint and its reference in one process, in interleaved rounds.

Each round runs both models once, every second round in reverse order, so that neither is always the one that
finds the machine warm. Rounds are added until the bounds are decided.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import MeasurementError
from ..metrics.intervals import Rule
from ..metrics.speed import DECODE, PREFILL, PhaseSpeed, are_decided
from ..progress import Progress

#: Tokens of the prompt, and tokens decoded after it, at most, by device type. On a CPU short rounds decide
#: sooner than long ones, since there are more of them; a GPU is not busy with a short prompt.
WORK = {"cpu": (256, 16), "cuda": (2048, 32)}
#: The fewest rounds with an interval of finite width at the default rate of errors, and the most.
LEAST_ROUNDS, ROUNDS = 6, 30
#: No round is begun after so many seconds, once the least number has been timed.
SECONDS = 60.0
#: Kernels are chosen and compiled, weights packed, and memory is allocated, at the first runs.
_WARM_UP = 2


class Tokens(NamedTuple):
    """What is timed: token ids of the prompt, and those that follow it one by one."""

    prompt: Sequence[int]
    following: Sequence[int]


class Seconds(NamedTuple):
    """How long one run of one model took, by phase."""

    prefill: float
    decode: float


def cut(ids: Sequence[int], context: int, device: str) -> Tokens:
    """Return the first tokens of a text, as many as a context holds: the prompt, and what is decoded.

    ``device`` is a torch device such as ``cpu`` or ``cuda:0``. Raises MeasurementError where there are fewer
    than two tokens.
    """
    prompt, most = WORK["cuda" if device.startswith("cuda") else "cpu"]
    taken = ids[: min(context, prompt + most)]
    if len(taken) < 2:
        raise MeasurementError(
            "the corpus is too short to time a model on",
            given=f"{len(taken)} tokens",
            accepted="at least 2: one for the prompt, and one after it",
            remedy="give a longer corpus, or leave out min_speedup and max_memory_ratio",
        )
    decoded = min(most, len(taken) // 2)
    return Tokens(taken[:-decoded], taken[-decoded:])


def run_once(model: Any, tokens: Tokens) -> Seconds:
    """Run a prompt in one forward pass, then the tokens after it one by one with the key-value cache.

    The tokens are those of the text, whatever the model predicts: both models do the same work, no sampling
    is timed, and nothing ends it early. Of the logits only the last position's are computed, where the model
    has an argument for that. Raises MeasurementError for a model without a key-value cache.
    """
    import torch

    device = model.device
    prompt = torch.tensor([tokens.prompt], device=device)
    following = torch.tensor([tokens.following], device=device)
    options = {"use_cache": True, **_last_position_only(model)}
    with torch.inference_mode():
        started = _now(device)
        cache = _cache(model(input_ids=prompt, **options))
        filled = _now(device)
        for n in range(len(tokens.following)):
            step = model(input_ids=following[:, n : n + 1], past_key_values=cache, **options)
            cache = step.past_key_values
        return Seconds(filled - started, _now(device) - filled)


def _now(device: Any) -> float:
    """Return the time once the device has done what it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _last_position_only(model: Any) -> dict[str, int]:
    """Return the argument that keeps the logits of the last position alone; it was renamed once."""
    known = inspect.signature(model.forward).parameters
    names = [name for name in ("logits_to_keep", "num_logits_to_keep") if name in known]
    return {names[0]: 1} if names else {}


def _cache(output: Any) -> Any:
    cache = getattr(output, "past_key_values", None)
    if cache is None:
        raise MeasurementError(
            "the model returns no key-value cache, so that decoding cannot be timed",
            given=type(output).__name__,
            accepted="models whose output has past_key_values",
            remedy="leave min_speedup and max_memory_ratio out of the marker",
        )
    return cache


def time_rounds(
    reference: Any,
    checkpoint: Any,
    tokens: Tokens,
    bounds: Mapping[str, float],
    rule: Rule,
    progress: Progress,
) -> tuple[PhaseSpeed, ...]:
    """Time both models round by round, and return the seconds by phase.

    ``bounds`` has the least ratio to the reference's speed by phase. Rounds end when they are decided (see
    :func:`~.metrics.speed.are_decided`), after ROUNDS of them, or after SECONDS.
    """
    for model in (reference, checkpoint):
        for _ in range(_WARM_UP):
            run_once(model, tokens)
    rounds: list[tuple[Seconds, Seconds]] = []
    began = time.monotonic()
    while len(rounds) < ROUNDS:
        rounds.append(_round(reference, checkpoint, tokens, is_reversed=len(rounds) % 2 > 0))
        progress(len(rounds), ROUNDS, "rounds")
        phases = _phases(rounds, tokens)
        enough = len(rounds) >= LEAST_ROUNDS
        if enough and (time.monotonic() - began > SECONDS or are_decided(phases, bounds, rule)):
            break
    return phases


def _round(reference: Any, checkpoint: Any, tokens: Tokens, *, is_reversed: bool) -> tuple[Seconds, Seconds]:
    if is_reversed:
        ours = run_once(checkpoint, tokens)
        return run_once(reference, tokens), ours
    theirs = run_once(reference, tokens)
    return theirs, run_once(checkpoint, tokens)


def _phases(rounds: Sequence[tuple[Seconds, Seconds]], tokens: Tokens) -> tuple[PhaseSpeed, ...]:
    counts = {PREFILL: len(tokens.prompt), DECODE: len(tokens.following)}
    return tuple(
        PhaseSpeed(
            phase,
            counts[phase],
            tuple(getattr(theirs, phase) for theirs, _ in rounds),
            tuple(getattr(ours, phase) for _, ours in rounds),
        )
        for phase in counts
    )
