"""The whole flow of one case: model → checkpoint → measurement ↔ reference, baseline → verdict → outcome."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..baselines.entry import Baseline, Entry
from ..baselines.identity import question_changes, same_weights
from ..errors import (
    CheckpointError,
    CorpusError,
    ModelError,
    OverlapError,
    TenpakError,
    UnavailableError,
    file_error,
)
from ..evaluation.corpus import Corpus, load_corpus, overlap
from ..evaluation.protocol import Protocol
from ..execution.process import run_job
from ..metrics.measurement import Windows
from ..models.locate import locate_model
from ..models.model import Model, describe_model
from ..models.safetensors_files import read_tensors
from ..quantizers.base import Quantizer
from ..quantizers.interpreters import installed_versions
from ..quantizers.registry import loading_backend
from ..verdict.checks import Check, Status, Verdict
from ..verdict.compare import compare, criteria_of, needs_rounding
from ..verdict.criteria import Criterion
from ..verdict.update import decide
from .case import Case
from .device import Device
from .experiment import Experiment, Subject
from .measuring import SubjectTrace, measure_pair, measure_rounded, start_reference
from .noise import calibrate
from .outcome import Outcome, Part
from .run import Run

#: The share of passages that two texts may have in common by quoting each other.
_OVERLAP = 0.01


def evaluate(case: Case, run: Run, find: Callable[[], str | None]) -> Outcome:
    """Answer one case. What a user can mend comes back as an outcome of status ``error``, not raised.

    ``find`` names the model where the case does not.
    """
    path = run.baselines / f"{case.name}.json"
    shown = str(path.relative_to(run.root)) if path.is_relative_to(run.root) else str(path)
    try:
        case = case if case.model is not None else replace(case, model=find())
        return replace(_evaluate(case, run), baseline=shown)
    except TenpakError as error:
        return replace(_not_measured(case, run, error.asked_by(case.nodeid)), baseline=shown)
    except OSError as fault:
        return replace(_not_measured(case, run, file_error(fault).asked_by(case.nodeid)), baseline=shown)


def _evaluate(case: Case, run: Run) -> Outcome:
    device = run.choose_device()
    entries = [_read_entry(case, corpus, run, device) for corpus in case.corpus]
    request = run.request_for(case.nodeid)
    experiments = _set_up(case, run, device)
    source = _find_checkpoint(case, run) if case.checkpoint else _check_quantizer(experiments[0])
    for experiment in experiments:
        _refuse_overlap(experiment)
    # A first baseline, and an updated one, should hold all windows that the budget allows.
    creates = any(entry is None or (elsewhere and request.mode) for entry, elsewhere in entries)
    whole = creates or run.noise > 0 or request.mode not in (None, "new")
    # The references come first: a corpus that cannot be measured on is found before hours of quantizing.
    references = [start_reference(experiment, whole) for experiment in experiments]
    experiment = experiments[0]
    subject = experiment.quantize(source) if isinstance(source, Quantizer) else Subject("checkpoint", source)
    answers = [_answer(*row, subject, whole) for row in zip(references, entries, strict=True)]
    verdict = Verdict(tuple(check for _, checks in answers for check in checks))
    parts = tuple(part for part, _ in answers)
    failed = verdict.status is Status.ERROR
    changes = [
        (
            None if elsewhere else entry,
            None if failed else Entry.of(part.measurement, part.reference, part.noise),
        )
        for (entry, elsewhere), part in zip(entries, parts, strict=True)
    ]
    return Outcome(
        case=case,
        verdict=verdict,
        update=decide(verdict, request, run.in_ci, changes, case.tolerances),
        device_class=device.device_class,
        checkpoint=str(subject.directory),
        parts=parts,
        quantizing=subject.facts,
    )


def _set_up(case: Case, run: Run, device: Device) -> list[Experiment]:
    """One experiment for each corpus."""
    model = find_model(case.model, run)
    calibration = _load_calibration(case.calibration, case, run) if case.calibration else None
    protocol = Protocol.resolve(case.protocol, case.context, case.stride, model.maximum)
    return [
        Experiment(case, run, device, model, load_corpus(corpus, run.root), calibration, protocol)
        for corpus in case.corpus
    ]


def _read_entry(case: Case, corpus: str, run: Run, device: Device) -> tuple[Entry | None, str]:
    """The baseline entry to compare with, and its device class where that is not the run's own."""
    baseline = Baseline.read(run.baselines / f"{case.baseline_name(corpus)}.json")
    own = baseline.entries.get(device.device_class) if baseline else None
    if baseline is None or own or not run.compare_across_devices:
        return own, ""
    elsewhere, entry = baseline.nearest(device.device_class) or ("", None)
    return entry, elsewhere


