"""The evidence of a decision, in figures and in words."""

from __future__ import annotations

import math
from typing import Any

from ..metrics.intervals import Estimate, Rule
from ..metrics.measurement import Measurement
from .criteria import Answer, Criterion


def interval_of(answer: Answer, shown: Estimate) -> dict[str, Any]:
    """Return ``low``, ``high`` and ``decisive`` of a check."""
    return {
        "low": shown.low if math.isfinite(shown.low) and math.isfinite(answer.sampled.low) else None,
        "high": shown.high if math.isfinite(shown.high) else None,
        "decisive": answer.decisive,
    }


def evidence_of(
    answer: Answer, shown: Estimate, criterion: Criterion, measurement: Measurement, rule: Rule
) -> str:
    """Describe what a decision rests on: interval, windows, tokens, and how many tokens would decide it.

    ``shown`` is the answer's estimate in the unit that people read.
    """
    sampled = answer.sampled
    of = f" of {measurement.budget:,}" if measurement.budget > sampled.tokens else ""
    documents = f", {sampled.units} documents" if sampled.units != sampled.windows else ""
    size = f"{sampled.windows} windows ({sampled.tokens:,}{of} tokens{documents})"
    if not math.isfinite(sampled.half_width):
        return f"point estimate; no confidence interval: too few windows, or all alike; {size}"
    unit = "" if criterion.metric == "kld" else "%"
    low, high = (_figure(bound, unit) for bound in (shown.low, shown.high))
    kind = "at one look" if rule.fixed else "at any look"
    interval = f"{100 * (1 - rule.alpha):g}% interval {low} to {high} {kind}"
    if answer.decisive:
        return f"{interval}; {size}"
    if not answer.significant:
        interval = f"beyond the bound, but not significantly different from no change; {interval}"
    if sampled.decides(criterion.bound) is not None:
        return f"point estimate: within the spread of requantizations; {interval}; {size}"
    needed = sampled.widened(criterion.spread).tokens_to_decide(criterion.bound)
    more = f"about {needed:,.0f} tokens would decide it" if math.isfinite(needed) else "it is on the bound"
    reach = _figure(shown.half_width, unit).lstrip("+")
    return f"point estimate: {interval}, {more}; with {size} the interval's half-width is {reach}"


def _figure(value: float, unit: str) -> str:
    return f"{value:+.2%}" if unit else f"{value:.4f}"
