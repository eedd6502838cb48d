"""What is asked of the windows, and whether those measured so far have answered it.

A verdict's bounds on means per token, as plain figures: the worker process that measures asks the same
functions as the verdict, so it stops where the answer is clear, and both agree where that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .measurement import Windows
from .statistics import Estimate, Rule, estimate, looks

#: As a limit of windows: as many as a clear verdict takes.
FIRST_STRETCH = 0
#: A spread between requantizations this many times the error of sampling cannot be measured away.
_DWARFED = 4


@dataclass(frozen=True)
class Goal:
    """One bound: the mean per token of a metric, less that of ``against``, is at most ``bound``.

    ``name`` is the check's. ``metric`` is ``nll`` (nats), ``kld`` (nats) or ``disagreement`` (share of
    tokens whose most likely next token is another). ``against`` holds window sums to pair with, and may
    cover fewer windows than were measured; ``ends`` says that there will never be more. ``spread`` is the
    half-width, at the run's confidence, of an error that no number of windows removes.
    """

    name: str
    metric: str
    bound: float
    against: tuple[float, ...] | None = None
    ends: bool = False
    spread: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain form: travels to the worker."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Goal:
        """The goal that :meth:`to_dict` wrote."""
        return cls(**{**plain, "against": None if plain["against"] is None else tuple(plain["against"])})

    def sampled(self, windows: Windows, rule: Rule) -> Estimate:
        """The estimate over the windows that both sides have, with the error of sampling alone."""
        sums: Sequence[float] = getattr(windows, self.metric)
        if self.against is not None:
            sums = [one - other for one, other in zip(sums, self.against, strict=False)]
        return estimate(sums, windows.tokens[: len(sums)], rule, windows.units)

    def is_settled(self, windows: Windows, rule: Rule) -> bool | None:
        """True or False where the interval decides; None where more windows may still tell.

        Also True where more windows cannot tell more: the spread outweighs the error of sampling, or
        ``against`` ends here.
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


def first_settled(
    goals: Sequence[Goal],
    windows: Windows,
    planned: int,
    rule: Rule,
    whole: bool = False,
    start: int = 0,
) -> int | None:
    """The first look, of a plan of ``planned`` windows, at which all goals are settled or one is broken.

    ``whole``: the whole plan is wanted, and only a broken goal ends it early. Looks at fewer than ``start``
    windows are left out, those at more than were measured cannot be asked. A token without a finite figure
    settles everything. None where no look settles it, or the rule allows one look only: at the end.
    """
    if rule.fixed or not goals:
        return None
    for count in looks(planned):
        if count > len(windows.tokens):
            break
        if count < start:
            continue
        prefix = windows.prefix(count)
        if prefix.nonfinite:
            return count
        answers = [goal.is_settled(prefix, rule) for goal in goals]
        if False in answers or (None not in answers and not whole):
            return count
    return None


def limit_of(planned: int, limit: int | None) -> int:
    """How many windows of a plan to measure: all of them (None), so many, or a first stretch (0).

    A first stretch is what a clear verdict takes: the last look within a quarter, or the first look.
    """
    if limit == FIRST_STRETCH:
        grid = looks(planned)
        return max((count for count in grid if 4 * count <= planned), default=grid[0])
    return planned if limit is None else min(planned, limit)
