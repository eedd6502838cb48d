"""Window statistics: perplexity, and differences paired window by window.

Sums over windows use ``math.fsum``, so the order of windows and the machine do not show in a figure.
Intervals have their place in :class:`Estimate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A figure with the evidence it rests on.

    ``value`` is relative (0.01 is one per cent). ``windows`` and ``tokens`` say how much was compared.
    ``low`` and ``high`` bound an interval where one was computed; None means a point estimate.
    """

    value: float
    windows: int
    tokens: int
    low: float | None = None
    high: float | None = None

    @property
    def evidence(self) -> str:
        """In words, for a report."""
        return f"point estimate, {self.windows} windows, {self.tokens:,} tokens"


def perplexity(nll: Sequence[float], tokens: Sequence[int]) -> float:
    """exp(ΣNLL / Σtokens): ``nll`` in nats per window, ``tokens`` scored per window.

    NaN when nothing was scored, infinity where exp overflows.
    """
    count = sum(tokens)
    return _expm1(math.fsum(nll) / count) + 1 if count else math.nan


def _expm1(nats: float) -> float:
    try:
        return math.expm1(nats)
    except OverflowError:
        return math.inf


def relative_perplexity(nll: Sequence[float], nll_before: Sequence[float], tokens: Sequence[int]) -> Estimate:
    """PPL/PPL_before − 1 over the same windows, as exp of the mean paired NLL difference, minus one.

    The windows' text is the same on both sides and cancels out. Raises ValueError when the lengths
    differ or nothing was scored.
    """
    if not len(nll) == len(nll_before) == len(tokens) or not sum(tokens):
        raise ValueError("paired windows need equal, non-empty lengths")
    count = sum(tokens)
    mean = math.fsum(a - b for a, b in zip(nll, nll_before, strict=True)) / count
    return Estimate(_expm1(mean), len(tokens), count)
