"""Did it get worse than what was accepted: in one step, or in many small ones since the anchor?

Pure: figures in, checks out. The difference is paired with the baseline's windows, and so is each accepted
step that is added up: what other or more text moves is no drift.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from ..baselines.entry import Entry
from ..baselines.identity import question_changes, same_weights
from ..metrics.intervals import Rule, perplexity
from ..metrics.measurement import HEADLINE, RATIOS, Layers, Ledger, Measurement, Noise
from .checks import Check, Status, Tolerances
from .criteria import Criterion
from .evidence import evidence_of, interval_of

#: Movements of layers below this are the rounding of stored figures.
_ROUNDING = 2e-6


def baseline_criteria(
    entry: Entry, tolerances: Tolerances, same: bool, rule: Rule, noise: Noise | None, elsewhere: str = ""
) -> dict[str, Criterion]:
    """What the windows have to answer about an entry: ``ppl_tolerance``, and ``drift`` where that is tighter.

    ``same``: the entry accepted the very weights that are measured. ``noise``: what is known of the
    recipe's.
    """
    spread = noise.half_width(rule.alpha) if noise and not same else 0.0
    if noise and elsewhere:
        spread += max(noise.runtime.values(), default=0.0)
    bounds = {"ppl_tolerance": math.log1p(tolerances.of_perplexity(same and not elsewhere))}
    left = _drift_left(entry, tolerances)
    if 0 < left < bounds["ppl_tolerance"]:
        bounds["drift"] = left
    return {
        name: Criterion(name, "nll", bound, entry.nll, ends=True, spread=spread, unchanged=0.0)
        for name, bound in bounds.items()
    }


def is_beyond_anchor(old: Entry, new: Entry, tolerances: Tolerances) -> bool:
    """Whether accepting ``new`` would take the drift since the anchor of ``old`` past the drift limit."""
    if not tolerances.drift or old.identity != new.identity:
        return False
    anchor, factor = old.anchor, tolerances.drift
    moved = max(_layer_moves(anchor.layers, new.layers), default=0.0)
    return (
        anchor.drift + new.moved_since(old) > math.log1p(factor * tolerances.ppl)
        or 1 - new.figures.compression / anchor.figures.compression > factor * tolerances.compression
        or moved > factor * _layers_bound(tolerances, new.noise or old.noise)
    )


def against_baseline(
    measurement: Measurement,
    entry: Entry | None,
    paired: bool,
    tolerances: Tolerances,
    rule: Rule,
    noise: Noise | None,
    elsewhere: str = "",
) -> Iterator[Check]:
    """The checks against a baseline entry; ``paired`` says whether the windows can be compared at all."""
    if entry is None:
        yield Check("baseline", Status.NEW, evidence="no baseline for this case and device class")
        return
    changed = question_changes(entry, measurement.identity, elsewhere)
    if changed:
        whose = f" (that of {elsewhere})" if elsewhere else ""
        evidence = f"the baseline{whose} answers another question: " + "; ".join(changed)
        yield Check("baseline", Status.INVALID, evidence=evidence)
        return
    if paired:
        yield from _perplexity_checks(measurement, entry, tolerances, rule, noise, elsewhere)
        yield from _layers_checks(measurement, entry, tolerances, noise)
    yield from _compression_checks(measurement.ledger, entry, tolerances)


# ---------------------------------------------------------------- perplexity


def _perplexity_checks(
    measurement: Measurement,
    entry: Entry,
    tolerances: Tolerances,
    rule: Rule,
    noise: Noise | None,
    elsewhere: str,
) -> Iterator[Check]:
    """Paired over the windows that both sides have: a prefix of a corpus is a valid smaller run."""
    windows = measurement.windows
    common = min(len(windows.tokens), len(entry.tokens))
    if not common or windows.tokens[:common] != entry.tokens[:common]:
        evidence = "the baseline's windows have other numbers of scored tokens than this run's"
        yield Check("baseline", Status.INVALID, evidence=evidence)
        return
    same = same_weights(measurement.weights_digest, entry)
    criterion = baseline_criteria(entry, tolerances, same, rule, noise, elsewhere)["ppl_tolerance"]
    tolerance = tolerances.of_perplexity(same and not elsewhere)
    yield _step_check(criterion, tolerance, measurement, entry, rule, _told(same, noise, elsewhere))
    if tolerances.drift and not entry.is_anchor:
        yield _drift_check(criterion, measurement, entry, tolerances, rule)


def _step_check(
    criterion: Criterion,
    tolerance: float,
    measurement: Measurement,
    entry: Entry,
    rule: Rule,
    told: list[str],
) -> Check:
    windows = measurement.windows
    common = min(len(windows.tokens), len(entry.tokens))
    tokens = windows.tokens[:common]
    answer = criterion.answer(windows, rule)
    shown = answer.sampled.relative()
    improved = answer.holds and shown.value < -tolerance and criterion.is_improvement(windows, rule)
    evidence = [evidence_of(answer, shown, criterion, measurement, rule), *told]
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


def _told(same: bool, noise: Noise | None, elsewhere: str) -> list[str]:
    """Which gate applied, and what is known of the noise that it has to live with."""
    if same:
        told = ["the same quantized weights: only kernels or libraries can have moved it"]
    elif noise is None:
        told = ["other quantized weights; the spread between requantizations was not measured"]
    else:
        told = [f"other quantized weights; requantizations spread by {noise.spread:.3%}"]
    if elsewhere:
        runtime = max(noise.runtime.values(), default=0.0) if noise else None
        widened = "no runtime noise is recorded there" if runtime is None else f"widened by {runtime:.3%}"
        told.append(f"compared with the entry of {elsewhere}, the nearest there is; {widened}")
    return told


def _drift_left(entry: Entry, tolerances: Tolerances) -> float:
    """How much further (ln perplexity) an entry may drift; infinite where nothing bounds it."""
    if not tolerances.drift:
        return math.inf
    # Drift is stored rounded: where no tolerance is left, that is no drift.
    return math.log1p(tolerances.drift * tolerances.ppl) - entry.anchor.drift + _ROUNDING


def _drift_check(
    step: Criterion, measurement: Measurement, entry: Entry, tolerances: Tolerances, rule: Rule
) -> Check:
    """The whole drift since the anchor: what was accepted on the way is known, the last step is measured."""
    criterion = replace(step, name="drift", bound=_drift_left(entry, tolerances))
    answer = criterion.answer(measurement.windows, rule)
    accepted = entry.anchor.drift
    sampled = answer.sampled
    shown = replace(
        sampled, value=sampled.value + accepted, low=sampled.low + accepted, high=sampled.high + accepted
    ).relative()
    told = evidence_of(answer, shown, criterion, measurement, rule)
    evidence = f"{math.expm1(accepted):+.2%} were accepted on the way; {told}"
    # Where what was accepted is itself too far, no change is no excuse.
    holds = answer.holds if criterion.bound > 0 else sampled.value <= criterion.bound
    status = Status.PASSED if holds else Status.REGRESSED
    return Check(
        "drift",
        status,
        difference=shown.value,
        bound=tolerances.drift * tolerances.ppl,
        **interval_of(answer, shown),
        evidence=evidence,
    )


# ---------------------------------------------------------------- layers


def _layers_checks(
    measurement: Measurement, entry: Entry, tolerances: Tolerances, noise: Noise | None
) -> Iterator[Check]:
    """What each decoder layer adds, beside what it did; nothing where either side has no figures."""
    bound = _layers_bound(tolerances, noise)
    yield from _layers_check("layers", entry.layers, measurement.layers, bound)
    if tolerances.drift and not entry.is_anchor:
        yield from _layers_check(
            "layers_drift", entry.anchor.layers, measurement.layers, tolerances.drift * bound
        )


def _layers_bound(tolerances: Tolerances, noise: Noise | None) -> float:
    return max(tolerances.layers, 2 * noise.layers) if noise else tolerances.layers


def _layers_check(name: str, old: Layers, new: Layers, bound: float) -> Iterator[Check]:
    """A layer regresses when its error grew, or its gain moved and it came no nearer to the reference."""
    if old.gain and len(old.gain) != len(new.gain):
        evidence = (
            f"the baseline has figures of {len(old.gain)} decoder layers, and this run of {len(new.gain)}"
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
    """How far each layer moved; nothing where the layers do not correspond."""
    if len(old.gain) != len(new.gain):
        return []
    return [_layer_move(*row) for row in zip(old.gain, new.gain, old.error, new.error, strict=True)]


def _layer_move(old_gain: float, gain: float, old_error: float, error: float) -> float:
    """How far a layer moved, unless it came nearer to the reference in both respects."""
    nearer = abs(gain - 1) <= abs(old_gain - 1) and error <= old_error
    moved = max(abs(gain - old_gain), error - old_error)
    return 0.0 if nearer or moved < _ROUNDING else moved


# ---------------------------------------------------------------- compression


def _compression_checks(ledger: Ledger, entry: Entry, tolerances: Tolerances) -> Iterator[Check]:
    value = ledger.ratios[HEADLINE]
    steps = [("compression_tolerance", entry.ledger.ratios[HEADLINE], tolerances.compression)]
    if tolerances.drift and not entry.is_anchor:
        anchor = entry.anchor.figures.compression
        steps.append(("compression_drift", anchor, tolerances.drift * tolerances.compression))
    for name, before, bound in steps:
        # What got smaller got worse, so the sign is turned to read like perplexity's.
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
            evidence=RATIOS[HEADLINE],
        )


def _moved(worse_by: float, tolerance: float) -> Status:
    if worse_by > tolerance:
        return Status.REGRESSED
    return Status.IMPROVED if worse_by < -tolerance else Status.PASSED


# ---------------------------------------------------------------- identity
