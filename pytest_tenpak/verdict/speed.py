"""The checks of speed and memory against the reference. Pure.

They have no baseline: what another machine, or this one yesterday, took says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..metrics.intervals import Rule
from ..metrics.speed import DECODE, PREFILL, Memory, PhaseSpeed, Speed
from .checks import Check, Limits, Status

_MIB = 1 << 20
#: The kind of check by phase.
CHECKS = {PREFILL: "prefill_speedup", DECODE: "decode_speedup"}


def speed_checks(speed: Speed | None, memory: Memory | None, limits: Limits, rule: Rule) -> Iterator[Check]:
    """Yield the checks of what was timed and weighed, where a limit bounds it."""
    for one in speed.phases if speed else ():
        if speed and one.phase in limits.min_speedup:
            yield _speed_check(one, speed, limits.min_speedup[one.phase], rule)
    if memory is not None and limits.max_memory_ratio is not None:
        yield _memory_check(memory, limits.max_memory_ratio)


def _speed_check(one: PhaseSpeed, speed: Speed, least: float, rule: Rule) -> Check:
    """Decide by the interval where it is decisive, else by the point estimate."""
    decided = one.is_at_least(least, rule)
    ratio, low, high = one.interval(rule)
    holds = ratio >= least if decided is None else decided
    return Check(
        CHECKS[one.phase],
        Status.PASSED if holds else Status.REGRESSED,
        value=ratio,
        bound=least,
        low=low or None,
        high=high if math.isfinite(high) else None,
        decisive=decided is not None,
        evidence=f"{_basis(one, least, rule)}; {_figures(one, speed)}",
    )


def _basis(one: PhaseSpeed, least: float, rule: Rule) -> str:
    """Say what a decision rests on: the interval, or the point estimate and why."""
    _, low, high = one.interval(rule)
    rounds = f"{one.rounds} rounds"
    if not math.isfinite(high):
        return f"point estimate; no confidence interval: too few rounds; {rounds}"
    look = "at one look" if rule.fixed else "at any look"
    interval = f"{100 * (1 - rule.alpha):g}% interval {low:.4g}× to {high:.4g}× {look}"
    if one.is_at_least(least, rule) is not None:
        return f"{interval}; {rounds}"
    needed = one.rounds_to_decide(least, rule)
    more = f"about {needed:,.0f} rounds would decide it" if math.isfinite(needed) else "it is on the bound"
    return f"point estimate: {interval}, {more}; {rounds}"


def _figures(one: PhaseSpeed, speed: Speed) -> str:
    kernel = f"; layers run through {speed.kernel}" if speed.kernel else ""
    return (
        f"{one.checkpoint_speed:,.1f} tokens/s where the reference has {one.reference_speed:,.1f} "
        f"({speed.dtype}, {one.tokens:,} tokens a round){kernel}"
    )


def _memory_check(memory: Memory, most: float) -> Check:
    return Check(
        "max_memory_ratio",
        Status.PASSED if memory.ratio <= most else Status.REGRESSED,
        value=memory.ratio,
        bound=most,
        evidence=f"peak of {memory.checkpoint / _MIB:,.1f} MiB {memory.kind} where the reference has "
        f"{memory.reference / _MIB:,.1f} ({memory.dtype})",
    )
