"""Which of several recipes to take: what is out, on what evidence, and what no other beats.

Pure. Recipes are compared on the windows that both have, paired, at the looks of a plan, so that each is
dropped as soon as that is statistically clear. What is out once stays out: more windows of others add looks,
and take none away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from ..metrics.intervals import Rule, anytime_t, looks
from ..metrics.measurement import HEADLINE, Windows
from .checks import Limits
from .criteria import FIRST_SECTION, Criterion, first_decisive_look, limit_of


class Why(Enum):
    """Why a recipe is out."""

    COMPRESSION = "compression below the bound"
    PERPLEXITY = "perplexity above the bound"
    DOMINATED = "dominated"
    NOT_FINITE = "not finite"


@dataclass(frozen=True)
class Out:
    """Why a recipe is out, after how many scored tokens, and by which recipe it is dominated."""

    why: Why
    tokens: int = 0
    by: str = ""


@dataclass(frozen=True)
class Contender:
    """A recipe whose checkpoint is there: its compression is exact, its windows grow."""

    name: str
    compression: float
    windows: Windows

    @property
    def has_figure(self) -> bool:
        """Whether something was measured, and every token's figure is finite."""
        return bool(self.windows.total_tokens) and not self.windows.nonfinite


@dataclass(frozen=True)
class Sieve:
    """What recipes are held against: limits, the unquantized model's windows, and the plan of ``planned``.

    Of the limits, ``max_ppl_delta`` and the headline ratio of ``min_compression`` count.
    """

    limits: Limits
    reference: Windows
    planned: int
    rule: Rule

    @property
    def min_compression(self) -> float:
        """The least compression; 0 where there is no bound."""
        return self.limits.min_compression.get(HEADLINE, 0.0)

    def bound(self) -> Criterion:
        """Return the criterion of the perplexity bound, infinite where there is none."""
        most = self.limits.max_ppl_delta
        bound = math.inf if most is None else math.log1p(most)
        return Criterion("max_ppl_delta", "nll", bound, self.reference.nll)

    def loss(self, one: Contender) -> float:
        """Return the nats per token lost, on the windows so far; infinite where there is no figure."""
        if not one.has_figure:
            return math.inf
        theirs = self.reference.nll[: len(one.windows.nll)]
        return (math.fsum(one.windows.nll) - math.fsum(theirs)) / one.windows.total_tokens

    def _order(self, one: Contender) -> tuple[float, float]:
        """Smaller first, of equals the better; losses compare contenders of different numbers of windows."""
        return -one.compression, self.loss(one)

    def out(self, contenders: Sequence[Contender]) -> dict[str, Out]:
        """Return which contenders are out, by name.

        A contender is out for its compression whatever its perplexity, else at the first look that shows
        its perplexity to be above the bound, or above that of another with at least its compression.
        """
        ordered = sorted(contenders, key=self._order)
        # Only by those before it in this order: no two can drop each other.
        found = ((one, self._out(one, ordered[:n])) for n, one in enumerate(ordered))
        return {one.name: out for one, out in found if out is not None}

    def _out(self, one: Contender, better: Sequence[Contender]) -> Out | None:
        if one.compression < self.min_compression:
            return Out(Why.COMPRESSION)
        return min(self._reasons(one, better), key=lambda out: out.tokens, default=None)

    def _reasons(self, one: Contender, better: Sequence[Contender]) -> Iterator[Out]:
        windows = one.windows
        if not windows.tokens:
            return
        look = self._first_above(windows, self.bound())
        if look is not None:
            prefix = windows.prefix(look)
            yield Out(Why.NOT_FINITE if prefix.nonfinite else Why.PERPLEXITY, prefix.total_tokens)
        for other in better:
            if other.has_figure and (look := self.first_worse(one, other)) is not None:
                yield Out(Why.DOMINATED, windows.prefix(look).total_tokens, other.name)

    def first_worse(self, one: Contender, other: Contender) -> int | None:
        """Return the first look at which ``one`` has a significantly higher perplexity than ``other``.

        None where there is none so far, or the two were measured on different tokens.
        """
        theirs = other.windows
        if not theirs.tokens or theirs.stream != one.windows.stream:
            return None
        common = one.windows.prefix(len(theirs.tokens))
        return self._first_above(common, Criterion("frontier", "nll", 0.0, theirs.nll))

    def _first_above(self, windows: Windows, criterion: Criterion) -> int | None:
        """Return the first look that shows a mean above the criterion's bound, or a token without figure."""
        if not self.rule.fixed:
            return first_decisive_look([criterion], windows, self.planned, self.rule, whole=True)
        if len(windows.tokens) < self.planned:
            return None
        is_above = bool(windows.nonfinite) or criterion.is_decided(windows, self.rule) is False
        return self.planned if is_above else None

    def unsettled(self, contenders: Sequence[Contender]) -> set[str]:
        """Return the contenders of which more windows may change what :meth:`pick` returns.

        What compresses less than one that surely meets the bounds cannot be picked. Of several of one size
        that surely meet them, each counts to the end of the plan.
        """
        out = self.out(contenders)
        left = [one for one in contenders if one.name not in out]
        sure = [one for one in left if self._meets_surely(one)]
        most = max((one.compression for one in sure), default=0.0)
        equal = [one for one in sure if one.compression == most]
        open_ones = [one for one in left if one not in sure and one.compression >= most]
        open_ones += equal if len(equal) > 1 else []
        return {one.name for one in open_ones if len(one.windows.tokens) < self.planned}

    def _meets_surely(self, one: Contender) -> bool:
        return bool(one.windows.tokens) and self.bound().is_decided(one.windows, self.rule) is True

    def meets(self, one: Contender) -> bool:
        """Return whether a contender meets the bounds, decided as a gate decides."""
        fits = one.compression >= self.min_compression and one.has_figure
        return fits and self.bound().answer(one.windows, self.rule).holds

    def pick(self, contenders: Sequence[Contender]) -> Contender | None:
        """Return what to take: of those that meet the bounds the smallest, among equals the best."""
        out = self.out(contenders)
        fine = [one for one in contenders if one.name not in out and self.meets(one)]
        return min(fine, key=self._order, default=None)


def sections(planned: int, rule: Rule) -> list[int]:
    """Return after how many windows of a plan to compare: a first section, then twice as many, to the end.

    The first is a quarter at most, or the fewest windows that have an interval. At the end alone where the
    rule allows only one look.
    """
    first = limit_of(planned, FIRST_SECTION)
    has_interval = (n for n in looks(planned) if n >= first and math.isfinite(anytime_t(n, rule.alpha)))
    grid = [planned if rule.fixed else next(has_interval, planned)]
    while grid[-1] < planned:
        grid.append(min(planned, 2 * grid[-1]))
    return grid


def pareto(places: Sequence[tuple[float, float]]) -> set[int]:
    """Return which of the places no other beats: none is as low in both figures and lower in one."""
    best: set[int] = set()
    lowest = math.inf
    order = sorted(range(len(places)), key=places.__getitem__)
    for n in order:
        x, y = places[n]
        if y < lowest or any(places[m] == (x, y) for m in best):
            best.add(n)
            lowest = min(lowest, y)
    return best
