"""The parts of a verdict: bounds, checks with their status, and all checks of one case together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from .kinds import KINDS, CheckKind, Question


class Status(str, Enum):
    """The status of a check or a case. Later members outrank earlier ones in a verdict."""

    PASSED = "passed"
    IMPROVED = "improved"
    NEW = "new"
    REGRESSED = "regressed"
    INVALID = "invalid"
    ERROR = "error"

    def __str__(self) -> str:
        return self.value

    @property
    def failing(self) -> bool:
        """Whether a case of this status fails its test (``new`` does so only in CI)."""
        return self in (Status.REGRESSED, Status.INVALID, Status.ERROR)


@dataclass(frozen=True)
class Limits:
    """Bounds against the reference.

    ``max_kld``: mean KL divergence, nats per token. ``min_top1``: share of tokens with the same most likely
    next token. ``min_compression`` maps names of RATIOS to the least accepted. ``max_rtn_factor`` bounds
    the nats per token that are lost, in multiples of what round-to-nearest at the same bits loses (0: no
    bound). ``min_quantized_share``: share of the decoder's weights that is quantized. ``complete``: whether
    the checkpoint has to hold every tensor of the model's files, also of parts that are not measured.
    ``max_weight_error`` bounds the error of a quantized layer's weights, in multiples of that of rounding to
    nearest, where the method compensates (0: no bound). ``may_differ``: names or patterns of tensors, and
    of fields of the files beside the weights, that may differ from the model's. ``min_speedup`` maps phases
    (``prefill``, ``decode``) to the least tokens per second over the reference's, ``max_memory_ratio`` bounds
    the peak memory over the reference's.
    """

    max_ppl_delta: float | None = None
    min_compression: Mapping[str, float] = field(default_factory=dict)
    max_rtn_factor: float = 3.0
    max_kld: float | None = None
    min_top1: float | None = None
    min_quantized_share: float | None = None
    complete: bool = False
    max_weight_error: float = 6.0
    may_differ: tuple[str, ...] = ()
    min_speedup: Mapping[str, float] = field(default_factory=dict)
    max_memory_ratio: float | None = None


@dataclass(frozen=True)
class Tolerances:
    """How far a metric may move from the baseline, relative (0.005 is half a per cent).

    ``same_weights`` replaces a wider ``ppl`` where the quantized weights are the baseline's, bit for bit:
    then only kernels or libraries can have changed it. ``layers``: how far the gain or the error of
    a decoder layer may move, as a share of what the layer adds. ``audit``: how far the error of a layer's
    weights may rise, relative, and twenty times how far their gain may move. ``drift``: how many tolerances
    small steps may add up to since the anchor (0: any number).
    """

    ppl: float = 0.005
    compression: float = 0.001
    same_weights: float = 0.001
    layers: float = 0.03
    audit: float = 0.1
    drift: float = 3.0

    def of_perplexity(self, same_weights: bool) -> float:
        """Return the tolerance that applies: for the same weights the tighter one."""
        return min(self.ppl, self.same_weights) if same_weights else self.ppl


@dataclass(frozen=True)
class Check:
    """One comparison.

    ``name`` is a key of KINDS. ``before`` and ``value`` are the two figures, ``difference`` the relative
    difference that ``bound`` bounds (where there is none, ``bound`` bounds ``value`` itself). ``low`` and
    ``high`` are the interval of the bounded figure, None where it is infinite or there is none; ``decisive``
    says whether it decided (None: the figure is exact). ``evidence`` says what the decision rests on.
    ``corpus`` names the text where a case has several. ``tokens``: the scored tokens that figures are of,
    where these are fewer than were measured; else 0.
    """

    name: str
    status: Status
    value: float | None = None
    before: float | None = None
    difference: float | None = None
    bound: float | None = None
    low: float | None = None
    high: float | None = None
    decisive: bool | None = None
    evidence: str = ""
    corpus: str = ""
    tokens: int = 0

    @property
    def kind(self) -> CheckKind:
        """What all checks of this name have in common."""
        return KINDS[self.name]


@dataclass(frozen=True)
class Verdict:
    """The checks of one case."""

    checks: tuple[Check, ...]

    @property
    def status(self) -> Status:
        """The most severe status among the checks; ``error`` without checks, since nothing was decided."""
        order = list(Status)
        return max((check.status for check in self.checks), key=order.index, default=Status.ERROR)

    @property
    def failing(self) -> tuple[Check, ...]:
        """The checks that fail the case."""
        return tuple(check for check in self.checks if check.status.failing)

    def answering(self, question: Question) -> tuple[Check, ...]:
        """Return the checks that answer one question."""
        return tuple(check for check in self.checks if check.kind.question is question)

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form, which for other programs includes the status and each check's question."""
        checks = [
            {**asdict(check), "kind": str(check.kind.question), "status": str(check.status)}
            for check in self.checks
        ]
        return {"status": str(self.status), "checks": checks}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Verdict:
        """Return the verdict that :meth:`to_dict` wrote."""
        rows = [{name: value for name, value in row.items() if name != "kind"} for row in plain["checks"]]
        return cls(tuple(Check(**{**row, "status": Status(row["status"])}) for row in rows))
