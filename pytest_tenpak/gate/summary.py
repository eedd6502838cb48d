"""The summary of one run, or of several merged, as every reporter gets it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..baselines.history import Past
from ..metrics.intervals import DEFAULT_RULE, Rule
from .outcome import Outcome


@dataclass(frozen=True)
class Summary:
    """The outcomes of a run, and everything else that reports show.

    ``outcomes`` are in the order of their titles. ``expected`` holds the titles of all collected gates: the
    ids of their tests, with the shard where several that were merged differ about one. ``written`` are the
    baselines (as shown to the user) that the run wrote, ``unused`` those that no test uses, ``problems`` what
    went wrong outside the gates. ``trends`` has, by baseline name, what was accepted before, oldest first.
    ``rule`` is how decisions were made, None where merged shards differ in it.
    """

    outcomes: tuple[Outcome, ...]
    expected: tuple[str, ...]
    written: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    trends: Mapping[str, Sequence[Past]] = field(default_factory=dict)
    rule: Rule | None = DEFAULT_RULE

    @property
    def missing(self) -> tuple[str, ...]:
        """The titles of expected gates without an outcome."""
        titles = {outcome.title for outcome in self.outcomes}
        return tuple(title for title in self.expected if title not in titles)

    @property
    def ran_well(self) -> bool:
        """Whether all expected gates but skipped ones ran, at least one did, and no test of one failed."""
        ran = any(not outcome.skipped for outcome in self.outcomes)
        failed = any(outcome.fails for outcome in self.outcomes)
        return ran and not (failed or self.missing or self.problems)
