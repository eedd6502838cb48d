"""One run: the expected gates, their outcomes, and the baselines that it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..baselines.history import trends
from ..errors import TenpakError
from ..gate.case import Case
from ..gate.outcome import Outcome
from ..gate.pipeline import evaluate
from ..gate.run import Run
from ..gate.summary import Summary
from .ahead import Ahead
from .places import Places
from .renames import propose
from .write_baseline import write_baseline


class GateSession:
    """Evaluates cases where tests run, and collects outcomes where they are reported.

    Under xdist the workers evaluate and the controller collects, so that one process writes. ``unused`` are
    the baselines, as paths below the rootdir, that no test uses.
    """

    def __init__(self, run: Run, places: Places) -> None:
        self.run = run
        self._places = places
        self._ahead: Ahead | None = None
        #: The model of cases that name none, as far as is known before tests run.
        self._presumed: str | None = None
        self.expected: set[str] = set()
        self.outcomes: dict[str, Outcome] = {}
        self.written: list[str] = []
        self.unused: tuple[str, ...] = ()
        self._answers: dict[str, Outcome] = {}

    def answer(self, case: Case, find_model: Callable[[], str | None]) -> Outcome:
        """Return the case's outcome, evaluated once per run; ``find_model`` is for cases without a model.

        A rerun of a flaky test gets the same outcome, so a baseline that this run creates does not make it
        pass; only a case that could not be measured is tried again.
        """
        known = self._answers.get(case.nodeid)
        if known is None or known.problem:
            known = self._taken(case, find_model) or self._evaluate(case, self.run_of(case), find_model)
            if self.run.request.mode is None:
                known = propose(known, self.run.baselines, self.run.root, self.unused)
            self._answers[case.nodeid] = known
        return known

    def start(self, cases: Sequence[Case], model: str | None) -> None:
        """Evaluate cases before their tests ask, where several can be at once; ``model`` is of those without.

        Raises TenpakError where they can be nowhere.
        """
        self._places.open()
        # Repetitions of a test are one case.
        unique = {case.nodeid: case for case in cases}.values()
        known = [case for case in unique if case.model is not None or model is not None]
        count = self._places.count(len(known))
        if count < 2 or not known:
            return
        self._presumed = model
        self._ahead = Ahead(
            count, self._places.lane, lambda case, run: self._evaluate(case, run, lambda: model)
        )
        for case in known:
            self._ahead.submit(case)

    def run_of(self, case: Case) -> Run:
        """Return the run as a case's jobs outside its evaluation need it."""
        return self._places.run_of(case)

    def _taken(self, case: Case, find_model: Callable[[], str | None]) -> Outcome | None:
        """Return the outcome of a case that started before its test, unless that was for another model."""
        if self._ahead is None:
            return None
        found = self._ahead.take(case.nodeid, self._places.showing)
        try:
            same = case.model is not None or find_model() == self._presumed
        except TenpakError:
            same = False  # evaluating it says why
        return found if same else None

    @staticmethod
    def _evaluate(case: Case, run: Run, find_model: Callable[[], str | None]) -> Outcome:
        found = evaluate(case, run, find_model)
        lost = run.workers.lost
        return replace(found, retried=tuple(lost)) if lost else found

    def close(self) -> None:
        """End whatever still runs for this run."""
        if self._ahead is not None:
            self._ahead.close()
        self._places.close()

    def collect(self, outcome: Outcome, test_passed: bool) -> None:
        """Collect an outcome; write its baseline if the update rule and the test both allow it."""
        self.outcomes[outcome.case.nodeid] = outcome
        if outcome.baseline in self.written:
            return  # a repetition of the same test
        writes = test_passed and outcome.update.write
        failing = outcome.verdict.failing
        refused = bool(failing) and all(check.kind.is_about_tolerance for check in failing)
        for part in outcome.parts:
            # Noise that is above a tolerance is stored too, for the next run.
            if writes or (part.noise and (test_passed or refused)):
                write_baseline(outcome, part, self.run.baselines, self.run.store, writes)
        if writes:
            self.written.append(outcome.baseline)

    def summary(self, problems: Sequence[str] = (), with_trends: bool = False) -> Summary:
        """Return the run as reporters get it; ``problems`` are errors outside the gates.

        ``with_trends``: read from git what was accepted before for the baselines of this run.
        """
        names = {part.name for outcome in self.outcomes.values() for part in outcome.parts}
        return Summary(
            outcomes=tuple(self.outcomes[nodeid] for nodeid in sorted(self.outcomes)),
            expected=tuple(sorted(self.expected | self.outcomes.keys())),
            written=tuple(self.written),
            unused=self.unused,
            problems=tuple(problems),
            trends=trends(self.run.baselines, names) if with_trends else {},
            rule=self.run.rule,
        )
