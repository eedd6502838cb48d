"""Two questions, each with its own checks: is it good enough, and did it get worse than what we accepted?

Pure: figures in, checks out. Unrounded values are compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..baselines.entry import Entry
from ..baselines.identity import question_changes
from ..metrics.intervals import DEFAULT_RULE, Rule, perplexity
from ..metrics.measurement import RATIOS, Measurement, Noise, Windows
from .against_baseline import against_baseline, baseline_criteria
from .checks import Check, Limits, Status, Tolerances, Verdict
from .criteria import Criterion
from .evidence import evidence_of, interval_of

#: Nats per token that every quantization may lose, however little round-to-nearest loses: about 10 % of
#: perplexity. Eight bits lose so little that multiples of it would be noise.
RTN_ALLOWANCE = 0.1


def criteria_of(
    limits: Limits,
    tolerances: Tolerances,
    reference: Windows,
    entry: Entry | None,
    same_weights: bool = False,
    rule: Rule = DEFAULT_RULE,
    noise: Noise | None = None,
    elsewhere: str = "",
) -> list[Criterion]:
    """What the windows have to answer, in the order of the checks.

    ``entry`` is a baseline entry that answers the same question, or None; ``same_weights`` whether it
    accepted the very weights that are measured; ``noise`` what is known of the recipe's; ``elsewhere`` the
    entry's device class where it is not the run's own.
    """
    criteria = _limit_criteria(limits, reference)
    if entry is not None:
        criteria += baseline_criteria(entry, tolerances, same_weights, rule, noise, elsewhere).values()
    return criteria


def _limit_criteria(limits: Limits, reference: Windows) -> list[Criterion]:
    criteria = []
    if limits.max_ppl_delta is not None:
        criteria.append(Criterion("max_ppl_delta", "nll", math.log1p(limits.max_ppl_delta), reference.nll))
    if limits.max_kld is not None:
        criteria.append(Criterion("max_kld", "kld", limits.max_kld))
    if limits.min_top1 is not None:
        criteria.append(Criterion("min_top1", "disagreement", 1 - limits.min_top1))
    return criteria


def compare(
    measurement: Measurement,
    reference: Measurement,
    entry: Entry | None,
    limits: Limits,
    tolerances: Tolerances,
    rounded: Measurement | None = None,
    rule: Rule = DEFAULT_RULE,
    noise: Noise | None = None,
    elsewhere: str = "",
) -> Verdict:
    """Decide one case from its measurement, the reference, and the baseline entry if there is one.

    ``rounded`` is the model rounded to nearest at the same bits, where :func:`needs_rounding` asked for it;
    ``noise`` what was just calibrated, if it was: else the entry's counts. ``elsewhere`` is the entry's
    device class where it is not the run's own.
    """
    faults = tuple(_sanity(measurement, reference))
    if any(check.status is Status.ERROR for check in faults):
        return Verdict(faults)
    comparable = entry is not None and not question_changes(entry, measurement.identity, elsewhere)
    known = noise or (entry.noise if entry and comparable else None)
    return Verdict(
        (
            *faults,
            *_noise_floor(known, tolerances, rule),
            *_against_reference(measurement, reference, limits, rule),
            *_against_rounding(measurement, reference, rounded, limits),
            *against_baseline(
                measurement,
                entry,
                are_paired(measurement, reference),
                tolerances,
                rule,
                known,
                elsewhere,
            ),
        )
    )


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
        yield Check("noise_floor", Status.INVALID, value=tolerances.ppl, bound=floor, evidence=evidence)
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
            yield Check("finite", Status.ERROR, evidence=f"the {name}: no window was measured")
        elif not math.isfinite(measured.perplexity):
            bad = f"{windows.nonfinite:,} of {windows.nonfinite + windows.total_tokens:,} tokens"
            evidence = f"the {name}'s perplexity is not finite: {bad} have an NLL of NaN or infinity"
            yield Check("finite", Status.ERROR, evidence=evidence)
    broken = measurement.layers.nonfinite
    if broken:
        evidence = (
            f"what decoder layer {broken[0]} of the checkpoint adds to the reference's inputs is not finite"
        )
        yield Check("finite", Status.ERROR, evidence=evidence)
    if measurement.windows.stream != reference.windows.stream:
        evidence = "the checkpoint's tokenizer turns the corpus into other tokens than the model's own"
        yield Check("tokenizer", Status.REGRESSED, evidence=evidence)


def are_paired(measurement: Measurement, reference: Measurement) -> bool:
    """Whether both scored the same tokens: figures of other tokens say nothing about one another."""
    ours, theirs = measurement.windows, reference.windows
    return ours.stream == theirs.stream and ours.tokens == theirs.tokens and ours.total_tokens > 0


def _against_reference(
    measurement: Measurement, reference: Measurement, limits: Limits, rule: Rule
) -> Iterator[Check]:
    if are_paired(measurement, reference):
        for criterion in _limit_criteria(limits, reference.windows):
            yield _limit_check(criterion, measurement, reference, rule)
    ratios = measurement.ledger.ratios
    for name, least in limits.min_compression.items():
        ratio = ratios.get(name, 1.0)
        yield Check(
            "min_compression",
            Status.PASSED if ratio >= least else Status.REGRESSED,
            value=ratio,
            bound=least,
            evidence=f"{RATIOS[name]}{'' if name in ratios else ' (no layer is quantized)'}",
        )


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
        # What is bounded from above is the share that disagrees; people ask for the share that agrees.
        shown = replace(sampled, value=1 - sampled.value, low=1 - sampled.high, high=1 - sampled.low)
        figures, bound = {"value": shown.value}, 1 - criterion.bound
    else:
        shown, figures, bound = sampled, {"value": sampled.value}, criterion.bound
    told = evidence_of(answer, shown, criterion, measurement, rule)
    interval = interval_of(answer, shown)
    divergence = measurement.divergence
    if criterion.metric == "kld" and divergence and not divergence.is_exact:
        # What can only be more than this figure breaks a limit surely, and keeps one never.
        told += f"; {divergence.kind}, which cannot show that a limit is kept"
        interval["decisive"] = answer.decisive and not answer.holds
    return Check(criterion.name, status, **figures, bound=bound, **interval, evidence=told)


def needs_rounding(measurement: Measurement, reference: Measurement, limits: Limits) -> bool:
    """Whether so much was lost that the verdict wants to know what round-to-nearest would have lost.

    What is within the allowance cannot be worse than the bound, whatever that turns out to be.
    """
    if not limits.max_rtn_factor or not are_paired(measurement, reference):
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
    )