def _answer(
    reference: SubjectTrace, held: tuple[Entry | None, str], subject: Subject, whole: bool
) -> tuple[Part, list[Check]]:
    """Measure on one corpus and decide: what was measured there, and its checks."""
    experiment, (entry, elsewhere) = reference.experiment, held
    case, run = experiment.case, experiment.run
    changed = entry and question_changes(entry, experiment.identity(subject), elsewhere)
    comparable = None if changed else entry
    same = comparable is not None and same_weights(experiment.weights(subject)["digest"], comparable)

    wants_all = whole or comparable is None

    def criteria(windows: Windows) -> list[Criterion]:
        # Where all windows are wanted, only a broken limit may end it early: no update settles that.
        old = None if wants_all else comparable
        return criteria_of(
            case.limits,
            case.tolerances,
            windows,
            old,
            same,
            run.rule,
            old.noise if old else None,
            elsewhere,
        )

    measurement, measured_reference = measure_pair(reference, subject, criteria, wants_all)
    noise = None
    fine = math.isfinite(measurement.perplexity) and not measurement.layers.nonfinite
    if run.noise and subject.quantizer and fine:
        noise = calibrate(reference, subject, measurement, run.noise)
    rounded = None
    if needs_rounding(measurement, measured_reference, case.limits):
        rounded = measure_rounded(experiment, subject.directory, len(measurement.windows.tokens))
    verdict = compare(
        measurement,
        measured_reference,
        entry,
        case.limits,
        case.tolerances,
        rounded,
        run.rule,
        noise,
        elsewhere,
    )
    changes = tuple(entry.provenance.differences(measurement.provenance)) if entry else ()
    corpus = experiment.corpus.name
    part = Part(corpus, case.baseline_name(corpus), measurement, measured_reference, changes, noise)
    several = len(case.corpus) > 1
    return part, [replace(check, corpus=corpus) if several else check for check in verdict.checks]


def _not_measured(case: Case, run: Run, error: TenpakError) -> Outcome:
    """An outcome without figures: never a pass, and a skip only where that was allowed."""
    may_skip = isinstance(error, UnavailableError) and (case.may_skip or run.skip_unavailable)
    status = Status.INVALID if isinstance(error, OverlapError) else Status.ERROR
    return Outcome.not_measured(case, status, error.problem, str(error), may_skip)


def find_model(reference: str | None, run: Run) -> Model:
    """The model under test on disk; a GGUF file is dequantized into the store once."""
    if reference is None:
        raise ModelError(
            "no model was named",
            accepted="model= in the marker, the fixture tenpak_model, --tenpak-model, or ini tenpak_model",
            remedy="for example: pytest --tenpak-model=path/to/model",
        )
    path = locate_model(reference, run.root)
    if path.is_dir():
        return describe_model(path, run.store)

    def convert(folder: Path) -> Mapping[str, Any]:
        with run.narrate(f"converting {path.name}") as progress:
            job = {"file": str(path), "out": str(folder)}
            return run_job(run.store, "convert", job, progress, run.bounds)

    versions = installed_versions("gguf")
    if "gguf" not in versions:
        raise UnavailableError(
            f"reading {path.name} needs the gguf library, which is not installed",
            remedy="pip install 'pytest-tenpak[gguf]'",
        )
    made_from = {"gguf": run.store.file_digest(path), "transformers": versions.get("transformers")}
    return describe_model(run.store.directory("models", made_from, convert).path, run.store, source=path)


def _load_calibration(reference: str, case: Case, run: Run) -> Corpus:
    """The calibration text, a corpus of its own; errors say that it was asked for as calibration."""
    try:
        return load_corpus(reference, run.root)
    except CorpusError as error:
        raise error.asked_by(f"{case.nodeid}, calibration={reference!r}") from None


def _find_checkpoint(case: Case, run: Run) -> Path:
    """The folder of a checkpoint that somebody else made, its files checked for wholeness."""
    folder = run.root / Path(case.checkpoint or "").expanduser()
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"there is no checkpoint {case.checkpoint!r}",
            given=f"{folder} has no config.json" if folder.is_dir() else f"{folder} does not exist",
            accepted="a directory that transformers can load, tokenizer included",
        )
    read_tensors(folder)
    backend = loading_backend(folder)
    if backend is not None:
        backend.require("checkpoint", installed_versions(*backend.requires))
    return folder


def _check_quantizer(experiment: Experiment) -> Quantizer:
    """The quantizer of the case's method, its libraries there and its spec fit for model and device."""
    spec = experiment.case.spec
    quantizer = experiment.run.registry[spec.method]
    backend = quantizer.backend(spec)
    interpreters = experiment.run.interpreters
    found = interpreters.versions(backend.name, *backend.requires)
    backend.require(spec.method, found, interpreters.python(backend.name))
    quantizer.check(spec, experiment.model, experiment.device.family, experiment.dtype)
    return quantizer


def _refuse_overlap(experiment: Experiment) -> None:
    """Refuse to calibrate on what will be measured; raises OverlapError."""
    texts, corpus = experiment.calibration, experiment.corpus
    if texts is None:
        return
    asked = {"calibration": texts.digest, "corpus": corpus.digest}
    share = experiment.run.store.document("overlaps", asked, lambda: {"share": overlap(texts, corpus)})[
        "share"
    ]
    if share > _OVERLAP:
        raise OverlapError(
            "the calibration text overlaps the corpus, which would flatter the figure",
            given=f"calibration={texts.name!r}, corpus={corpus.name!r}: {share:.0%} of the passages shared",
            accepted=f"at most {_OVERLAP:.0%}",
            remedy="calibrate on another text: a validation split, or other documents of the same kind",
        )
