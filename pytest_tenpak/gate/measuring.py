"""Measuring one case: windows are added to traces, by worker processes, until its verdict is clear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..evaluation.trace import Trace
from ..execution.process import run_job
from ..metrics.measurement import Layers, Ledger, Measurement, Provenance, Windows
from ..verdict.criteria import FIRST_STRETCH, Criterion, first_decisive_look, limit_of
from .experiment import Experiment, Subject

#: Scored tokens that the round-to-nearest floor is measured on at most: it is a yardstick for ruins.
_ROUNDED_TOKENS = 8192


@dataclass(frozen=True)
class SubjectTrace:
    """One subject with the windows that were measured of it; ``beside`` is the reference's."""

    experiment: Experiment
    subject: Subject
    budget: int
    beside: SubjectTrace | None = None

    @cached_property
    def trace(self) -> Trace:
        """The windows on disk."""
        made_from = self.experiment.made_from(self.subject)
        if self.is_reference:
            made_from["divergence"] = self.experiment.run.divergence
        if self.beside:
            made_from["beside"] = self.beside.trace.folder.name
        return Trace(self.experiment.run.store.growing("traces", made_from))

    @property
    def is_reference(self) -> bool:
        """Whether others are compared with it."""
        return self.subject.what == "reference"

    @property
    def windows(self) -> Windows:
        """What was measured so far, within the budget."""
        return self.trace.windows(self.budget)

    def extend(self, limit: int | None, criteria: Sequence[Criterion] = (), whole: bool = True) -> None:
        """Measure on, in a fresh process, up to a limit as :func:`limit_of` understands it.

        Or until the criteria are settled; with ``whole``, only until one is broken. Nothing is measured
        twice, and nothing at all where enough is there.
        """
        run, trace = self.experiment.run, self.trace
        with run.store.lock(f"extend-{trace.folder.name}"):
            if self._is_enough(limit, criteria, whole):
                return
            payload = {
                **self.experiment.payload(self.subject),
                "trace": str(trace.folder),
                "reference": str(self.beside.trace.folder) if self.beside else None,
                "keep": self.is_reference,
                "divergence": run.divergence,
                "budget": self.budget,
                "limit": limit,
                "criteria": [criterion.to_dict() for criterion in criteria],
                "rule": list(run.rule),
                "whole": whole,
            }
            self._run(payload)
        run.store.tidy()

    def _is_enough(self, limit: int | None, criteria: Sequence[Criterion], whole: bool) -> bool:
        if self.trace.plan is None:
            return False
        planned = self.trace.planned(self.budget)
        if self.trace.count >= limit_of(planned, limit):
            return True
        if self.beside and self.beside.trace.stream != self.trace.stream:
            return self.trace.count > 0
        return (
            first_decisive_look(criteria, self.windows, planned, self.experiment.run.rule, whole) is not None
        )

    def _run(self, payload: dict[str, Any]) -> None:
        run, quantizer, spec = self.experiment.run, self.subject.quantizer, self.experiment.case.spec
        python = run.interpreters.python(quantizer.backend(spec).name) if quantizer else None
        title = f"measuring the {self.subject.what}" + (f", {spec.title}" if quantizer else "")
        with run.narrate(title) as progress:
            run_job(run.store, "measure", payload, progress, run.bounds, python)

    def measurement(self, count: int) -> Measurement:
        """The first ``count`` windows, with everything else that is known of the subject."""
        subject, trace, experiment = self.subject, self.trace, self.experiment
        facts = trace.facts
        made = {"quantizer threads": str(subject.facts["threads"])} if "threads" in subject.facts else {}
        windows = self.windows.prefix(count)
        robust, divergence = (None, None) if windows.nonfinite else trace.summary(windows)
        weights = experiment.weights(subject)
        return Measurement(
            windows=windows,
            ledger=Ledger(**weights["ledger"]),
            identity=experiment.identity(subject),
            weights_digest=weights["digest"],
            provenance=Provenance(experiment.versions(subject), {**facts["device"], **made}),
            loader=facts["loader"],
            budget=trace.tokens(trace.planned(self.budget)),
            robust=robust,
            divergence=divergence,
            layers=Layers.from_dict(facts["layers"]),
        )


def start_reference(experiment: Experiment, whole: bool) -> SubjectTrace:
    """The reference with its first windows measured: all where the whole budget is wanted at one look."""
    reference = SubjectTrace(
        experiment, Subject("reference", experiment.model.path), experiment.case.max_tokens
    )
    reference.extend(None if whole or experiment.run.rule.fixed else FIRST_STRETCH)
    return reference


def measure_pair(
    reference: SubjectTrace,
    subject: Subject,
    criteria_against: Callable[[Windows], Sequence[Criterion]],
    whole: bool,
) -> tuple[Measurement, Measurement]:
    """Measure ``subject`` beside the reference, until its criteria are settled or the budget is spent.

    ``criteria_against(windows)`` gives the criteria, paired with the reference's windows so far. What is
    clear takes a quarter of the budget, of the reference too; ``whole`` spends all of it unless a criterion
    is broken.
    """
    experiment = reference.experiment
    traced = SubjectTrace(experiment, subject, reference.budget, beside=reference)
    planned = reference.trace.planned(reference.budget)
    while True:
        ours = reference.windows
        criteria = criteria_against(ours)
        traced.extend(len(ours.tokens), criteria, whole)
        if traced.trace.stream != reference.trace.stream:
            count = min(len(traced.windows.tokens), len(ours.tokens))
            break
        settled = first_decisive_look(criteria, traced.windows, planned, experiment.run.rule, whole)
        if settled or len(ours.tokens) == planned:
            count = settled or planned
            break
        reference.extend(None)
    return traced.measurement(count), reference.measurement(count)


def measure_rounded(experiment: Experiment, checkpoint: Path, count: int) -> Measurement | None:
    """The floor: round-to-nearest on at most ``count`` windows and 8,192 tokens; None: nothing to round."""
    subject = experiment.rounded(checkpoint)
    if subject is None:
        return None
    traced = SubjectTrace(
        experiment, subject, min(experiment.case.max_tokens or _ROUNDED_TOKENS, _ROUNDED_TOKENS)
    )
    traced.extend(count)
    return traced.measurement(min(count, traced.trace.planned(traced.budget)))
