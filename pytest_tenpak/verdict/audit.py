"""The checks of an audit: are the weights and files the model's, and those that were accepted? Pure.

The bounds leave room beyond what healthy checkpoints of every method have (docs/faults.md). Only the bound on
the error of methods that compensate can be moved in the marker; the others say that a layer is not what its
format promises.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from ..baselines.entry import AuditedFigures, Entry
from ..metrics.audit import (
    CLIPPED,
    COMPENSATED,
    NEAREST,
    ROUNDED_SCALES,
    Audit,
    ChangedField,
    FilesAudit,
    LayerAudit,
    WeightAudit,
)
from .checks import Check, Limits, Status, Tolerances

#: How many tensors or fields a message names.
_NAMED = 4
#: The part of a layer's error that all inputs of an output may share, in multiples of rounding's error.
_OFFSET = 0.5
#: Gains move less between requantizations than errors do: how far, as a share of the tolerance for errors.
GAIN_SHARE = 0.05


class _Bounds(NamedTuple):
    """What healthy layers keep to: error in multiples of rounding's, gain against rounding's, one output."""

    factor: float
    least_gain: float
    most_gain: float
    output: float


#: Clipping takes from the largest weights, so that gains fall.
_BOUNDS = {
    NEAREST: _Bounds(1.003, -0.002, 0.002, 2.0),
    ROUNDED_SCALES: _Bounds(1.01, -0.002, 0.002, 3.0),
    CLIPPED: _Bounds(1.5, -0.05, 0.01, 4.0),
}
#: The error of a model that is converted to 16 bit before it is quantized.
_CONVERSION = 0.002


def audit_checks(
    audit: Audit, limits: Limits, tolerances: Tolerances, entry: Entry | None
) -> Iterator[Check]:
    """Yield the checks of an audit; ``entry`` is the comparable baseline entry, if there is one."""
    accepted = entry.audit if entry else None
    if audit.weights is not None:
        yield _weights_check(audit.weights, limits)
        if accepted and accepted.names:
            yield _moved_check(audit.weights, accepted, tolerances)
    if audit.files is not None:
        yield _files_check(audit.files, limits)
        if accepted and accepted.files:
            yield _files_moved_check(audit.files, accepted.files)


# ---------------------------------------------------------------- weights


def _weights_check(audit: WeightAudit, limits: Limits) -> Check:
    """Check the weights against the model's."""
    faults = dict(_faults(audit, limits))
    if faults:
        named = [f"{name}: {fault}" for name, fault in faults.items()]
        evidence = _first(named, "tensors") + f" ({_share(len(faults), audit)})"
        return Check("audit", Status.REGRESSED, evidence=evidence)
    return Check("audit", Status.PASSED, evidence=_summary(audit))


def _share(count: int, audit: WeightAudit) -> str:
    whole = len(audit.layers) + audit.kept + len(audit.rounded) + len(audit.changed) + len(audit.allowed)
    return f"{count:,} of {whole:,} tensors"


def _summary(audit: WeightAudit) -> str:
    parts = []
    if audit.layers:
        worst = max(layer.factor for layer in audit.layers)
        parts.append(
            f"{len(audit.layers):,} quantized layers, at most {worst:.2f} times the error of rounding"
        )
    if audit.kept:
        parts.append(f"{audit.kept:,} tensors as the model's")
    if audit.rounded:
        parts.append(f"{len(audit.rounded):,} rounded to 16 bit")
    if audit.allowed:
        parts.append(f"{len(audit.allowed):,} that the method changes")
    if audit.not_compared:
        name, why = next(iter(audit.not_compared.items()))
        parts.append(f"{len(audit.not_compared):,} not compared ({name}: {why})")
    return "; ".join(parts)


def _faults(audit: WeightAudit, limits: Limits) -> Iterator[tuple[str, str]]:
    """Yield each tensor that is not what it should be, the worst first, with what is wrong."""
    for one in sorted(audit.changed, key=lambda one: _least_first(one.error)):
        if not is_named(one.name, limits.may_differ):
            yield one.name, f"{one.what} (error {100 * one.error:.2g}%)"
    for layer in sorted(audit.layers, key=lambda one: _least_first(one.factor)):
        fault = layer_fault(layer, limits.max_weight_error)
        if fault and not is_named(layer.name, limits.may_differ):
            yield layer.name, fault


def _least_first(figure: float) -> float:
    """Return a key that sorts the largest figures first, and before them what is not finite."""
    return -figure if math.isfinite(figure) else -math.inf


