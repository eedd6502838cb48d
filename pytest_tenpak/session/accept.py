"""Accept an outcome of another machine: decided again, against the baselines that are here now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..baselines.entry import Baseline, Entry
from ..gate.outcome import Outcome, Part
from ..metrics.intervals import Rule
from ..store.store import Store
from ..verdict.against_baseline import against_baseline
from ..verdict.audit import audit_checks
from ..verdict.checks import Check, Status, Verdict
from ..verdict.compare import are_paired
from ..verdict.comparison import Comparison
from ..verdict.update import Note, Request, decide
from .write_baseline import baseline_path, write_baseline


@dataclass(frozen=True)
class Acceptance:
    """What became of one outcome: ``written``, ``kept`` or ``refused``, and why.

    ``note`` is the decision of the update rule, where it made one; else ``why`` has the reason in words.
    """

    what: str
    why: str = ""
    note: Note | None = None

    @property
    def is_refusal(self) -> bool:
        """Whether it was requested, and not done."""
        return self.what == _REFUSED


_WRITTEN, _KEPT, _REFUSED = "written", "kept", "refused"


def accept(outcome: Outcome, request: Request, folder: Path, store: Store, rule: Rule) -> Acceptance:
    """Write an outcome's baselines if the update rule allows it; returns what was done, and why.

    Checks of limits and sanity stay as the run decided them; those against the baseline are decided again,
    against the entries that are in ``folder`` now.
    """
    if outcome.skipped:
        return Acceptance(_KEPT, "it was skipped")
    if not outcome.parts or outcome.status is Status.ERROR:
        return Acceptance(_REFUSED, "it could not be measured")
    if not outcome.body_passed:
        return Acceptance(_REFUSED, "the test's own body failed: fix that first")
    found = [_read_entry(folder, part, outcome.device_class) for part in outcome.parts]
    entries = [None if entry_device else entry for entry, entry_device in found]
    verdict = _decided_again(outcome, found, rule)
    if verdict.status is Status.NEW and not request.takes("new"):
        return Acceptance(_KEPT, f"new, which --update={request.mode} does not take")
    candidates = [outcome.entry_of(part) for part in outcome.parts]
    changes = list(zip(entries, candidates, strict=True))
    update = decide(verdict, request, False, changes, outcome.case.tolerances)
    if not update.write:
        return _not_written(verdict, request, update.note)
    cut = next((part for part in outcome.parts if _is_cut_short(part)), None)
    if cut is not None and not request.fewer_windows:
        measured = f"{cut.measurement.windows.total_tokens:,} of {cut.measurement.budget:,} tokens"
        return Acceptance(
            _REFUSED,
            f"the run stopped early, after {measured}: run it with --tenpak-update=failing (in CI too) or "
            "--tenpak-fixed to measure them all, or accept fewer with --fewer-windows",
        )
    decided = replace(outcome, verdict=verdict, update=update)
    for part in outcome.parts:
        write_baseline(decided, part, folder, store)
    return Acceptance(_WRITTEN, note=update.note)


def _read_entry(folder: Path, part: Part, device_class: str) -> tuple[Entry | None, str]:
    """Return the entry to compare with, and its device class where that is not the outcome's own."""
    baseline = Baseline.read(baseline_path(folder, part.name))
    return baseline.entry_for(device_class) if baseline else (None, "")


def _decided_again(outcome: Outcome, found: list[tuple[Entry | None, str]], rule: Rule) -> Verdict:
    kept = [check for check in outcome.verdict.checks if not check.kind.is_cleared_by_update]
    several = len(outcome.parts) > 1
    for part, row in zip(outcome.parts, found, strict=True):
        comparison = _comparison(outcome, part, *row, rule)
        paired = are_paired(part.measurement, part.reference)
        checks = against_baseline(part.measurement, comparison, paired)
        kept += [replace(check, corpus=part.corpus) if several else check for check in checks]
    return Verdict((*kept, *_audit_checks(outcome, _comparison(outcome, outcome.parts[0], *found[0], rule))))


def _audit_checks(outcome: Outcome, comparison: Comparison) -> Iterator[Check]:
    """Yield the checks of the run's audit against the entry that is here now."""
    if outcome.audit:
        checks = audit_checks(
            outcome.audit, outcome.case.limits, outcome.case.tolerances, comparison.comparable
        )
        yield from (check for check in checks if check.kind.is_cleared_by_update)


def _comparison(
    outcome: Outcome, part: Part, entry: Entry | None, entry_device: str, rule: Rule
) -> Comparison:
    case, measurement = outcome.case, part.measurement
    return Comparison(
        case.limits,
        case.tolerances,
        measurement.identity,
        measurement.weights_digest,
        entry,
        entry_device,
        outcome.device_class,
        rule=rule,
        calibrated=part.noise,
    )


def _not_written(verdict: Verdict, request: Request, note: Note | None) -> Acceptance:
    """Why nothing is written: nothing to write, not requested, or not allowed."""
    if note:
        return Acceptance(_REFUSED, note=note)
    broken = ", ".join(check.name for check in verdict.failing if not check.kind.is_cleared_by_update)
    if broken:
        return Acceptance(_REFUSED, f"{broken} fails, and updating the baseline does not clear that")
    if verdict.status.failing:
        return Acceptance(_KEPT, f"{verdict.status}, which --update={request.mode} does not take")
    if verdict.status is Status.IMPROVED:
        return Acceptance(_KEPT, "improved: --update=improved takes it")
    return Acceptance(_KEPT, "it passes against the baseline here")


def _is_cut_short(part: Part) -> bool:
    return part.measurement.windows.total_tokens < part.measurement.budget
