"""The search behind ``tenpak recommend``: recipes are quantized and measured until it is clear which to take.

What was done is in the store: a search that was interrupted goes on from there, and a repeated one measures
nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ..baselines.entry import Figures
from ..errors import TenpakError
from ..gate.inputs import measure_overlap, refuse_incomplete, set_up
from ..gate.measuring import SubjectTrace, Target, reference_of, refuse_guessing, start_reference
from ..gate.room import require_disk
from ..gate.run import Run
from ..metrics.intervals import Estimate
from ..metrics.measurement import HEADLINE
from ..verdict.advice import Advice, Near, Place, Row
from ..verdict.frontier import Contender, Out, Sieve, Why, pareto, sections
from .candidates import Question, find_candidates
from .trials import Pace, Trial

#: A bound that would be met is given in steps of so much.
_STEP = 0.01


class Watch(NamedTuple):
    """Who is told of progress: ``stage(title, seconds left; 0: not known)``, and ``found(row)`` after."""

    stage: Callable[[str, float], None]
    found: Callable[[Row], None]


def recommend(question: Question, run: Run, watch: Watch, max_seconds: float = 0.0) -> Advice:
    """Find the recipe to take; ``max_seconds`` bounds what is begun (0: no limit).

    Raises TenpakError for a model or text that cannot be used, and where no recipe can run here. A candidate
    that fails is a row of the answer.
    """
    search = Search.begin(question, run, watch, max_seconds)
    search.explore()
    picked = search.settle()
    near = [] if picked else search.nearest()
    return search.advice(picked, near)


@dataclass
class Search:
    """The state of one search."""

    question: Question
    run: Run
    watch: Watch
    max_seconds: float
    started: float
    reference: SubjectTrace
    trials: list[Trial]
    base: Advice
    pace: Pace = field(default_factory=Pace)
    is_late: bool = False

    @classmethod
    def begin(cls, question: Question, run: Run, watch: Watch, max_seconds: float) -> Search:
        """Check everything that can be checked, and measure the unquantized model's first windows."""
        started = time.monotonic()
        case = question.case({"checkpoint": "."}, run.registry)
        (experiment, *_) = set_up(case, run, run.choose_device())
        candidates, left_out = find_candidates(question, experiment)
        for candidate in candidates:
            measure_overlap(candidate.experiment)
        watch.stage("measuring the unquantized model", 0.0)
        begun = time.monotonic()
        require_disk([reference_of(experiment)])
        reference = start_reference(experiment, whole=False)
        refuse_guessing([reference])
        limits = case.limits
        base = Advice(
            model=case.model or "",
            corpus=experiment.corpus.name,
            device=experiment.device.device_class,
            dtype=experiment.dtype,
            max_ppl_delta=limits.max_ppl_delta,
            min_compression=limits.min_compression.get(HEADLINE),
            rows=(),
            left_out=tuple(left_out),
            pick="",
            near=(),
            alpha=run.rule.alpha,
            seconds=0.0,
        )
        trials = [Trial(candidate) for candidate in candidates]
        search = cls(question, run, watch, max_seconds, started, reference, trials, base)
        search._learn(reference.windows.total_tokens, begun)
        return search

    # ------------------------------------------------------------ state

    @property
    def planned(self) -> int:
        """The windows of the whole budget."""
        return self.reference.trace.planned(self.reference.budget)

    @property
    def sieve(self) -> Sieve:
        """What candidates are held against, with the unquantized model's windows so far."""
        limits = self.reference.experiment.case.limits
        return Sieve(limits, self.reference.windows, self.planned, self.run.rule)

    @property
    def contenders(self) -> list[Contender]:
        """The candidates that have a checkpoint, and can be used."""
        return [one for trial in self.trials if (one := trial.contender)]

    def _learn(self, tokens: int, begun: float) -> None:
        """Note how long tokens took; what the cache had is no measure."""
        seconds = time.monotonic() - begun
        if seconds > 1:
            self.pace.tokens += tokens
            self.pace.seconds += seconds

    def _would_be_late(self, seconds: float) -> bool:
        spent = time.monotonic() - self.started
        return bool(self.max_seconds) and spent + seconds > self.max_seconds

    def _leave(self, trial: Trial, work: str, expected: float) -> None:
        """Begin nothing more with a candidate; what was measured of it counts."""
        self.is_late = True
        if not trial.windows.tokens:
            trial.is_late = True
            trial.problem = f"{work} may take {expected:,.0f} s, past the limit of {self.max_seconds:g} s"

    def left(self) -> float:
        """Return the seconds that everything may take that is not out yet: more than it will take."""
        out, total = self.sieve.out(self.contenders), self.reference.trace.tokens(self.planned)
        seconds = 0.0
        for trial in self.trials:
            if trial.problem or trial.name in out:
                continue
            if trial.compression is None and not self._is_quantized(trial):
                seconds += self.pace.of_quantizing(trial.candidate)
            seconds += self.pace.of_measuring(total - trial.windows.total_tokens)
        return seconds

    @staticmethod
    def _is_quantized(trial: Trial) -> bool:
        return trial.candidate.experiment.is_quantized(trial.candidate.quantizer)

    # ------------------------------------------------------------ work

    def explore(self) -> None:
        """Quantize the candidates, cheapest first, and measure each as far as it takes to know its place."""
        for cost in sorted({trial.candidate.cost for trial in self.trials}):
            for trial in (one for one in self.trials if one.candidate.cost == cost):
                self._quantize(trial)
                if trial.contender and trial.name not in self.sieve.out(self.contenders):
                    self._measure(trial, sections(self.planned, self.run.rule)[0])
                if trial.compression is not None or trial.problem:
                    self.watch.found(self.row(trial))
            self._refine()

    def _quantize(self, trial: Trial) -> None:
        candidate = trial.candidate
        experiment = candidate.experiment
        if not self._is_quantized(trial):
            expected = self.pace.of_quantizing(candidate)
            if self._would_be_late(expected):
                self._leave(trial, "quantizing", expected)
                return
            self.watch.stage(f"quantizing to {trial.name}", self.left())
        try:
            subject = experiment.quantize(candidate.quantizer)
            refuse_incomplete(experiment, subject, self.reference.unread)
            contents = experiment.contents(subject, self.reference.unread)
        except (TenpakError, OSError) as error:
            trial.fail(error)
            return
        trial.trace = trial.reference.of_checkpoint(subject)
        trial.compression = contents.ledger.ratios[HEADLINE]
        trial.seconds = float(subject.facts.get("seconds", 0.0))
        self.pace.quantizing[candidate.quantizer.method] = trial.seconds

    def _measure(self, trial: Trial, limit: int) -> None:
        """Measure up to so many windows, or until the perplexity is clearly above the bound."""
        assert trial.trace is not None
        before = trial.windows
        if len(before.tokens) < limit:
            further = self.reference.trace.tokens(limit) - before.total_tokens
            expected = self.pace.of_measuring(further)
            if self._would_be_late(expected):
                self._leave(trial, "measuring", expected)
                return
            self.watch.stage(f"measuring {trial.name}", self.left())
        begun = time.monotonic()
        try:
            self.reference.extend(Target(limit))
            trial.trace.extend(Target(limit, [self.sieve.bound()], whole=True))
        except (TenpakError, OSError) as error:
            trial.fail(error)
            return
        self._learn(trial.windows.total_tokens - before.total_tokens, begun)
        if trial.windows.stream != self.reference.windows.stream:
            trial.problem = "its tokenizer splits the text otherwise than the model's"

    def _refine(self) -> None:
        """Measure more of those candidates of which more may change the answer."""
        for limit in sections(self.planned, self.run.rule):
            for trial in self.trials:
                wanted = trial.name in self.sieve.unsettled(self.contenders)
                before = len(trial.windows.tokens)
                if wanted and before < limit:
                    self._measure(trial, limit)
                    if trial.problem or len(trial.windows.tokens) > before:
                        self.watch.found(self.row(trial))

    def settle(self) -> Trial | None:
        """Return the candidate to take: the first one that the gate has nothing else against."""
        while picked := self.sieve.pick(self.contenders):
            trial = next(one for one in self.trials if one.name == picked.name)
            self.watch.stage(f"checking {trial.name} as a gate would", self.left())
            trial.problem = trial.objection()
            if not trial.problem:
                return trial
            self.watch.found(self.row(trial))
            self._refine()
        return None

    # ------------------------------------------------------------ answers

    def nearest(self) -> list[Near]:
        """Return which recipes come nearest, and what bound each would meet, where none meets the bounds."""
        sieve, first = self.sieve, sections(self.planned, self.run.rule)[0]
        small = sorted(
            (one for one in self.trials if one.contender and (one.compression or 0) < sieve.min_compression),
            key=lambda one: -(one.compression or 0),
        )
        for trial in small:
            if not trial.windows.tokens:
                self._measure(trial, first)
                self.watch.found(self.row(trial))
            if trial.contender and self._is_within(trial.contender):
                break  # the others are farther away
        return list(filter(None, (self._near_in_perplexity(), self._near_in_compression())))

    def _near_in_perplexity(self) -> Near | None:
        sieve = self.sieve
        fine = [
            (delta.value, one.name)
            for one in self.contenders
            if one.compression >= sieve.min_compression and (delta := self._delta(one)) is not None
        ]
        if not fine or not math.isfinite(min(fine)[0]):
            return None
        value, name = min(fine)
        return Near(name, "max_ppl_delta", round(math.ceil(value / _STEP) * _STEP, 2))

    def _near_in_compression(self) -> Near | None:
        fine = [
            (one.compression, one.name)
            for one in self.contenders
            if one.compression < self.sieve.min_compression and self._is_within(one)
        ]
        if not fine:
            return None
        value, name = max(fine)
        return Near(name, "min_compression", round(math.floor(value / _STEP) * _STEP, 2))

    def _is_within(self, one: Contender) -> bool:
        """Whether its perplexity is within the bound, whatever its compression."""
        return one.has_figure and self.sieve.bound().answer(one.windows, self.run.rule).holds

    def _delta(self, one: Contender) -> Estimate | None:
        """The difference of perplexity from the unquantized model's, relative; None without a figure."""
        if not one.has_figure:
            return None
        return self.sieve.bound().sampled(one.windows, self.run.rule).relative()

    def row(self, trial: Trial, frontier: Sequence[str] = ()) -> Row:
        """Return what is known of a candidate."""
        contenders, sieve = self.contenders, self.sieve
        contender = trial.contender
        out = sieve.out(contenders).get(trial.name)
        measured = contender is not None and bool(contender.windows.tokens)
        delta = self._delta(contender) if contender else None
        return Row(
            name=trial.name,
            marker={**trial.candidate.given, **self._bounds},
            place=_place(trial, out, frontier),
            compression=trial.compression,
            figures=self._figures(trial) if measured else None,
            delta=delta,
            tokens=trial.windows.total_tokens,
            budget=self.reference.trace.tokens(self.planned),
            seconds=trial.seconds,
            out=out,
            problem=trial.problem,
            details=trial.details,
            meets=bool(measured and contender and out is None and sieve.meets(contender)),
            surely=bool(delta and sieve.bound().is_decided(trial.windows, self.run.rule)),
        )

    def _figures(self, trial: Trial) -> Figures:
        assert trial.trace is not None
        count = len(trial.windows.tokens)
        return Figures.of(trial.trace.measurement(count), self.reference.measurement(count))

    @property
    def _bounds(self) -> dict[str, float]:
        """The bounds as arguments of a marker."""
        bounds = {"max_ppl_delta": self.base.max_ppl_delta, "min_compression": self.base.min_compression}
        return {name: value for name, value in bounds.items() if value is not None}

    def advice(self, picked: Trial | None, near: Sequence[Near]) -> Advice:
        """Return the answer."""
        frontier = self._frontier()
        return replace(
            self.base,
            rows=tuple(self.row(trial, frontier) for trial in self.trials),
            pick=picked.name if picked else "",
            near=tuple(near),
            seconds=time.monotonic() - self.started,
            late=self.is_late,
        )

    def _frontier(self) -> list[str]:
        """The candidates that no other beats, by their figures so far."""
        out = self.sieve.out(self.contenders)
        gone = (Why.DOMINATED, Why.NOT_FINITE)
        found = [
            (one.name, -one.compression, delta.value)
            for one in self.contenders
            if (delta := self._delta(one)) and not (one.name in out and out[one.name].why in gone)
        ]
        best = pareto([(x, y) for _, x, y in found])
        return [name for n, (name, _, _) in enumerate(found) if n in best]


def _place(trial: Trial, out: Out | None, frontier: Sequence[str]) -> Place:
    if trial.problem:
        return Place.NOT_RUN if trial.is_late else Place.FAILED
    if trial.name in frontier:
        return Place.FRONTIER
    if out is None and trial.windows.tokens:
        return Place.BEATEN
    return Place.OUT if out else Place.NOT_RUN