def layer_fault(layer: LayerAudit, most: float) -> str:
    """Return what is wrong with a quantized layer, empty where nothing is.

    ``most`` bounds the error of methods whose weights compensate for each other, in multiples of that of
    rounding to nearest (0: no bound).
    """
    if not math.isfinite(layer.error):
        return "has weights that are not finite"
    if layer.dead:
        return f"{' and '.join(layer.dead)} all zero, and not in the model"
    bounds = _bounds_of(layer, most)
    of_rounding = f"rounding to nearest has {layer.rounded_error:.2%}"
    bound = math.hypot(bounds.factor * layer.rounded_error, _CONVERSION)
    scale = layer.gain - layer.rounded_gain
    # What an error consists of says more than its size, unless it is large.
    if layer.error <= 2 * bound:
        if layer.offset > _OFFSET * layer.rounded_error + _TINY:
            return f"weights are shifted by {layer.offset:.2%} of their size"
        if not bounds.least_gain <= scale <= bounds.most_gain:
            return f"weights are {1 + scale:.4f} times as large as rounding them to nearest would make them"
    if layer.error > bound:
        return f"error {layer.error:.2%}, {of_rounding}"
    if layer.output_error > bounds.output * layer.output_rounded + _CONVERSION:
        return f"output {layer.worst_output:,} has an error of {layer.output_error:.2%}, {of_rounding}"
    return ""


#: Errors below this are those of the arithmetic.
_TINY = 1e-4


def _bounds_of(layer: LayerAudit, most: float) -> _Bounds:
    """Return the bounds for how a layer's codes were chosen; compensation adds errors of its own.

    Compensated weights are smaller than the model's by up to half their squared error, or little larger.
    """
    if layer.rounding != COMPENSATED:
        return _BOUNDS[layer.rounding]
    squared = layer.rounded_error**2
    return _Bounds(most or math.inf, -0.002 - 3 * squared, 0.002 + squared, math.inf)


def _moved_check(audit: WeightAudit, accepted: AuditedFigures, tolerances: Tolerances) -> Check:
    """Check each layer's error and gain against the baseline's."""
    now = {layer.name: layer for layer in audit.layers}
    moves = {}
    for name, error, gain in zip(accepted.names, accepted.error, accepted.gain, strict=True):
        if name in now:
            rise = (now[name].error + _TINY) / (error + _TINY) - 1
            moves[name] = max(rise, abs(now[name].gain - gain) / GAIN_SHARE)
    gone = [name for name in accepted.names if name not in now]
    if gone:
        evidence = f"no longer quantized: {_first(gone, 'layers')}"
        return Check("audit_tolerance", Status.REGRESSED, evidence=evidence)
    worst = max(moves, key=lambda name: moves[name] if math.isfinite(moves[name]) else math.inf)
    index, layer = accepted.names.index(worst), now[worst]
    beyond = sum(not move <= tolerances.audit for move in moves.values())
    evidence = (
        f"{worst}: error {accepted.error[index]:.3%} → {layer.error:.3%}, "
        f"gain {accepted.gain[index]:.4f} → {layer.gain:.4f}"
    )
    more = f" ({beyond:,} of {len(moves):,} layers moved too far)" if beyond else ""
    return Check(
        "audit_tolerance", Status.REGRESSED if beyond else Status.PASSED, evidence=f"{evidence}{more}"
    )


# ---------------------------------------------------------------- files


def _files_check(audit: FilesAudit, limits: Limits) -> Check:
    """Check the files beside the weights against the model's."""
    broken = [one for one in audit.behaviour if not is_named(one.name, limits.may_differ)]
    lines = [*map(str, broken), *audit.contradictions]
    if lines:
        return Check("files", Status.REGRESSED, evidence=_first(lines, "fields"))
    notes = [str(one) for one in (*audit.behaviour, *audit.cosmetic)]
    allowed = f"allowed or without effect: {_first(notes, 'fields')}" if notes else ""
    return Check("files", Status.PASSED, evidence=allowed)


def _files_moved_check(audit: FilesAudit, accepted: Mapping[str, str]) -> Check:
    """Check what the checkpoint's files say otherwise than the model's against what they said then."""
    now = audit.own_fields
    moved = [
        ChangedField(name, accepted[name], now[name])
        for name in sorted(accepted.keys() & now.keys())
        if accepted[name] != now[name]
    ]
    evidence = _first([str(one) for one in moved], "fields") if moved else ""
    return Check("files_tolerance", Status.REGRESSED if moved else Status.PASSED, evidence=evidence)


def is_named(name: str, patterns: Collection[str]) -> bool:
    """Return whether a tensor, layer or field is among those that may differ, by name or pattern."""
    return any(fnmatchcase(name, pattern) or name.startswith(f"{pattern}.") for pattern in patterns)


def _first(lines: list[str], what: str) -> str:
    more = f"; and {len(lines) - _NAMED:,} more {what}" if len(lines) > _NAMED else ""
    return "; ".join(lines[:_NAMED]) + more
