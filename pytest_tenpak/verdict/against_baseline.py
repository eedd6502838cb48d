"""Checks against the baseline: for one step since the last accepted figures, and for drift since the anchor.

Pure: figures in, checks out. The difference is paired with the baseline's windows, and so is each accepted
step in the drift: a change of perplexity by other or more text is not drift.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..baselines.entry import Entry
from ..metrics.intervals import perplexity
from ..metrics.measurement import HEADLINE, RATIOS, Layers, Measurement
from .checks import Check, Status, Tolerances
from .comparison import ROUNDING, Comparison
from .criteria import Criterion
from .evidence import evidence_of, interval_of


def is_beyond_anchor(old: Entry, new: Entry, tolerances: Tolerances) -> bool:
    """Return whether accepting ``new`` would take the drift since the anchor of ``old`` past the limit."""
    if not tolerances.drift or old.identity != new.identity:
        return False
    anchor, factor = old.anchor, tolerances.drift
    noise = new.noise or old.noise
    layers = max(tolerances.layers, 2 * noise.layers) if noise else tolerances.layers
    return (
        anchor.drift + new.moved_since(old) > math.log1p(factor * tolerances.ppl)
        or 1 - new.figures.compression / anchor.figures.compression > factor * tolerances.compression
        or max(_layer_moves(anchor.layers, new.layers), default=0.0) > factor * layers
    )


def against_baseline(measurement: Measurement, comparison: Comparison, paired: bool) -> Iterator[Check]:
    """Yield the checks against a baseline entry; ``paired``: the run's windows are comparable at all."""
    if comparison.entry is None:
        yield Check("baseline", Status.NEW, evidence="no baseline for this case and device class")
        return
    if comparison.changes:
        device = f" (entry of {comparison.entry_device})" if comparison.entry_device else ""
        evidence = f"the baseline{device} does not match this case: " + "; ".join(comparison.changes)
        yield Check("baseline", Status.INVALID, evidence=evidence)
        return
    if paired:
        yield from _perplexity_checks(measurement, comparison, comparison.entry)
        yield from _layers_checks(measurement, comparison, comparison.entry)
    yield from _compression_checks(measurement, comparison.entry, comparison.tolerances)


# ---------------------------------------------------------------- perplexity


def _perplexity_checks(measurement: Measurement, comparison: Comparison, entry: Entry) -> Iterator[Check]:
    """Compare over the windows that both sides have: a prefix of a corpus is a valid smaller run."""
    windows = measurement.windows
    common = min(len(windows.tokens), len(entry.tokens))
    if not common or windows.tokens[:common] != entry.tokens[:common]:
        evidence = "the baseline's windows score other numbers of tokens than this run's"
        yield Check("baseline", Status.INVALID, evidence=evidence)
        return
    step = comparison.baseline_criteria()[0]
    yield _step_check(step, measurement, comparison, entry)
    if comparison.tolerances.drift and not entry.is_anchor:
        yield _drift_check(
            replace(step, name="drift", bound=comparison.drift_left), measurement, comparison, entry
        )


def _step_check(
    criterion: Criterion, measurement: Measurement, comparison: Comparison, entry: Entry
) -> Check:
    """Check the step from the last accepted figures."""
    windows, rule, tolerance = measurement.windows, comparison.rule, comparison.tolerance
    common = min(len(windows.tokens), len(entry.tokens))
    tokens = windows.tokens[:common]
    answer = criterion.answer(windows, rule)
    shown = answer.sampled.relative()
    config = entry.provenance.config_differences(measurement.provenance)
    improved = answer.holds and shown.value < -tolerance and criterion.is_improvement(windows, rule)
    evidence = [evidence_of(answer, shown, criterion, measurement, rule), *_circumstances(comparison, config)]
    if common < len(entry.tokens):
        evidence.insert(1, f"the baseline has {len(entry.tokens)} windows")
    return Check(
        criterion.name,
        Status.IMPROVED if improved else Status.PASSED if answer.holds else Status.REGRESSED,
        value=perplexity(windows.nll[:common], tokens),
        before=perplexity(entry.nll[:common], tokens),
        difference=shown.value,
        bound=tolerance,
        **interval_of(answer, shown),
        evidence="; ".join(evidence),
    )


def _circumstances(comparison: Comparison, config: Sequence[str]) -> list[str]:
    """Say which weights and which noise the tolerance applied to; ``config``: how the configs differ."""
    noise = comparison.noise
    if comparison.same_weights and config:
        lines = [f"the same quantized weights, but another config: {', '.join(config)}"]
    elif comparison.same_weights:
        lines = ["the same quantized weights: only kernels or libraries can have changed it"]
    elif noise is None:
        lines = ["other quantized weights; the spread between requantizations was not measured"]
    else:
        lines = [f"other quantized weights; requantizations spread by {noise.spread:.3%}"]
    if comparison.entry_device:
        between, device = comparison.between_devices, comparison.entry_device
        widened = f"widened by {between:.2%}" if between else "no runtime noise is recorded there"
        lines.append(f"compared with the entry of {device}, the nearest device class; {widened}")
    return lines


