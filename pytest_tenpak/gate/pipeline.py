"""The whole flow of one case: model → checkpoint → measurement ↔ reference, baseline → verdict → outcome."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..baselines.entry import Baseline, Entry
from ..errors import InvalidError, TenpakError, UnavailableError, file_error
from ..machines.device import Device
from ..metrics.audit import Audit
from ..metrics.measurement import Measurement, Noise
from ..quantizers.base import Quantizer
from ..store.use import counting
from ..verdict.audit import audit_checks
from ..verdict.checks import Check, Status, Verdict
from ..verdict.compare import resolution
from ..verdict.comparison import Comparison
from ..verdict.speed import speed_checks
from ..verdict.update import decide
from .auditing import start_audit
from .blaming import find_culprits
from .case import Case
from .experiment import Subject
from .inputs import find_source, measure_overlap, refuse_incomplete, set_up
from .judging import comparison_of, judge
from .measuring import SubjectTrace, measure_pair, reference_of, refuse_guessing, start_reference
from .noise import calibrate
from .outcome import Outcome, Part
from .room import require_disk, require_place
from .run import Run
from .timing import time_checkpoint, weigh_checkpoint


def evaluate(case: Case, run: Run, find_model: Callable[[], str | None]) -> Outcome:
    """Evaluate one case; an error that a user can fix is returned as an outcome of status ``error``.

    ``find_model`` returns the model where the case names none.
    """
    path = run.baselines / f"{case.name}.json"
    shown = str(path.relative_to(run.root)) if path.is_relative_to(run.root) else str(path)
    with counting() as tally:
        try:
            case = case if case.model is not None else replace(case, model=find_model())
            outcome = _evaluate(case, run)
        except TenpakError as error:
            outcome = _not_measured(case, run, error.asked_by(case.nodeid))
        except OSError as fault:
            outcome = _not_measured(case, run, file_error(fault).asked_by(case.nodeid))
    remote = run.store.remote
    return replace(outcome, baseline=shown, store=remote.use_of(tally) if remote else None)


def _evaluate(case: Case, run: Run) -> Outcome:
    device = run.choose_device()
    accepted = [_Accepted.find(case, corpus, run, device) for corpus in case.corpus]
    experiments = set_up(case, run, device)
    source = find_source(experiments[0])
    for experiment in experiments:
        measure_overlap(experiment)
    whole = _wants_whole_budget(case, run, accepted)
    # References come first: an unusable corpus is found before hours of quantizing.
    require_place(experiments[0], source)
    require_disk([reference_of(experiment) for experiment in experiments])
    references = [start_reference(experiment, whole) for experiment in experiments]
    refuse_guessing(references)
    subject = experiments[0].quantize(source) if isinstance(source, Quantizer) else source
    refuse_incomplete(experiments[0], subject, references[0].unread)
    comparisons = [
        comparison_of(reference.experiment, subject, one.entry, one.entry_device)
        for reference, one in zip(references, accepted, strict=True)
    ]
    with start_audit(experiments[0], subject, references[0].unread) as started:
        answers = [_answer(*row, subject, whole) for row in zip(references, comparisons, strict=True)]
        audit = started.finish(references[0], references[0].of_checkpoint(subject))
    entry = comparisons[0].comparable
    further = list(audit_checks(audit, case.limits, case.tolerances, entry)) if audit else []
    # After the audit, whose threads would slow what is timed.
    speed, memory = time_checkpoint(experiments[0], subject), weigh_checkpoint(experiments[0], subject)
    further += speed_checks(speed, memory, case.limits, run.rule)
    outcome = _outcome(case, run, device, subject, accepted, answers, audit, further)
    measurement, checks = answers[0][0].measurement, outcome.verdict.checks
    blame = find_culprits(references[0].of_checkpoint(subject), measurement, checks)
    return replace(outcome, blame=blame, speed=speed, memory=memory)


@dataclass(frozen=True)
class _Accepted:
    """The baseline entry of one corpus, and its device class where that is not the run's own."""

    entry: Entry | None
    entry_device: str = ""

    @classmethod
    def find(cls, case: Case, corpus: str, run: Run, device: Device) -> _Accepted:
        """Find the entry of the run's device class, or of the nearest class that it may be compared with."""
        baseline = Baseline.read(run.baselines / f"{case.baseline_name(corpus)}.json")
        if baseline is None:
            return cls(None)
        return cls(*baseline.entry_for(device.device_class, run.compare_across_devices))

    @property
    def own_entry(self) -> Entry | None:
        """The entry of the run's own device class."""
        return None if self.entry_device else self.entry


