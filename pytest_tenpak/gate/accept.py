"""Accepting an outcome of another machine: decided again, beside the baselines as they are here and now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..baselines.entry import Baseline, Entry
from ..metrics.intervals import Rule
from ..store.store import Store
from ..verdict.against_baseline import against_baseline
from ..verdict.checks import Check, Status, Verdict
from ..verdict.compare import are_paired
from ..verdict.comparison import Comparison
from ..verdict.update import Request, decide
from .outcome import Outcome, Part
from .write_baseline import baseline_path, keep

#: What the update rule tells a run to name, as ``tenpak accept`` calls it.
_OPTIONS = {
    '--tenpak-accept "reason"': '--reason "text"',
    "--tenpak-reanchor": "--reanchor",
    "or --tenpak-fixed": "or --tenpak-fixed; or take what there is with --fewer-windows",
}


@dataclass(frozen=True)
class Acceptance:
    """What became of one outcome, and why."""

    what: str
    why: str
    is_refusal: bool = False

    @classmethod
    def refused(cls, why: str) -> Acceptance:
        """Asked for, and not done."""
        return cls("refused", why, True)

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


def accept(outcome: Outcome, request: Request, folder: Path, store: Store, rule: Rule) -> Acceptance:
    """Write an outcome's baselines if the update rule allows it; tells what was done.

    Limits and sanity are as the run judged them; whether it got worse is asked of the entries that are in
    ``folder`` now.
    """
    if outcome.skipped:
        return Acceptance("kept", "it was skipped")
    if not outcome.parts or outcome.status is Status.ERROR:
        return Acceptance.refused("it could not be measured")
    if not outcome.body_passed:
        return Acceptance.refused("the test failed by itself, whatever the gate says: mend it first")
    entries = [_read_entry(folder, part, outcome.device_class) for part in outcome.parts]
    verdict = _decided_again(outcome, entries, rule)
    if verdict.status is Status.NEW and not request.takes("new"):
        return Acceptance("kept", f"new, which --update={request.mode} does not take")
    candidates = [Entry.of(part.measurement, part.reference, part.noise) for part in outcome.parts]
    changes = list(zip(entries, candidates, strict=True))
    update = decide(verdict, request, False, changes, outcome.case.tolerances)
    if not update.write:
        return _why_not(verdict, request, update.note)
    cut = next((part for part in outcome.parts if _is_cut_short(part)), None)
    if cut is not None and not request.fewer_windows:
        measured = f"{cut.measurement.windows.total_tokens:,} of {cut.measurement.budget:,} tokens"
        return Acceptance.refused(
            f"the run stopped early, after {measured}: run it with --tenpak-update=failing (in CI too) or "
            "--tenpak-fixed to measure them all, or take what there is with --fewer-windows"
        )
    decided = replace(outcome, verdict=verdict, update=update)
    for part in outcome.parts:
        keep(decided, part, folder, store)
    return Acceptance("written", update.note)


def _read_entry(folder: Path, part: Part, device_class: str) -> Entry | None:
    baseline = Baseline.read(baseline_path(folder, part.name))
    return baseline.entries.get(device_class) if baseline else None


def _decided_again(outcome: Outcome, entries: list[Entry | None], rule: Rule) -> Verdict:
    kept = [check for check in outcome.verdict.checks if not check.kind.is_settled_by_update]
    several = len(outcome.parts) > 1
    for part, entry in zip(outcome.parts, entries, strict=True):
        checks = _checks(outcome, part, entry, rule)
        kept += [replace(check, corpus=part.corpus) if several else check for check in checks]
    return Verdict(tuple(kept))


def _checks(outcome: Outcome, part: Part, entry: Entry | None, rule: Rule) -> Iterator[Check]:
    case, measurement = outcome.case, part.measurement
    comparison = Comparison(
        case.limits,
        case.tolerances,
        measurement.identity,
        measurement.weights_digest,
        entry,
        rule=rule,
        calibrated=part.noise,
    )
    return against_baseline(measurement, comparison, are_paired(measurement, part.reference))


def _why_not(verdict: Verdict, request: Request, note: str) -> Acceptance:
    """Why nothing is written: nothing to write, not asked for, or not allowed."""
    if note:
        for option, ours in _OPTIONS.items():
            note = note.replace(option, ours)
        return Acceptance.refused(note)
    broken = ", ".join(check.name for check in verdict.failing if not check.kind.is_settled_by_update)
    if broken:
        return Acceptance.refused(f"{broken} fails, and no baseline settles that")
    if verdict.status.failing:
        return Acceptance("kept", f"{verdict.status}, which --update={request.mode} does not take")
    if verdict.status is Status.IMPROVED:
        return Acceptance("kept", "improved: --update=improved takes it")
    return Acceptance("kept", "it passes beside the baseline that is here")


def _is_cut_short(part: Part) -> bool:
    return part.measurement.windows.total_tokens < part.measurement.budget
