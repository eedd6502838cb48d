"""Two questions, each with its own checks: is it good enough, and did it get worse than what we accepted?

Pure: figures in, checks out. Unrounded values are compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from .baseline import Entry
from .checks import Check, Limits, Status, Tolerances, Verdict
from .digest import labelled
from .evidence import evidence_of, interval_of
from .goals import Goal
from .measurement import HEADLINE, RATIOS, Ledger, Measurement, Noise, Windows
from .statistics import DEFAULT_RULE, Rule, perplexity

#: Movements of layers below this are the rounding of stored figures.
_ROUNDING = 2e-6
#: Nats per token that every quantization may lose, however little round-to-nearest loses: about 10 % of
#: perplexity. Eight bits lose so little that multiples of it would be noise.
RTN_ALLOWANCE = 0.1


def goals_of(
    limits: Limits,
    tolerances: Tolerances,
    reference: Windows,
    entry: Entry | None,
    same_weights: bool = False,
    rule: Rule = DEFAULT_RULE,
    noise: Noise | None = None,
) -> list[Goal]:
    """What the windows have to answer, in the order of the checks.

    ``entry`` is a baseline entry that answers the same question, or None; ``same_weights`` whether it
    accepted the very weights that are measured; ``noise`` what is known of the recipe's.
    """
    goals = []
    if limits.max_ppl_delta is not None:
        goals.append(Goal("max_ppl_delta", "nll", math.log1p(limits.max_ppl_delta), reference.nll))
    if limits.max_kld is not None:
        goals.append(Goal("max_kld", "kld", limits.max_kld))
    if limits.min_top1 is not None:
        goals.append(Goal("min_top1", "disagreement", 1 - limits.min_top1))
    if entry is not None:
        bound = math.log1p(tolerances.of_perplexity(same_weights))
        spread = noise.half_width(rule.alpha) if noise and not same_weights else 0.0
        goals.append(Goal("ppl_tolerance", "nll", bound, entry.nll, ends=True, spread=spread, unchanged=0.0))
    return goals


def compare(
    measurement: Measurement,
    reference: Measurement,
    entry: Entry | None,
    limits: Limits,
    tolerances: Tolerances,
    rounded: Measurement | None = None,
    rule: Rule = DEFAULT_RULE,
    noise: Noise | None = None,
) -> Verdict:
    """Decide one case from its measurement, the reference, and the baseline entry if there is one.

    ``rounded`` is the model rounded to nearest at the same bits, where :func:`needs_rounding` asked for it;
    ``noise`` what was just calibrated, if it was: else the entry's counts.
    """
    faults = tuple(_sanity(measurement, reference))
    if any(check.status is Status.ERROR for check in faults):
        return Verdict(faults)
    comparable = entry is not None and not identity_changes(entry.identity, measurement.identity)
    known = noise or (entry.noise if entry and comparable else None)
    return Verdict(
        (
            *faults,
            *_noise_floor(known, tolerances, rule),
            *_against_reference(measurement, reference, limits, rule),
            *_against_rounding(measurement, reference, rounded, limits),
            *_against_baseline(measurement, reference, entry, tolerances, rule, known),
        )
    )


def same_weights(measurement_digest: str, entry: Entry) -> bool:
    """Whether a baseline entry accepted the very weights of this digest."""
    return labelled(measurement_digest) == entry.weights_digest


def _noise_floor(noise: Noise | None, tolerances: Tolerances, rule: Rule) -> Iterator[Check]:
    """Refuse tolerances that an unchanged recipe would break: a gate that flakes gets switched off."""
    if noise is None:
        return
    floor = math.expm1(noise.half_width(rule.alpha))
    if tolerances.ppl < floor:
        evidence = (
            f"ppl_tolerance={tolerances.ppl:g} is below the noise of this recipe: {noise.requantizations} "
            f"requantizations spread by {noise.spread:.3%} (standard deviation), so two of them differ by up "
            f"to {_rounded_up(floor, 4):.2%} with nothing worse; set ppl_tolerance to that or more, or "
            f"calibrate with more requantizations, which makes the figure surer"
        )
        yield Check(
            "noise_floor", "sanity", Status.INVALID, value=tolerances.ppl, bound=floor, evidence=evidence
        )
    floor = math.expm1(noise.runtime_floor)
    tight = tolerances.of_perplexity(same_weights=True)
    if tight < floor:
        evidence = (
            f"{'same_weights' if tight < tolerances.ppl else 'ppl'}_tolerance={tight:g} is below what batch "
            f"size and threads alone move where the weights are the same ({_rounded_up(floor, 5):.3%}); "
            "set it to that or more"
        )
        yield Check(
            "noise_floor",
            "sanity",
            Status.INVALID,
            value=tight,
            bound=floor,
            evidence=evidence,
        )


def _rounded_up(share: float, decimals: int) -> float:
    """As it is shown to whoever shall set no less: to so many decimals, never below itself."""
    scale = float(10**decimals)
    return math.ceil(share * scale) / scale


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
    broken = measurement.layers.nonfinite
    if broken:
        evidence = (
            f"what decoder layer {broken[0]} of the checkpoint adds to the reference's inputs is not finite"
        )
        yield Check("finite", "sanity", Status.ERROR, evidence=evidence)
    if measurement.windows.stream != reference.windows.stream:
        evidence = "the checkpoint's tokenizer turns the corpus into other tokens than the model's own"
        yield Check("tokenizer", "sanity", Status.REGRESSED, evidence=evidence)


def _are_paired(measurement: Measurement, reference: Measurement) -> bool:
    """Whether both scored the same tokens: figures of other tokens say nothing about one another."""
    ours, theirs = measurement.windows, reference.windows
    return ours.stream == theirs.stream and ours.tokens == theirs.tokens and ours.total_tokens > 0


def _against_reference(
    measurement: Measurement, reference: Measurement, limits: Limits, rule: Rule
) -> Iterator[Check]:
    if _are_paired(measurement, reference):
        for goal in goals_of(limits, Tolerances(), reference.windows, None, rule=rule):
            yield _limit_check(goal, measurement, reference, rule)
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


def _limit_check(goal: Goal, measurement: Measurement, reference: Measurement, rule: Rule) -> Check:
    """One bound on a mean per token against the reference."""
    answer = goal.answer(measurement.windows, rule)
    sampled = answer.sampled
    status = Status.PASSED if answer.holds else Status.REGRESSED
    if goal.name == "max_ppl_delta":
        shown = sampled.relative()
        figures: dict[str, Any] = {
            "value": measurement.perplexity,
            "before": reference.perplexity,
            "difference": shown.value,
        }
        bound = math.expm1(goal.bound)
    elif goal.name == "min_top1":
        # What is bounded from above is the share that disagrees; people ask for the share that agrees.
        shown = replace(sampled, value=1 - sampled.value, low=1 - sampled.high, high=1 - sampled.low)
        figures, bound = {"value": shown.value}, 1 - goal.bound
    else:
        shown, figures, bound = sampled, {"value": sampled.value}, goal.bound
    told = evidence_of(answer, shown, goal, measurement, rule)
    interval = interval_of(answer, shown)
    divergence = measurement.divergence
    if goal.metric == "kld" and divergence and not divergence.is_exact:
        # What can only be more than this figure breaks a limit surely, and keeps one never.
        told += f"; {divergence.kind}, which cannot show that a limit is kept"
        interval["decisive"] = answer.decisive and not answer.holds
    return Check(goal.name, "limit", status, **figures, bound=bound, **interval, evidence=told)


def needs_rounding(measurement: Measurement, reference: Measurement, limits: Limits) -> bool:
    """Whether so much was lost that the verdict wants to know what round-to-nearest would have lost.

    What is within the allowance cannot be worse than the bound, whatever that turns out to be.
    """
    if not limits.max_rtn_factor or not _are_paired(measurement, reference):
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
    measurement: Measurement,
    reference: Measurement,
    entry: Entry | None,
    tolerances: Tolerances,
    rule: Rule,
    noise: Noise | None,
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
    if _are_paired(measurement, reference):
        yield _perplexity_check(measurement, reference, entry, tolerances, rule, noise)
        yield from _layers_check(measurement, entry, tolerances.layers, noise)
    yield _compression_check(measurement.ledger, entry, tolerances.compression)


def _perplexity_check(
    measurement: Measurement,
    reference: Measurement,
    entry: Entry,
    tolerances: Tolerances,
    rule: Rule,
    noise: Noise | None,
) -> Check:
    """Paired over the windows that both sides have: a prefix of a corpus is a valid smaller run."""
    windows = measurement.windows
    common = min(len(windows.tokens), len(entry.tokens))
    tokens = windows.tokens[:common]
    if not common or tokens != entry.tokens[:common]:
        evidence = "the baseline's windows have other numbers of scored tokens than this run's"
        return Check("baseline", "tolerance", Status.INVALID, evidence=evidence)
    same = same_weights(measurement.weights_digest, entry)
    goal = goals_of(Limits(), tolerances, reference.windows, entry, same, rule, noise)[-1]
    answer = goal.answer(windows, rule)
    shown = answer.sampled.relative()
    tolerance = tolerances.of_perplexity(same)
    held = answer.holds
    improved = held and shown.value < -tolerance and goal.is_improvement(windows, rule)
    told = [evidence_of(answer, shown, goal, measurement, rule), _gate(same, noise)]
    if common < len(entry.tokens):
        told.insert(1, f"the baseline has {len(entry.tokens)} windows")
    return Check(
        "ppl_tolerance",
        "tolerance",
        Status.IMPROVED if improved else Status.PASSED if held else Status.REGRESSED,
        value=perplexity(windows.nll[:common], tokens),
        before=perplexity(entry.nll[:common], tokens),
        difference=shown.value,
        bound=tolerance,
        **interval_of(answer, shown),
        evidence="; ".join(told),
    )


def _gate(same: bool, noise: Noise | None) -> str:
    """Which gate applied, and what is known of the noise that it has to live with."""
    if same:
        return "the same quantized weights: only kernels or libraries can have moved it"
    if noise is None:
        return "other quantized weights; the spread between requantizations was not measured"
    return f"other quantized weights; requantizations spread by {noise.spread:.3%}"


def _layers_check(
    measurement: Measurement, entry: Entry, tolerance: float, noise: Noise | None
) -> Iterator[Check]:
    """What each decoder layer adds, beside what the baseline's did; nothing where either has no figures.

    A layer regresses when its error grew, or its gain moved and it came no nearer to the reference.
    """
    old, new = entry.layers, measurement.layers
    if not old.gain or len(old.gain) != len(new.gain):
        return
    bound = max(tolerance, 2 * noise.layers) if noise else tolerance
    moves = [_layer_move(*row) for row in zip(old.gain, new.gain, old.error, new.error, strict=True)]
    worst = max(range(len(moves)), key=moves.__getitem__)
    evidence = (
        f"decoder layer {worst} of {len(moves)}: gain {old.gain[worst]:.3f} → {new.gain[worst]:.3f}, "
        f"error {old.error[worst]:.3f} → {new.error[worst]:.3f}, as shares of what the layer adds"
    )
    yield Check(
        "layers",
        "tolerance",
        Status.REGRESSED if moves[worst] > bound else Status.PASSED,
        difference=moves[worst],
        bound=bound,
        evidence=evidence,
    )


def _layer_move(old_gain: float, gain: float, old_error: float, error: float) -> float:
    """How far a layer moved, unless it came nearer to the reference in both respects."""
    nearer = abs(gain - 1) <= abs(old_gain - 1) and error <= old_error
    moved = max(abs(gain - old_gain), error - old_error)
    return 0.0 if nearer or moved < _ROUNDING else moved


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
