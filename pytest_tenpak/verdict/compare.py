"""The verdict: is the checkpoint good enough, and did it get worse than the accepted figures?

Pure: figures in, checks out. Unrounded values are compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..metrics.intervals import Rule, perplexity
from ..metrics.measurement import RATIOS, Measurement
from .against_baseline import against_baseline
from .checks import Check, Limits, Status, Verdict
from .comparison import ROUNDING, Comparison
from .criteria import Criterion
from .evidence import evidence_of, interval_of

#: Nats per token that every quantization may lose, however little round-to-nearest loses: about 10 % of
#: perplexity. Eight bits lose so little that multiples of their loss would be noise.
RTN_ALLOWANCE = 0.1


def compare(
    measurement: Measurement,
    reference: Measurement,
    comparison: Comparison,
    rounded: Measurement | None = None,
) -> Verdict:
    """Decide one case from its measurement, the reference's, and what it is compared with.

    ``rounded`` is the model rounded to nearest at the same bits, if :func:`needs_rounding`.
    """
    faults = tuple(_sanity(measurement, reference, comparison))
    if any(check.status is Status.ERROR for check in faults):
        return Verdict(faults)
    return Verdict(
        (
            *faults,
            *_noise_floor(comparison),
            *_against_reference(measurement, reference, comparison),
            *_against_rounding(measurement, reference, rounded, comparison.limits),
            *against_baseline(measurement, comparison, are_paired(measurement, reference)),
        )
    )


def _noise_floor(comparison: Comparison) -> Iterator[Check]:
    """Refuse tolerances that an unchanged recipe would break: a gate that flakes gets switched off."""
    noise, tolerances = comparison.noise, comparison.tolerances
    if noise is None:
        return
    floor = math.expm1(noise.half_width(comparison.rule.alpha))
    if tolerances.ppl < floor:
        evidence = (
            f"ppl_tolerance={tolerances.ppl:g} is below the noise of this recipe: {noise.requantizations} "
            f"requantizations spread by {noise.spread:.3%} (standard deviation), so two of them differ by up "
            f"to {_rounded_up(floor, 4):.2%} with nothing worse; set ppl_tolerance to that or more, or "
            f"calibrate with more requantizations, which makes this estimate more precise"
        )
        yield Check("noise_floor", Status.INVALID, value=tolerances.ppl, bound=floor, evidence=evidence)
    floor = math.expm1(noise.runtime_floor)
    tight = tolerances.of_perplexity(same_weights=True)
    if tight < floor:
        evidence = (
            f"{'same_weights' if tight < tolerances.ppl else 'ppl'}_tolerance={tight:g} is below the effect "
            f"of batch size and threads alone on the same weights ({_rounded_up(floor, 5):.3%}); "
            "set it to that or more"
        )
        yield Check(
            "noise_floor",
            Status.INVALID,
            value=tight,
            bound=floor,
            evidence=evidence,
        )


def _rounded_up(share: float, decimals: int) -> float:
    """Round up to so many decimals, so that the shown figure is enough as a tolerance."""
    scale = float(10**decimals)
    return math.ceil(share * scale) / scale


def _sanity(measurement: Measurement, reference: Measurement, comparison: Comparison) -> Iterator[Check]:
    """Check what no bound expresses: that figures are finite, and tokens the same."""
    for name, measured in (("reference", reference), ("checkpoint", measurement)):
        windows = measured.windows
        if not windows.tokens:
            yield Check("finite", Status.ERROR, evidence=f"the {name}: no window was measured")
        elif not math.isfinite(measured.perplexity):
            bad = f"{windows.nonfinite:,} of {windows.nonfinite + windows.total_tokens:,} tokens"
            evidence = f"the {name}'s perplexity is not finite: {bad} have an NLL of NaN or infinity"
            if measured.coverage.nonfinite:
                evidence += f"; stored tensors with NaN or infinity: {'; '.join(measured.coverage.nonfinite)}"
            yield Check("finite", Status.ERROR, evidence=evidence)
    broken = measurement.layers.nonfinite
    if broken:
        evidence = (
            f"decoder layer {broken[0]} of the checkpoint has outputs that are not finite, "
            "given the reference's inputs"
        )
        yield Check("finite", Status.ERROR, evidence=evidence)
    if measurement.windows.stream != reference.windows.stream:
        changes = comparison.tokenizer_changes
        evidence = "the checkpoint's tokenizer gives other tokens for the corpus than the model's own: " + (
            "; ".join(changes) or "its files are the same, so another library reads them"
        )
        yield Check("tokenizer", Status.REGRESSED, evidence=evidence)


def are_paired(measurement: Measurement, reference: Measurement) -> bool:
    """Return whether both scored the same tokens, without which their figures are not comparable."""
    ours, theirs = measurement.windows, reference.windows
    return ours.stream == theirs.stream and ours.tokens == theirs.tokens and ours.total_tokens > 0


def resolution(measurement: Measurement, reference: Measurement, comparison: Comparison) -> float | None:
    """Return the smallest difference of perplexity, relative, that could have been told from none.

    The half-width of the interval of the difference from the baseline; where there is none, from the
    reference. None where there are too few windows for an interval.
    """
    if not are_paired(measurement, reference) or not math.isfinite(measurement.perplexity):
        return None
    to_reference = Criterion("max_ppl_delta", "nll", 0.0, reference.windows.nll)
    criterion = (comparison.baseline_criteria() or [to_reference])[0]
    sampled = criterion.sampled(measurement.windows, comparison.rule).widened(criterion.spread)
    if not math.isfinite(sampled.half_width):
        return None
    return max(math.expm1(sampled.half_width), ROUNDING)  # of equal weights, no less than what is stored


def _against_reference(
    measurement: Measurement, reference: Measurement, comparison: Comparison
) -> Iterator[Check]:
    if are_paired(measurement, reference):
        for criterion in comparison.limit_criteria(reference.windows):
            yield _limit_check(criterion, measurement, reference, comparison.rule)
    ratios = measurement.ledger.ratios
    for name, least in comparison.limits.min_compression.items():
        ratio = ratios.get(name, 1.0)
        yield Check(
            "min_compression",
            Status.PASSED if ratio >= least else Status.REGRESSED,
            value=ratio,
            bound=least,
            evidence=f"{RATIOS[name]}{'' if name in ratios else ' (no layer is quantized)'}",
        )
    yield from _coverage_checks(measurement, comparison.limits)


def _coverage_checks(measurement: Measurement, limits: Limits) -> Iterator[Check]:
    """Check how much of the model the checkpoint holds, and how much of it is quantized."""
    coverage = measurement.coverage
    if limits.min_quantized_share is not None:
        share = coverage.quantized_share(measurement.ledger) or 0.0
        yield Check(
            "min_quantized_share",
            Status.PASSED if share >= limits.min_quantized_share else Status.REGRESSED,
            value=share,
            bound=limits.min_quantized_share,
            evidence=f"{measurement.ledger.layer_weights:,} of {coverage.decoder_weights:,} weights",
        )
    if limits.complete:
        evidence = f"the checkpoint no longer holds {coverage.in_words}" if coverage.left_out else ""
        yield Check("complete", Status.REGRESSED if evidence else Status.PASSED, evidence=evidence)


def _limit_check(criterion: Criterion, measurement: Measurement, reference: Measurement, rule: Rule) -> Check:
    """One bound on a mean per token against the reference."""
    answer = criterion.answer(measurement.windows, rule)
    sampled = answer.sampled
    status = Status.PASSED if answer.holds else Status.REGRESSED
    if criterion.name == "max_ppl_delta":
        shown = sampled.relative()
        figures: dict[str, Any] = {
            "value": measurement.perplexity,
            "before": reference.perplexity,
            "difference": shown.value,
        }
        bound = math.expm1(criterion.bound)
    elif criterion.name == "min_top1":
        # The criterion bounds the share that disagrees; users ask for the share that agrees.
        shown = replace(sampled, value=1 - sampled.value, low=1 - sampled.high, high=1 - sampled.low)
        figures, bound = {"value": shown.value}, 1 - criterion.bound
    else:
        shown, figures, bound = sampled, {"value": sampled.value}, criterion.bound
    evidence = evidence_of(answer, shown, criterion, measurement, rule)
    interval = interval_of(answer, shown)
    divergence = measurement.divergence
    if criterion.metric == "kld" and divergence and not divergence.is_exact:
        # A lower bound can show that a limit is broken, but never that it is met.
        evidence += f"; {divergence.kind}, which cannot show that a limit is met"
        interval["decisive"] = answer.decisive and not answer.holds
    return Check(criterion.name, status, **figures, bound=bound, **interval, evidence=evidence)


def needs_rounding(measurement: Measurement, reference: Measurement, limits: Limits) -> bool:
    """Return whether the loss is so large that it has to be compared with that of round-to-nearest.

    A loss within the allowance is within the bound, whatever round-to-nearest loses.
    """
    if not limits.max_rtn_factor or not are_paired(measurement, reference):
        return False
    if not (math.isfinite(measurement.perplexity) and math.isfinite(reference.perplexity)):
        return False
    return math.log(measurement.perplexity / reference.perplexity) > RTN_ALLOWANCE


def rounding_criterion(measurement: Measurement, reference: Measurement, limits: Limits) -> Criterion:
    """Return what the windows of round-to-nearest decide, in either direction.

    With losses q of the checkpoint and L of rounding, in nats per token, factor f and allowance A, the bound
    q ≤ min(f·L, L + ln f) + A says L ≥ (q − A) / f and L ≥ q − A − ln f. Of these the stricter one is a mean
    over windows in which all three models are paired: above the bound, unless the checkpoint is too bad.
    """
    factor, apart = limits.max_rtn_factor, max(0.0, math.log(limits.max_rtn_factor))
    lost = math.log(measurement.perplexity / reference.perplexity) - RTN_ALLOWANCE
    by_factor = lost / factor >= lost - apart
    share = 1 / factor if by_factor else 1.0
    pairs = zip(measurement.windows.nll, reference.windows.nll, strict=False)
    against = tuple(theirs + share * (ours - theirs) for ours, theirs in pairs)
    bound = -RTN_ALLOWANCE * share - (0.0 if by_factor else apart)
    return Criterion("max_rtn_factor", "nll", bound, against)


def _against_rounding(
    measurement: Measurement, reference: Measurement, rounded: Measurement | None, limits: Limits
) -> Iterator[Check]:
    """Compare with round-to-nearest over the windows that it was measured on, a prefix of the corpus."""
    if rounded is None:
        return
    if not math.isfinite(rounded.perplexity):
        evidence = (
            "the model rounded to nearest has no finite perplexity, so there is nothing to compare with"
        )
        yield Check("max_rtn_factor", Status.ERROR, evidence=evidence)
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
        Status.REGRESSED if suspicious else Status.PASSED,
        value=ours,
        before=plain,
        difference=ours / plain - 1,
        bound=math.exp(allowed) * base / plain - 1,
        evidence=evidence if suspicious else "",
        tokens=sum(tokens) if count < len(measurement.windows.tokens) else 0,
    )
