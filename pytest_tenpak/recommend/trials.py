"""One candidate of ``tenpak recommend``: how far it has come, and what a gate would object to."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import TenpakError, file_error
from ..gate.auditing import start_audit
from ..gate.experiment import Subject
from ..gate.judging import comparison_of, judge
from ..gate.measuring import SubjectTrace
from ..metrics.measurement import Windows
from ..verdict.audit import audit_checks
from ..verdict.checks import Check
from ..verdict.frontier import Contender
from .candidates import STARTING, Candidate

_NOT_MEASURED = Windows((), (), (), "")


@dataclass
class Trial:
    """One candidate, and how far it has come."""

    candidate: Candidate
    trace: SubjectTrace | None = None
    compression: float | None = None
    seconds: float = 0.0
    problem: str = ""
    details: str = ""
    is_late: bool = False

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.candidate.name

    @property
    def reference(self) -> SubjectTrace:
        """The windows of the unquantized model, as this candidate's experiment finds them."""
        experiment = self.candidate.experiment
        model = Subject("reference", experiment.model.path)
        return SubjectTrace(experiment, model, experiment.case.max_tokens)

    @property
    def windows(self) -> Windows:
        """The windows so far."""
        measured = self.trace is not None and self.trace.trace.plan is not None
        return self.trace.windows if self.trace and measured else _NOT_MEASURED

    @property
    def contender(self) -> Contender | None:
        """What others are compared with; None without a checkpoint, or where that cannot be used."""
        if self.compression is None or self.problem:
            return None
        return Contender(self.name, self.compression, self.windows)

    def fail(self, error: TenpakError | OSError) -> None:
        """Note what went wrong: the others go on."""
        known = error if isinstance(error, TenpakError) else file_error(error)
        self.problem, self.details = known.problem.splitlines()[0], str(known)

    def objection(self) -> str:
        """Return what a gate of this recipe would fail for: audit, floor, damage; empty for nothing."""
        failing = [check for check in self._checks() if check.status.failing]
        return "; ".join(f"{check.kind.title}: {check.evidence}".removesuffix(": ") for check in failing)

    def _checks(self) -> list[Check]:
        """Return the checks of a gate without a baseline, on the windows so far."""
        checkpoint, reference = self.trace, self.reference
        assert checkpoint is not None
        experiment, subject = checkpoint.experiment, checkpoint.subject
        limits, tolerances = experiment.case.limits, experiment.case.tolerances
        with start_audit(experiment, subject, reference.unread) as started:
            count = len(self.windows.tokens)
            ours, theirs = checkpoint.measurement(count), reference.measurement(count)
            verdict = judge(experiment, subject, ours, theirs, comparison_of(experiment, subject))
            audit = started.finish(reference, checkpoint)
        audited = audit_checks(audit, limits, tolerances, None) if audit else ()
        return [*verdict.checks, *audited]


@dataclass
class Pace:
    """How fast this machine is: what quantizing took by method, and seconds per measured token."""

    quantizing: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0

    def of_quantizing(self, candidate: Candidate) -> float:
        """Return the seconds that a candidate may take: as long as its method took before."""
        known = self.quantizing.get(candidate.quantizer.method)
        return candidate.expected_seconds if known is None else known + STARTING

    def of_measuring(self, tokens: int) -> float:
        """Return the seconds that so many tokens may take; 0 before any were measured."""
        return self.seconds / self.tokens * tokens if self.tokens else 0.0
