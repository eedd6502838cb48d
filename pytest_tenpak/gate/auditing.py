"""The audit of one case: weights are compared in threads while processes measure, files after that."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from threading import Event
from typing import Any, NamedTuple

from ..diagnosis.contradictions import contradictions
from ..diagnosis.files import compare_files
from ..diagnosis.folding import moves_scales
from ..diagnosis.weights import audit_weights
from ..metrics.audit import AUDIT_VERSION, Audit, WeightAudit
from ..models.ledger import LEDGER_VERSION
from ..models.safetensors_files import read_tensors
from .experiment import Experiment, Subject
from .measuring import SubjectTrace

#: Weights that one core compares in a second, and that it runs a token through (two operations each).
_COMPARED, _RUN = 30e6, 5e10 / 2
#: An audit of weights may take so many seconds, or this share of what the case takes without it.
_SECONDS, _SHARE = 10.0, 0.1


@dataclass(frozen=True)
class StartedAudit:
    """An audit whose weights are being compared until the context ends, or are not: ``why`` says so."""

    experiment: Experiment
    subject: Subject
    weights: Future[tuple[WeightAudit, float]] | None
    why: str = ""
    stop: Event = field(default_factory=Event)

    def __enter__(self) -> StartedAudit:
        return self

    def __exit__(self, *fault: object) -> None:
        """Stop comparing, so that no interrupted run waits for it."""
        self.stop.set()

    def finish(self, reference: SubjectTrace, checkpoint: SubjectTrace) -> Audit | None:
        """Return what the audit found, once both were loaded; None where it is switched off."""
        if self.experiment.run.audit == "off":
            return None
        weights, seconds = self.weights.result() if self.weights else (None, 0.0)
        ours, theirs = checkpoint.shipped, reference.shipped
        files = compare_files(
            theirs.fields,
            ours.fields,
            tuple(contradictions(self.subject.directory, self.experiment.model.path)),
            complete=ours.reader == theirs.reader,
        )
        return Audit(files, weights, self.why, seconds)


class _Method(NamedTuple):
    """What the method of a checkpoint does to weights, as :func:`audit_weights` takes it."""

    folds: bool
    may_change: tuple[str, ...]
    unread: tuple[str, ...]
    compensates: bool

    @classmethod
    def of(cls, subject: Subject, unread: Collection[str]) -> _Method:
        """Return what the quantizer declares; of a checkpoint made elsewhere, what its format says."""
        quantizer, left_out = subject.quantizer, tuple(sorted(unread))
        if quantizer is None:
            return cls(moves_scales(subject.directory), (), left_out, False)
        return cls(quantizer.moves_scales, quantizer.may_change, left_out, quantizer.compensates)


def start_audit(experiment: Experiment, subject: Subject, unread: Collection[str]) -> StartedAudit:
    """Begin to compare the weights of ``subject`` with the model's, unless that is switched off or costly.

    ``unread`` are tensors of the model's files that its loader does not read.
    """
    mode = experiment.run.audit
    cost = _cost(experiment, subject) if mode == "auto" else ""
    if mode in ("off", "files") or cost:
        return StartedAudit(experiment, subject, None, cost)
    method, stop = _Method.of(subject, unread), Event()
    cache_key = {
        "checkpoint": experiment.files(subject.directory),
        "model": experiment.files(experiment.model.path),
        "versions": [AUDIT_VERSION, LEDGER_VERSION],
        "method": method._asdict(),
    }
    pool = ThreadPoolExecutor(1, thread_name_prefix="tenpak-audit")
    future = pool.submit(_compare_weights, experiment, subject, method, cache_key, stop)
    pool.shutdown(wait=False)
    return StartedAudit(experiment, subject, future, stop=stop)


def _compare_weights(
    experiment: Experiment, subject: Subject, method: _Method, cache_key: Mapping[str, Any], stop: Event
) -> tuple[WeightAudit, float]:
    """Compare weights, or take what is stored; also return how many seconds it took. Runs in a thread."""

    def proceed(*done: object) -> None:
        if stop.is_set():
            raise CancelledError(*done)

    def audit() -> dict[str, Any]:
        started = time.monotonic()
        directories = subject.directory, experiment.model.path
        found = audit_weights(
            *directories, **method._asdict(), threads=_threads(experiment), progress=proceed
        )
        return {"weights": found.to_dict(), "seconds": time.monotonic() - started}

    document = experiment.run.store.document("audits", cache_key, audit)
    return WeightAudit.from_dict(document["weights"]), document["seconds"]


def _threads(experiment: Experiment) -> int:
    """Return how many threads compare: all cores where a GPU measures, else half of them."""
    cores = os.cpu_count() or 1
    return cores if experiment.device.family != "cpu" else max(1, cores // 2)


def _cost(experiment: Experiment, subject: Subject) -> str:
    """Say why weights are not compared: they would take too large a part of the case. Empty where not."""
    weights = sum(prod(tensor.shape) for tensor in read_tensors(experiment.model.path).values())
    seconds = weights / _COMPARED / _threads(experiment)
    if seconds <= _SECONDS or experiment.device.family != "cpu":
        return ""
    tokens = experiment.case.max_tokens or sum(map(len, experiment.corpus.documents)) / 4
    measuring = 2 * tokens * weights / _RUN / (os.cpu_count() or 1)
    if seconds <= _SHARE * (measuring + float(subject.facts.get("seconds", 0))):
        return ""
    return f"weights were not compared, which would take about {seconds:.0f} s: --tenpak-audit=full does"
