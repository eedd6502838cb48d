"""Estimates as decisions, and what a decision rests on, in figures and in words."""

from __future__ import annotations

import math
from typing import Any

from ..metrics.intervals import Estimate, Rule
from ..metrics.measurement import Measurement
from .criteria import Answer, Goal


def interval_of(answer: Answer, shown: Estimate) -> dict[str, Any]:
    """``low``, ``high`` and ``decisive`` of a check."""
    return {
        "low": shown.low if math.isfinite(shown.low) and math.isfinite(answer.sampled.low) else None,
        "high": shown.high if math.isfinite(shown.high) else None,
        "decisive": answer.decisive,
    }


def evidence_of(answer: Answer, shown: Estimate, goal: Goal, measurement: Measurement, rule: Rule) -> str:
    """What a decision rests on, in words: interval, windows, tokens, and what would settle it.

    ``shown`` is the answer's estimate in the unit that people read.
    """
    sampled = answer.sampled
    of = f" of {measurement.budget:,}" if measurement.budget > sampled.tokens else ""
    size = f"{sampled.windows} windows, {sampled.tokens:,}{of} tokens"
    if sampled.units != sampled.windows:
        size += f", {sampled.units} documents"
    if not math.isfinite(sampled.half_width):
        return f"point estimate: windows too few, or too much alike, for an interval; {size}"
    unit = "" if goal.metric == "kld" else "%"
    low, high = (_figure(bound, unit) for bound in (shown.low, shown.high))
    kind = "at one look" if rule.fixed else "at any look"
    interval = f"{100 * (1 - rule.alpha):g}% interval {low} to {high} {kind}"
    if answer.decisive:
        return f"{interval}; {size}"
    if not answer.apart:
        interval = f"beyond the bound, but not told apart from no change; {interval}"
    if sampled.decides(goal.bound) is not None:
        return f"point estimate: within the spread of requantizations; {interval}; {size}"
    needed = sampled.widened(goal.spread).tokens_to_settle(goal.bound)
    more = f"about {needed:,.0f} tokens would settle it" if math.isfinite(needed) else "it is on the bound"
    seen = _figure(shown.half_width, unit).lstrip("+")
    return f"point estimate: {interval}, {more}; {size} tell {seen} from the bound"


def _figure(value: float, unit: str) -> str:
    return f"{value:+.2%}" if unit else f"{value:.4f}"
