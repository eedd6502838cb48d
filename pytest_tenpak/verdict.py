"""Two questions, each with its own checks: is it good enough, and did it get worse than what we accepted?

Pure: figures in, checks out. Unrounded values are compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from .baseline import Entry
from .digest import labelled
from .measurement import HEADLINE, RATIOS, Ledger, Measurement
from .statistics import perplexity, relative_perplexity

#: Nats per token that every quantization may lose, however little round-to-nearest loses: about 10 % of
#: perplexity. Eight bits lose so little that multiples of it would be noise.
RTN_ALLOWANCE = 0.1


class Status(str, Enum):
    """What became of a check or a case. Later members outrank earlier ones in a verdict."""

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

    ``min_compression`` maps names of RATIOS to the least accepted. ``max_rtn_factor`` bounds the nats
    per token that are lost, in multiples of what round-to-nearest at the same bits loses (0: no bound).
    """

    max_ppl_delta: float | None = None
    min_compression: Mapping[str, float] = field(default_factory=dict)
    max_rtn_factor: float = 3.0


@dataclass(frozen=True)
class Tolerances:
    """How far a metric may move from the baseline, relative (0.005 is half a per cent)."""

    ppl: float = 0.005
    compression: float = 0.001


@dataclass(frozen=True)
class Check:
    """One comparison.

    ``kind`` is ``limit``, ``tolerance`` or ``sanity``. ``before`` and ``value`` are the two figures,
    ``difference`` the relative difference that ``bound`` bounds (for a least compression ``bound``
    bounds ``value`` itself). ``evidence`` says what the decision rests on.
    """

    name: str
    kind: str
    status: Status
    value: float | None = None
    before: float | None = None
    difference: float | None = None
    bound: float | None = None
    evidence: str = ""


@dataclass(frozen=True)
class Verdict:
    """The checks of one case."""

    checks: tuple[Check, ...]

    @property
    def status(self) -> Status:
        """The gravest status among the checks; ``error`` when there is none, since nothing was decided."""
        order = list(Status)
        return max((check.status for check in self.checks), key=order.index, default=Status.ERROR)

    @property
    def failing(self) -> tuple[Check, ...]:
        """The checks that fail the case."""
        return tuple(check for check in self.checks if check.status.failing)

    def of_kind(self, kind: str) -> tuple[Check, ...]:
        """The checks of one kind."""
        return tuple(check for check in self.checks if check.kind == kind)

    def to_dict(self) -> dict[str, Any]:
        """Plain form, status included for whoever reads it elsewhere."""
        checks = [{**asdict(check), "status": str(check.status)} for check in self.checks]
        return {"status": str(self.status), "checks": checks}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Verdict:
        """The verdict that :meth:`to_dict` wrote."""
        return cls(tuple(Check(**{**row, "status": Status(row["status"])}) for row in plain["checks"]))


def compare(
    measurement: Measurement,
    reference: Measurement,
    entry: Entry | None,
    limits: Limits,
    tolerances: Tolerances,
    rounded: Measurement | None = None,
) -> Verdict:
    """Decide one case from its measurement, the reference, and the baseline entry if there is one.

    ``rounded`` is the model rounded to nearest at the same bits, where :func:`needs_rounding` asked for it.
    """
    faults = tuple(_sanity(measurement, reference))
    if any(check.status is Status.ERROR for check in faults):
        return Verdict(faults)
    return Verdict(
        (
            *faults,
            *_against_reference(measurement, reference, limits),
            *_against_rounding(measurement, reference, rounded, limits),
            *_against_baseline(measurement, entry, tolerances),
        )
    )


def _sanity(measurement: Measurement, reference: Measurement) -> Iterator[Check]:
    """Faults that no bound expresses: figures that are not finite, tokens that are not the same."""
    for name, measured in (("reference", reference), ("checkpoint", measurement)):
        windows = measured.windows
        if not windows.tokens:
            yield Check("finite", "sanity", Status.ERROR, evidence=f"the {name}: no window was measured")
        elif not math.isfinite(measured.perplexity):
            bad = f"{windows.nonfinite:,} of {windows.nonfinite + windows.total_tokens:,} tokens"
            evidence = f"the {name}'s perplexity is not finite: {bad} have an NLL of NaN or infinity"
            yield Check("finite", "sanity", Status.ERROR, evidence=evidence)
    if measurement.windows.stream != reference.windows.stream:
        evidence = "the checkpoint's tokenizer turns the corpus into other tokens than the model's own"
        yield Check("tokenizer", "sanity", Status.REGRESSED, evidence=evidence)


def _against_reference(measurement: Measurement, reference: Measurement, limits: Limits) -> Iterator[Check]:
    if limits.max_ppl_delta is not None and measurement.windows.tokens == reference.windows.tokens:
        windows = measurement.windows
        delta = relative_perplexity(windows.nll, reference.windows.nll, windows.tokens)
        yield Check(
            "max_ppl_delta",
            "limit",
            Status.PASSED if delta.value <= limits.max_ppl_delta else Status.REGRESSED,
            value=measurement.perplexity,
            before=reference.perplexity,
            difference=delta.value,
            bound=limits.max_ppl_delta,
            evidence=delta.evidence,
        )
    ratios = measurement.ledger.ratios
    for name, least in limits.min_compression.items():
        ratio = ratios.get(name, 1.0)
        yield Check(
            "min_compression",
            "limit",
            Status.PASSED if ratio >= least else Status.REGRESSED,
            value=ratio,
            bound=least,
            evidence=f"{RATIOS[name]}{'' if name in ratios else ' (no layer is quantized)'}",
        )


