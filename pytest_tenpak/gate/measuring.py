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
from ..verdict.criteria import FIRST_STRETCH, Goal, first_settled, limit_of
from .experiment import Bench, Subject

#: Scored tokens that the round-to-nearest floor is measured on at most: it is a yardstick for ruins.
_ROUNDED_TOKENS = 8192


@dataclass(frozen=True)
class Traced:
    """One subject with the windows that were measured of it; ``beside`` is the reference's."""

    bench: Bench
    subject: Subject
    budget: int
    beside: Traced | None = None

    @cached_property
    def trace(self) -> Trace:
        """The windows on disk."""
        made_from = self.bench.made_from(self.subject)
        if self.is_reference:
            made_from["divergence"] = self.bench.run.divergence
        if self.beside:
            made_from["beside"] = self.beside.trace.folder.name
        return Trace(self.bench.run.store.growing("traces", made_from))

    @property
    def is_reference(self) -> bool:
        """Whether others are compared with it."""
        return self.subject.what == "reference"

    @property
    def windows(self) -> Windows:
        """What was measured so far, within the budget."""
        return self.trace.windows(self.budget)

    def extend(self, limit: int | None, goals: Sequence[Goal] = (), whole: bool = True) -> None:
        """Measure on, in a fresh process, up to a limit as :func:`limit_of` understands it.

        Or until the goals are settled; with ``whole``, only until one is broken. Nothing is measured
        twice, and nothing at all where enough is there.
        """
        run, trace = self.bench.run, self.trace
        with run.store.lock(f"extend-{trace.folder.name}"):
            if self._is_enough(limit, goals, whole):
                return
            payload = {
                **self.bench.payload(self.subject),
                "trace": str(trace.folder),
                "reference": str(self.beside.trace.folder) if self.beside else None,
                "keep": self.is_reference,
                "divergence": run.divergence,
                "budget": self.budget,
                "limit": limit,
                "goals": [goal.to_dict() for goal in goals],
                "rule": list(run.rule),
                "whole": whole,
            }
            self._run(payload)
        run.store.tidy()

    def _is_enough(self, limit: int | None, goals: Sequence[Goal], whole: bool) -> bool:
        if self.trace.plan is None:
            return False
        planned = self.trace.planned(self.budget)
        if self.trace.count >= limit_of(planned, limit):
            return True
        if self.beside and self.beside.trace.stream != self.trace.stream:
            return self.trace.count > 0
        return first_settled(goals, self.windows, planned, self.bench.run.rule, whole) is not None

    def _run(self, payload: dict[str, Any]) -> None:
        run, quantizer, spec = self.bench.run, self.subject.quantizer, self.bench.case.spec
        python = run.interpreters.python(quantizer.backend(spec).name) if quantizer else None
        title = f"measuring the {self.subject.what}" + (f", {spec.title}" if quantizer else "")
        with run.narrate(title) as progress:
            run_job(run.store, "measure", payload, progress, run.bounds, python)

    def measurement(self, count: int) -> Measurement:
        """The first ``count`` windows, with everything else that is known of the subject."""
        subject, trace, bench = self.subject, self.trace, self.bench
        facts = trace.facts
        made = {"quantizer threads": str(subject.facts["threads"])} if "threads" in subject.facts else {}
        windows = self.windows.prefix(count)
        robust, divergence = (None, None) if windows.nonfinite else trace.summary(windows)
        weights = bench.weights(subject)
        return Measurement(
            windows=windows,
            ledger=Ledger(**weights["ledger"]),
            identity=bench.identity(subject),
            weights_digest=weights["digest"],
            provenance=Provenance(bench.versions(subject), {**facts["device"], **made}),
            loader=facts["loader"],
            budget=trace.tokens(trace.planned(self.budget)),
            robust=robust,
            divergence=divergence,
            layers=Layers.from_dict(facts["layers"]),
        )


def start_reference(bench: Bench, whole: bool) -> Traced:
    """The reference with its first windows measured: all where the whole budget is wanted at one look."""
    reference = Traced(bench, Subject("reference", bench.model.path), bench.case.max_tokens)
    reference.extend(None if whole or bench.run.rule.fixed else FIRST_STRETCH)
    return reference


def measure_pair(
    reference: Traced,
    subject: Subject,
    goals_against: Callable[[Windows], Sequence[Goal]],
    whole: bool,
) -> tuple[Measurement, Measurement]:
    """Measure ``subject`` beside the reference, until its goals are settled or the budget is spent.

    ``goals_against(windows)`` gives the goals, paired with the reference's windows so far. What is clear
    takes a quarter of the budget, of the reference too; ``whole`` spends all of it unless a goal is broken.
    """
    bench = reference.bench
    traced = Traced(bench, subject, reference.budget, beside=reference)
    planned = reference.trace.planned(reference.budget)
    while True:
        ours = reference.windows
        goals = goals_against(ours)
        traced.extend(len(ours.tokens), goals, whole)
        if traced.trace.stream != reference.trace.stream:
            count = min(len(traced.windows.tokens), len(ours.tokens))
            break
        settled = first_settled(goals, traced.windows, planned, bench.run.rule, whole)
        if settled or len(ours.tokens) == planned:
            count = settled or planned
            break
        reference.extend(None)
    return traced.measurement(count), reference.measurement(count)


def measure_rounded(bench: Bench, checkpoint: Path, count: int) -> Measurement | None:
    """The floor: round-to-nearest on at most ``count`` windows and 8,192 tokens; None: nothing to round."""
    subject = bench.rounded(checkpoint)
    if subject is None:
        return None
    traced = Traced(bench, subject, min(bench.case.max_tokens or _ROUNDED_TOKENS, _ROUNDED_TOKENS))
    traced.extend(count)
    return traced.measurement(min(count, traced.trace.planned(traced.budget)))
