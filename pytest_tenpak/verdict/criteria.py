"""Criteria on the measured windows, and whether the windows so far decide them.

Criteria are a verdict's bounds on means per token, as plain figures. The worker process that measures calls
the same functions as the verdict, so it stops as soon as the verdict is clear, and both agree when that is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from ..metrics.intervals import Estimate, Rule, estimate, looks
from ..metrics.measurement import Windows

#: As a limit of windows: as many as a clear verdict takes.
FIRST_SECTION = 0
#: More windows cannot help against a spread between requantizations of this many times the sampling error.
_DWARFED = 4


class Answer(NamedTuple):
    """The decision on a criterion, with the estimate (sampling error alone) that it rests on.

    ``decisive``: whether the interval decided. ``significant``: whether a value above the bound differs
    significantly from no change.
    """

    sampled: Estimate
    holds: bool
    decisive: bool
    significant: bool


@dataclass(frozen=True)
class Criterion:
    """One bound: the mean per token of a metric, less that of ``against``, is at most ``bound``.

    ``name`` is the check's. ``metric`` is ``nll`` (nats), ``kld`` (nats) or ``disagreement`` (share of
    tokens whose most likely next token is another). ``against`` holds window sums to pair with, and may
    cover fewer windows than were measured; ``ends`` says that there will never be more. ``spread`` is the
    half-width, at the run's confidence, of an error that no number of windows reduces. ``unchanged`` is the
    mean of an unchanged recipe, where there is one: a value that does not differ significantly from it
    breaks no bound.
    """

    name: str
    metric: str
    bound: float
    against: tuple[float, ...] | None = None
    ends: bool = False
    spread: float = 0.0
    unchanged: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form, which is sent to the worker."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Criterion:
        """Return the criterion that :meth:`to_dict` wrote."""
        return cls(**{**plain, "against": None if plain["against"] is None else tuple(plain["against"])})

    def sampled(self, windows: Windows, rule: Rule) -> Estimate:
        """Return the estimate over the windows that both sides have, with the sampling error alone."""
        sums: Sequence[float] = getattr(windows, self.metric)
        if self.against is not None:
            sums = [one - other for one, other in zip(sums, self.against, strict=False)]
        found = estimate(sums, windows.tokens[: len(sums)], rule, windows.units)
        if self.against is None and not found.error:
            # Equal differences come from the same model run twice, but equal divergences may hide rare ones.
            return replace(found, low=-math.inf, high=math.inf)
        return found

    def answer(self, windows: Windows, rule: Rule) -> Answer:
        """Decide by the interval where it is decisive, else by the point estimate.

        A point estimate above the bound breaks it only if it also differs significantly, at this one
        look, from no change: so no more than a share ``rule.alpha`` of unchanged recipes ever fails.
        Where there are too few windows for an interval of finite width, the point estimate alone decides.
        """
        sampled = self.sampled(windows, rule)
        decided = sampled.widened(self.spread).decides(self.bound)
        if decided is not None:
            return Answer(sampled, decided, True, True)
        if sampled.value <= self.bound or self.unchanged is None:
            return Answer(sampled, sampled.value <= self.bound, False, True)
        once = self._at_one_look(windows, rule)
        significant = once.low > self.unchanged or math.isinf(once.half_width)
        return Answer(sampled, not significant, False, significant)

    def is_improvement(self, windows: Windows, rule: Rule) -> bool:
        """Return whether the mean is significantly, and as far as the bound is above, below ``unchanged``."""
        once, unchanged = self._at_one_look(windows, rule), self.unchanged or 0.0
        below = once.value < 2 * unchanged - self.bound
        return below and (once.high < unchanged or math.isinf(once.half_width))

    def _at_one_look(self, windows: Windows, rule: Rule) -> Estimate:
        return self.sampled(windows, Rule(rule.alpha, fixed=True)).widened(self.spread)

    def is_decided(self, windows: Windows, rule: Rule) -> bool | None:
        """Return True or False where the interval decides; None where more windows may decide.

        Also True where more windows cannot help: the spread outweighs the sampling error, or ``against``
        ends here.
        """
        sampled = self.sampled(windows, rule)
        decided = sampled.widened(self.spread).decides(self.bound)
        if decided is not None:
            return decided
        within = sampled.decides(self.bound)
        if within is not None and self.spread > _DWARFED * sampled.half_width:
            return True
        exhausted = self.ends and sampled.windows == len(self.against or ())
        return True if exhausted else None


def first_decisive_look(
    criteria: Sequence[Criterion],
    windows: Windows,
    planned: int,
    rule: Rule,
    whole: bool = False,
    start: int = 0,
) -> int | None:
    """Return the first look, of a plan of ``planned`` windows, that decides all criteria or breaks one.

    ``whole``: the whole plan is wanted, and only a broken criterion ends it early. Looks at fewer than
    ``start`` windows, or at more than were measured, are skipped. A token with a non-finite figure decides
    at once. None where no look decides, or where the rule allows only one look: at the end.
    """
    if rule.fixed or not criteria:
        return None
    for count in looks(planned):
        if count > len(windows.tokens):
            break
        if count < start:
            continue
        prefix = windows.prefix(count)
        if prefix.nonfinite:
            return count
        answers = [criterion.is_decided(prefix, rule) for criterion in criteria]
        if False in answers or (None not in answers and not whole):
            return count
    return None


def limit_of(planned: int, limit: int | None) -> int:
    """Return how many windows of a plan to measure: all of them (None), so many, or a first section (0).

    The first section is what a clear verdict takes: up to the last look within a quarter, or the first look.
    """
    if limit == FIRST_SECTION:
        grid = looks(planned)
        return max((count for count in grid if 4 * count <= planned), default=grid[0])
    return planned if limit is None else min(planned, limit)