def _wants_whole_budget(case: Case, run: Run, accepted: Sequence[_Accepted]) -> bool:
    """Return whether to measure all windows, which a new or updated baseline should have."""
    mode = run.request_for(case.nodeid).mode
    creates = any(one.entry is None or (one.entry_device and mode) for one in accepted)
    return creates or run.noise_repetitions > 0 or mode not in (None, "new")


def _answer(
    reference: SubjectTrace, comparison: Comparison, subject: Subject, whole: bool
) -> tuple[Part, list[Check]]:
    """Measure on one corpus and decide; return the measurements and the checks."""
    experiment, entry = reference.experiment, comparison.entry
    case = experiment.case
    whole = whole or comparison.comparable is None
    # Where all windows are wanted, only a broken limit may end it early, since no update clears it.
    criteria = comparison.limit_criteria if whole else comparison.criteria
    measurement, measured_reference = measure_pair(reference, subject, criteria, whole)
    noise = _calibrated(reference, subject, measurement)
    calibrated = replace(comparison, calibrated=noise)
    verdict = judge(experiment, subject, measurement, measured_reference, calibrated)
    changes = tuple(entry.provenance.differences(measurement.provenance)) if entry else ()
    corpus = experiment.corpus
    part = Part(
        corpus.name,
        case.baseline_name(corpus.name),
        measurement,
        measured_reference,
        changes,
        noise,
        measure_overlap(experiment),
        corpus.nulls,
        corpus.part,
        resolution(measurement, measured_reference, comparison),
        comparison.comparable is not None and not comparison.same_weights,
        comparison.compared_device,
    )
    several = len(case.corpus) > 1
    return part, [replace(check, corpus=corpus.name) if several else check for check in verdict.checks]


def _calibrated(reference: SubjectTrace, subject: Subject, measurement: Measurement) -> Noise | None:
    """Calibrate the noise of the recipe, where that is requested and the figures are finite."""
    wanted = reference.experiment.run.noise_repetitions
    fine = math.isfinite(measurement.perplexity) and not measurement.layers.nonfinite
    if not (wanted and subject.quantizer and fine):
        return None
    return calibrate(reference, subject, measurement, wanted)


def _outcome(
    case: Case,
    run: Run,
    device: Device,
    subject: Subject,
    accepted: Sequence[_Accepted],
    answers: Sequence[tuple[Part, list[Check]]],
    audit: Audit | None,
    further: Sequence[Check],
) -> Outcome:
    """Make the outcome: the checks of all corpora together, and the decision about their baselines."""
    verdict = Verdict((*(check for _, checks in answers for check in checks), *further))
    parts = tuple(part for part, _ in answers)
    failed = verdict.status is Status.ERROR
    entries = [None if failed else part.entry(audit if part is parts[0] else None) for part in parts]
    changes = [(one.own_entry, entry) for one, entry in zip(accepted, entries, strict=True)]
    return Outcome(
        case=case,
        verdict=verdict,
        update=decide(verdict, run.request_for(case.nodeid), run.in_ci, changes, case.tolerances),
        device_class=device.device_class,
        checkpoint=str(subject.directory),
        parts=parts,
        quantizing=subject.facts,
        audit=audit,
    )


def _not_measured(case: Case, run: Run, error: TenpakError) -> Outcome:
    """Make an outcome without figures: never a pass, and a skip only where that is allowed."""
    may_skip = isinstance(error, UnavailableError) and (case.may_skip or run.skip_unavailable)
    status = Status.INVALID if isinstance(error, InvalidError) else Status.ERROR
    return Outcome.not_measured(case, status, error.problem, str(error), may_skip)