def needs_rounding(measurement: Measurement, reference: Measurement, limits: Limits) -> bool:
    """Whether so much was lost that the verdict wants to know what round-to-nearest would have lost.

    What is within the allowance cannot be worse than the bound, whatever that turns out to be.
    """
    paired = measurement.windows.tokens == reference.windows.tokens and measurement.windows.total_tokens
    if not limits.max_rtn_factor or not paired:
        return False
    if not (math.isfinite(measurement.perplexity) and math.isfinite(reference.perplexity)):
        return False
    return math.log(measurement.perplexity / reference.perplexity) > RTN_ALLOWANCE


def _against_rounding(
    measurement: Measurement, reference: Measurement, rounded: Measurement | None, limits: Limits
) -> Iterator[Check]:
    """The sanity floor, over the windows that were rounded: a prefix of the corpus."""
    if rounded is None:
        return
    if not math.isfinite(rounded.perplexity):
        evidence = (
            "the model rounded to nearest has no finite perplexity, so there is no floor to compare with"
        )
        yield Check("max_rtn_factor", "limit", Status.ERROR, evidence=evidence)
        return
    tokens = rounded.windows.tokens
    count = len(tokens)
    ours, plain, base = (
        perplexity(measured.windows.nll[:count], tokens) for measured in (measurement, rounded, reference)
    )
    lost = max(0.0, math.log(plain / base))
    # A multiple of many nats would be a power of perplexity: there the factor holds for perplexity itself.
    factor = limits.max_rtn_factor
    allowed = min(factor * lost, lost + max(0.0, math.log(factor))) + RTN_ALLOWANCE
    suspicious = math.log(ours / base) > allowed
    evidence = (
        f"worse than round-to-nearest: {ours:,.1f} against {plain:,.1f}; the quantizer is probably broken "
        f"(it lost more than {limits.max_rtn_factor:g} times what rounding loses)"
    )
    yield Check(
        "max_rtn_factor",
        "limit",
        Status.REGRESSED if suspicious else Status.PASSED,
        value=ours,
        before=plain,
        difference=ours / plain - 1,
        bound=math.exp(allowed) * base / plain - 1,
        evidence=evidence if suspicious else "",
    )


def _against_baseline(
    measurement: Measurement, entry: Entry | None, tolerances: Tolerances
) -> Iterator[Check]:
    if entry is None:
        yield Check(
            "baseline", "tolerance", Status.NEW, evidence="no baseline for this case and device class"
        )
        return
    changed = identity_changes(entry.identity, measurement.identity)
    if changed:
        evidence = "the baseline answers another question: " + "; ".join(changed)
        yield Check("baseline", "tolerance", Status.INVALID, evidence=evidence)
        return
    yield _perplexity_check(measurement, entry, tolerances.ppl)
    yield _compression_check(measurement.ledger, entry, tolerances.compression)


def _perplexity_check(measurement: Measurement, entry: Entry, tolerance: float) -> Check:
    """Paired over the windows that both sides have: a prefix of a corpus is a valid smaller run."""
    windows = measurement.windows
    common = min(len(windows.tokens), len(entry.tokens))
    tokens = windows.tokens[:common]
    if not common or tokens != entry.tokens[:common]:
        evidence = "the baseline's windows have other numbers of scored tokens than this run's"
        return Check("baseline", "tolerance", Status.INVALID, evidence=evidence)
    moved = relative_perplexity(windows.nll[:common], entry.nll[:common], tokens)
    rest = "" if common == len(entry.tokens) else f" (the baseline has {len(entry.tokens)} windows)"
    same = labelled(measurement.weights_digest) == entry.weights_digest
    return Check(
        "ppl_tolerance",
        "tolerance",
        _moved(moved.value, tolerance),
        value=perplexity(windows.nll[:common], tokens),
        before=perplexity(entry.nll[:common], tokens),
        difference=moved.value,
        bound=tolerance,
        evidence=f"{moved.evidence}{rest}; {'the same' if same else 'other'} quantized weights",
    )


def _compression_check(ledger: Ledger, entry: Entry, tolerance: float) -> Check:
    value, before = ledger.ratios[HEADLINE], entry.ledger.ratios[HEADLINE]
    # What got smaller got worse, so the sign is turned to read like perplexity's.
    status = _moved(1 - value / before, tolerance)
    return Check(
        "compression_tolerance",
        "tolerance",
        status,
        value=value,
        before=before,
        difference=value / before - 1,
        bound=tolerance,
        evidence=RATIOS[HEADLINE],
    )


def _moved(worse_by: float, tolerance: float) -> Status:
    if worse_by > tolerance:
        return Status.REGRESSED
    return Status.IMPROVED if worse_by < -tolerance else Status.PASSED


def identity_changes(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """``field: old → new`` for every field in which two identities differ, nested fields dotted."""
    rows = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        where = f"{path}{name}"
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            rows += identity_changes(before, after, f"{where}.")
        elif before != after:
            rows.append(f"{where}: {_short(before)} → {_short(after)}")
    return rows


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text[:19] + "…" if text.startswith("sha256:") else repr(value) if isinstance(value, str) else text