def _drift_check(
    criterion: Criterion, measurement: Measurement, comparison: Comparison, entry: Entry
) -> Check:
    """Check the whole drift since the anchor: the accepted steps are known, the last step is measured."""
    answer = criterion.answer(measurement.windows, comparison.rule)
    accepted, sampled = entry.anchor.drift, answer.sampled
    shown = replace(
        sampled, value=sampled.value + accepted, low=sampled.low + accepted, high=sampled.high + accepted
    ).relative()
    evidence = evidence_of(answer, shown, criterion, measurement, comparison.rule)
    # If the accepted drift is itself above the limit, an unchanged figure does not pass either.
    holds = answer.holds if criterion.bound > 0 else sampled.value <= criterion.bound
    return Check(
        "drift",
        Status.PASSED if holds else Status.REGRESSED,
        difference=shown.value,
        bound=comparison.tolerances.drift * comparison.tolerances.ppl,
        **interval_of(answer, shown),
        evidence=f"{math.expm1(accepted):+.2%} accepted since the anchor; {evidence}",
    )


# ---------------------------------------------------------------- layers


def _layers_checks(measurement: Measurement, comparison: Comparison, entry: Entry) -> Iterator[Check]:
    """Compare what each decoder layer adds with the baseline; nothing where either side has no figures."""
    bound, drift = comparison.layers_bound, comparison.tolerances.drift
    yield from _layers_check("layers", entry.layers, measurement.layers, bound)
    if drift and not entry.is_anchor:
        yield from _layers_check("layers_drift", entry.anchor.layers, measurement.layers, drift * bound)


def _layers_check(name: str, old: Layers, new: Layers, bound: float) -> Iterator[Check]:
    """Check the layer that moved most: to more error, or in gain without getting nearer to the reference."""
    if old.gain and len(old.gain) != len(new.gain):
        evidence = (
            f"the baseline has figures of {len(old.gain)} decoder layers, but this run of {len(new.gain)}"
        )
        yield Check(name, Status.INVALID, evidence=evidence)
        return
    moves = _layer_moves(old, new)
    if not moves:
        return
    worst = max(range(len(moves)), key=moves.__getitem__)
    evidence = (
        f"decoder layer {worst} of {len(moves)}: gain {old.gain[worst]:.3f} → {new.gain[worst]:.3f}, "
        f"error {old.error[worst]:.3f} → {new.error[worst]:.3f}, as shares of what the layer adds"
    )
    status = Status.REGRESSED if moves[worst] > bound else Status.PASSED
    yield Check(name, status, difference=moves[worst], bound=bound, evidence=evidence)


def _layer_moves(old: Layers, new: Layers) -> list[float]:
    """Return how far each layer moved; empty where the layers do not correspond."""
    if len(old.gain) != len(new.gain):
        return []
    return [_layer_move(*row) for row in zip(old.gain, new.gain, old.error, new.error, strict=True)]


def _layer_move(old_gain: float, gain: float, old_error: float, error: float) -> float:
    """Return how far a layer moved, 0 if it got nearer to the reference in both gain and error."""
    nearer = abs(gain - 1) <= abs(old_gain - 1) and error <= old_error
    moved = max(abs(gain - old_gain), error - old_error)
    return 0.0 if nearer or moved < ROUNDING else moved


# ---------------------------------------------------------------- compression


def _compression_checks(measurement: Measurement, entry: Entry, tolerances: Tolerances) -> Iterator[Check]:
    value, added = measurement.ledger.ratios[HEADLINE], measurement.coverage.added
    additions = f"; it stores what the model has not: {', '.join(added[:4])}" if added else ""
    steps = [("compression_tolerance", entry.ledger.ratios[HEADLINE], tolerances.compression)]
    if tolerances.drift and not entry.is_anchor:
        anchor = entry.anchor.figures.compression
        steps.append(("compression_drift", anchor, tolerances.drift * tolerances.compression))
    for name, before, bound in steps:
        # Smaller is worse here, so the sign is turned to read like perplexity's.
        status = _moved(1 - value / before, bound)
        if name == "compression_drift" and status is Status.IMPROVED:
            status = Status.PASSED
        yield Check(
            name,
            status,
            value=value,
            before=before,
            difference=value / before - 1,
            bound=bound,
            evidence=RATIOS[HEADLINE] + (additions if status is Status.REGRESSED else ""),
        )


def _moved(worse_by: float, tolerance: float) -> Status:
    if worse_by > tolerance:
        return Status.REGRESSED
    return Status.IMPROVED if worse_by < -tolerance else Status.PASSED
