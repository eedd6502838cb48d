"""Renamed tests: find the unused baseline that a test without a baseline could take over."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..baselines.entry import Baseline
from ..baselines.identity import identity_changes
from ..baselines.names import derived_name
from ..errors import BaselineError
from ..gate.outcome import Outcome
from ..verdict.checks import Status
from ..verdict.update import Decided, Note


def propose(outcome: Outcome, baselines: Path, root: Path, unused: Sequence[str]) -> Outcome:
    """Advise to move an unused baseline that matches a case without one.

    It passes or fails as before, but no baseline is created: history and anchor of the old one would be lost.
    ``unused`` are paths below ``root``.
    """
    case = outcome.case
    if outcome.status is not Status.NEW or (baselines / f"{case.name}.json").exists():
        return outcome
    same = [path for path in unused if _matches(root / path, outcome)]
    if not same:
        return outcome
    old = max(same, key=lambda path: difflib.SequenceMatcher(None, path, outcome.baseline).ratio())
    new = case.nodeid if derived_name(case.nodeid) == case.name else case.name
    note = Note(Decided.MISSING if outcome.passes else Decided.MISSING_IN_CI, move=(old, new))
    return replace(outcome, update=replace(outcome.update, write=False, note=note))


def _matches(path: Path, outcome: Outcome) -> bool:
    """Whether a baseline has an entry of this device class with the identity of the first measurement."""
    try:
        baseline = Baseline.read(path)
    except BaselineError:
        return False
    entry = baseline.entries.get(outcome.device_class) if baseline else None
    measured = outcome.measurement
    return (
        entry is not None and measured is not None and not identity_changes(entry.identity, measured.identity)
    )
