"""One run, or several merged, as every reporter sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..baseline import Figures
from ..outcome import Outcome


@dataclass(frozen=True)
class Past:
    """What a commit accepted for one baseline on one device class; ``date`` is ISO 8601."""

    commit: str
    date: str
    device_class: str
    figures: Figures


@dataclass(frozen=True)
class Summary:
    """What a run has to say when it ends.

    ``outcomes`` are in the order of their tests' ids, ``expected`` holds the ids of all gates that were
    collected. ``written`` are the baselines (as shown to the user) that the run wrote, ``stale`` the ones
    that no test answers to any more, ``problems`` what went wrong beside the gates. ``trends`` has, by
    baseline name, what was accepted before, oldest first.
    """

    outcomes: tuple[Outcome, ...]
    expected: tuple[str, ...]
    written: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    trends: Mapping[str, Sequence[Past]] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[str, ...]:
        """The ids of gates that were expected and of which nothing was heard."""
        heard = {outcome.case.nodeid for outcome in self.outcomes}
        return tuple(nodeid for nodeid in self.expected if nodeid not in heard)
