"""What a decision rests on: said in words, shown in figures, and told apart from a guess."""

import json
import math
import random
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import comparison, judged, measured

from pytest_tenpak.baselines.entry import Entry
from pytest_tenpak.gate.outcome import Part
from pytest_tenpak.metrics.intervals import DEFAULT_RULE, Rule, estimate
from pytest_tenpak.metrics.measurement import Divergence, Layers, Noise
from pytest_tenpak.verdict.checks import Limits, Status, Tolerances, Verdict
from pytest_tenpak.verdict.kinds import Question

NO_LIMITS, DEFAULT = Limits(), Tolerances()
TOKENS = 100
RUNTIME = {"batch_size": 0.0, "threads": 0.0, "dtype": 0.0}


def ripple(count: int, mean: float, spread: float, seed: int = 0) -> list[float]:
    """Figures per token, window by window, whose mean is just so."""
    chooser = random.Random(seed)
    drawn = [chooser.gauss(0, spread) for _ in range(count)]
    return [mean + x - sum(drawn) / count for x in drawn]


def beside(
    worse=0.0, *, count=40, spread=0.001, kld=None, differ=None, budget=0, units=None, weights="e", kind=""
):
    """(measurement, reference): NLL so many nats per token above the reference's, and divergences from it."""
    base = ripple(count, 3.0, 0.3, seed=1)
    nll = [a + b for a, b in zip(base, ripple(count, worse, spread), strict=True)]
    tokens = (TOKENS,) * count
    found, reference = (
        measured([TOKENS * x for x in rows], tokens=tokens, weights=weights) for rows in (nll, base)
    )
    rows = {"kld": kld or [0.0] * count, "disagreement": differ or [0.0] * count}
    sums = {name: tuple(TOKENS * x for x in row) for name, row in rows.items()}
    windows = replace(found.windows, units=units, squared_dp=(0.0,) * count, **sums)
    divergence = Divergence(kind, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0) if kind else None
    return replace(found, windows=windows, budget=budget or TOKENS * count, divergence=divergence), reference


def accepted(noise=None, layers=None, count=40, weights="d"):
    """A baseline of the reference's own figures."""
    one, reference = beside(count=count, spread=0.0, weights=weights)
    return Entry.of(replace(one, layers=layers or Layers()), reference, noise)


def noise(spread=0.0, layers=0.0, requantizations=8, **runtime) -> Noise:
    return Noise(requantizations, spread, layers, {**RUNTIME, **runtime})


def check_of(pair, name, limits=NO_LIMITS, tolerances=DEFAULT, entry=None, rule=DEFAULT_RULE, known=None):
    verdict = judged(*pair, entry, limits, tolerances, rule=rule, calibrated=known)
    found = [check for check in verdict.checks if check.name == name]
    assert len(found) <= 1
    return found[0] if found else None


# ------------------------------------------------------------ intervals in words


def test_a_decisive_interval_is_told_with_its_windows():
    """Confidence, both ends, at any look, windows and tokens; the ends are in the check too."""
    pair = beside(0.02)
    check = check_of(pair, "max_ppl_delta", Limits(max_ppl_delta=0.1))
    differences = [a - b for a, b in zip(*(one.windows.nll for one in pair), strict=True)]
    expected = estimate(differences, (TOKENS,) * 40).relative()
    assert (check.low, check.high, check.decisive) == (expected.low, expected.high, True)
    assert check.evidence == (
        f"99.9% interval {expected.low:+.2%} to {expected.high:+.2%} at any look; 40 windows (4,000 tokens)"
    )
    assert expected.low < check.difference < expected.high


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Rule(0.05), "95% interval"),
        (Rule(0.001), "at any look"),
        (Rule(0.2, fixed=True), "80% interval"),
        (Rule(0.001, fixed=True), "at one look"),
    ],
)
def test_the_rule_is_told(rule, said):
    """At what confidence, and whether one look was taken or as many as one liked."""
    assert said in check_of(beside(0.02), "max_ppl_delta", Limits(max_ppl_delta=0.1), rule=rule).evidence


@pytest.mark.parametrize(("worse", "status"), [(0.0198, Status.PASSED), (0.0202, Status.REGRESSED)])
def test_a_point_estimate_says_what_would_settle_it(worse, status):
    """An interval that straddles the bound decides nothing: the point does, and how far it can be trusted."""
    limit = math.expm1(0.02)
    pair = beside(worse, spread=0.01, budget=8000)
    check = check_of(pair, "max_ppl_delta", Limits(max_ppl_delta=limit))
    assert (check.status, check.decisive) == (status, False)
    assert check.low < limit < check.high
    differences = [a - b for a, b in zip(*(one.windows.nll for one in pair), strict=True)]
    sampled = estimate(differences, (TOKENS,) * 40)
    assert check.evidence.startswith("point estimate: 99.9% interval ")
    assert f"about {sampled.tokens_to_decide(0.02):,.0f} tokens would decide it; " in check.evidence
    assert check.evidence.endswith(
        f"with 40 windows (4,000 of 8,000 tokens) the interval's half-width is {sampled.relative().half_width:.2%}"
    )


def test_what_lies_on_the_bound_is_never_settled():
    """No number of tokens tells it from the bound."""
    pair = beside(0.0, kld=ripple(40, 0.25, 0.01))
    mean = estimate(pair[0].windows.kld, pair[0].windows.tokens).value
    check = check_of(pair, "max_kld", Limits(max_kld=mean))
    assert "it is on the bound" in check.evidence
    assert "would decide it" not in check.evidence


@pytest.mark.parametrize("name", ["max_ppl_delta", "max_kld", "min_top1", "ppl_tolerance"])
def test_too_few_windows_are_a_point_estimate_without_an_interval(name):
    """Three windows have no interval: nothing infinite is shown, and the point decides."""
    pair = beside(0.02, count=3, kld=[0.1] * 3, differ=[0.1] * 3)
    limits = Limits(max_ppl_delta=0.01, max_kld=0.05, min_top1=0.95)
    check = check_of(pair, name, limits, entry=accepted(count=3))
    assert check.status is Status.REGRESSED
    assert (check.low, check.high, check.decisive) == (None, None, False)
    assert check.evidence.startswith(
        "point estimate; no confidence interval: too few windows, or all alike; 3 windows (300 tokens)"
    )


def test_documents_are_counted_where_they_are_the_evidence():
    """Windows of one document count once, and the interval is the wider for it."""
    pieces = [x for x in ripple(10, 0.02, 0.002) for _ in range(4)]
    limits = Limits(max_kld=0.03)
    alone = check_of(beside(kld=pieces), "max_kld", limits)
    together = check_of(beside(kld=pieces, units=tuple(n // 4 for n in range(40))), "max_kld", limits)
    assert "documents" not in alone.evidence
    assert together.evidence.endswith("40 windows (4,000 tokens, 10 documents)")
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_within_the_spread_of_requantizations_the_point_decides():
    """Sampling has settled it, another draw of the recipe might not: that is said, with no call for tokens."""
    one = noise(spread=0.004)
    bound = one.half_width(0.001)
    tolerances = Tolerances(ppl=math.expm1(1.5 * bound))
    for worse, status in ((1.2, Status.PASSED), (1.8, Status.REGRESSED)):
        check = check_of(beside(worse * bound), "ppl_tolerance", tolerances=tolerances, entry=accepted(one))
        assert (check.status, check.decisive) == (status, False)
        assert "point estimate: within the spread of requantizations; 99.9% interval" in check.evidence
        assert "would decide" not in check.evidence
        assert check.evidence.endswith("other quantized weights; requantizations spread by 0.400%")
    for worse, status in ((0.0, Status.PASSED), (4.0, Status.REGRESSED)):
        check = check_of(beside(worse * bound), "ppl_tolerance", tolerances=tolerances, entry=accepted(one))
        assert (check.status, check.decisive) == (status, True)


def test_a_baseline_of_fewer_or_more_windows_is_paired_as_far_as_both_go():
    """The evidence counts what was compared, and says how long the baseline is."""
    shorter = check_of(beside(), "ppl_tolerance", entry=accepted(count=20))
    assert "20 windows (2,000 of 4,000 tokens)" in shorter.evidence
    longer = check_of(beside(count=20), "ppl_tolerance", entry=accepted(count=40))
    assert "20 windows (2,000 tokens); the baseline has 40 windows" in longer.evidence


# ------------------------------------------------------------ the two gates against the baseline


@pytest.mark.parametrize(
    ("weights", "worse", "tolerances", "status"),
    [
        ("d", 0.0009, DEFAULT, Status.PASSED),
        ("d", 0.0011, DEFAULT, Status.REGRESSED),
        ("e", 0.0011, DEFAULT, Status.PASSED),
        ("e", 0.0049, DEFAULT, Status.PASSED),
        ("e", 0.0051, DEFAULT, Status.REGRESSED),
        ("d", -0.0011, DEFAULT, Status.IMPROVED),
        ("e", -0.0011, DEFAULT, Status.PASSED),
        ("e", -0.0051, DEFAULT, Status.IMPROVED),
        ("d", 0.0009, Tolerances(ppl=0.0005), Status.REGRESSED),
        ("d", 0.004, Tolerances(same_weights=0.01), Status.PASSED),
        ("d", 0.006, Tolerances(same_weights=0.01), Status.REGRESSED),
    ],
)
def test_the_same_weights_have_the_tighter_gate(weights, worse, tolerances, status):
    """0.1 % where only kernels can have moved it, 0.5 % where it was quantized anew; never the wider one."""
    pair = beside(math.log1p(worse), spread=1e-6, weights=weights)
    check = check_of(pair, "ppl_tolerance", tolerances=tolerances, entry=accepted())
    assert check.status is status
    assert check.bound == tolerances.of_perplexity(weights == "d")
    assert check.difference == pytest.approx(worse, abs=1e-6)
    assert ("the same quantized weights: only kernels" in check.evidence) == (weights == "d")
    assert ("the spread between requantizations was not measured" in check.evidence) == (weights == "e")


def test_the_spread_of_requantizations_is_no_excuse_for_the_same_weights():
    """The bytes are the baseline's: no other draw was made."""
    tolerances = Tolerances(ppl=0.2)
    check = check_of(
        beside(0.002, weights="d"), "ppl_tolerance", tolerances=tolerances, entry=accepted(noise(spread=0.01))
    )
    assert (check.status, check.decisive) == (Status.REGRESSED, True)
    assert "requantizations" not in check.evidence


def test_criteria_are_those_of_the_checks():
    """What stops a measurement early is what the verdict will ask, in its order."""
    one, reference = beside()
    limits = Limits(max_ppl_delta=0.1, max_kld=0.2, min_top1=0.9)
    known = noise(spread=0.002)
    criteria = comparison(one, accepted(known), limits).criteria(reference.windows)
    assert [(criterion.name, criterion.metric) for criterion in criteria] == [
        ("max_ppl_delta", "nll"),
        ("max_kld", "kld"),
        ("min_top1", "disagreement"),
        ("ppl_tolerance", "nll"),
    ]
    bounds = [math.log(1.1), 0.2, 0.1, math.log(1.005)]
    assert [criterion.bound for criterion in criteria] == pytest.approx(bounds)
    assert [criterion.ends for criterion in criteria] == [False, False, False, True]
    assert [criterion.spread for criterion in criteria] == [0, 0, 0, known.half_width(DEFAULT_RULE.alpha)]
    same = comparison(replace(one, weights_digest="d" * 64), accepted(known), limits).baseline_criteria()[-1]
    assert (same.bound, same.spread) == (math.log1p(0.001), 0)
    checks = judged(one, reference, accepted(), limits, DEFAULT).checks
    assert [criterion.name for criterion in criteria] == [
        c.name for c in checks if c.name in {criterion.name for criterion in criteria}
    ]


# ------------------------------------------------------------ the noise floor


@given(st.floats(1e-5, 0.05), st.integers(2, 20), st.sampled_from([0.001, 0.01, 0.05]))
@settings(deadline=None)
def test_a_tolerance_below_the_noise_is_invalid_and_says_what_to_raise_it_to(spread, times, alpha):
    """Whoever sets what the text says is answered; a hair below the floor is not enough."""
    known, rule = noise(spread, requantizations=times), Rule(alpha)
    floor = math.expm1(known.half_width(alpha))
    refused = check_of(
        beside(),
        "noise_floor",
        tolerances=Tolerances(ppl=0.999 * floor, same_weights=1),
        rule=rule,
        known=known,
    )
    assert refused.status is Status.INVALID
    assert (refused.value, refused.bound) == (0.999 * floor, floor)
    assert f"ppl_tolerance={0.999 * floor:g} is below the noise of this recipe" in refused.evidence
    said = float(re.search(r"differ by up to ([\d.]+)%", refused.evidence).group(1)) / 100
    assert said == pytest.approx(floor, abs=2e-4)
    assert "set ppl_tolerance to that or more" in refused.evidence
    tolerances = Tolerances(ppl=said, same_weights=1)
    assert check_of(beside(), "noise_floor", tolerances=tolerances, rule=rule, known=known) is None


@given(st.floats(1e-5, 0.05), st.sampled_from(["batch_size", "threads"]))
@settings(deadline=None)
def test_a_tight_gate_below_what_the_runtime_moves_is_invalid_too(moved, name):
    """What batch size or threads alone do must not break it; the text says to what to raise it."""
    known = noise(**{name: moved})
    floor = math.expm1(moved)
    refused = check_of(
        beside(), "noise_floor", tolerances=Tolerances(ppl=1, same_weights=0.999 * floor), known=known
    )
    assert (refused.status, refused.bound) == (Status.INVALID, floor)
    assert "same_weights_tolerance=" in refused.evidence
    said = float(re.search(r"the same weights \(([\d.]+)%\)", refused.evidence).group(1)) / 100
    tolerances = Tolerances(ppl=1, same_weights=said)
    assert check_of(beside(), "noise_floor", tolerances=tolerances, known=known) is None


def test_noise_counts_where_it_was_measured():
    """Just calibrated, else the baseline's; another type moves figures, but nobody's gate; none is no floor."""
    loud, quiet = noise(spread=0.01), noise(dtype=0.5)
    assert check_of(beside(), "noise_floor") is None
    assert check_of(beside(), "noise_floor", entry=accepted()) is None
    assert check_of(beside(), "noise_floor", entry=accepted(loud)).status is Status.INVALID
    assert check_of(beside(), "noise_floor", entry=accepted(loud), known=quiet) is None
    assert check_of(beside(), "noise_floor", entry=accepted(quiet), known=loud).status is Status.INVALID


# ------------------------------------------------------------ layers


def layers_check(old, new, known=None, tolerances=DEFAULT):
    one, reference = beside()
    entry = accepted(known, layers=Layers(*(tuple(row) for row in old)))
    one = replace(one, layers=Layers(*(tuple(row) for row in new)))
    return check_of((one, reference), "layers", tolerances=tolerances, entry=entry)


@pytest.mark.parametrize(
    ("gain", "error", "status"),
    [
        (1.0, 0.10, Status.PASSED),  # as it was
        (1.029, 0.10, Status.PASSED),
        (1.031, 0.10, Status.REGRESSED),  # moved
        (0.969, 0.10, Status.REGRESSED),
        (1.0, 0.129, Status.PASSED),
        (1.0, 0.131, Status.REGRESSED),  # its error grew
        (1.0, 0.01, Status.PASSED),  # nearer
        (1.031, 0.01, Status.REGRESSED),  # nearer in one respect only
    ],
)
def test_a_layer_that_moved_regresses(gain, error, status):
    """3 % of what it adds, in gain or error; the evidence names the layer, before and after."""
    check = layers_check(([1.0] * 3, [0.1] * 3), ([1.0, gain, 1.0], [0.1, error, 0.1]))
    assert check.status is status
    assert check.bound == 0.03
    if status is Status.REGRESSED:
        assert check.evidence.startswith(
            f"decoder layer 1 of 3: gain 1.000 → {gain:.3f}, error 0.100 → {error:.3f}"
        )


def test_a_layer_that_came_nearer_to_the_reference_passes():
    """However far it moved, where gain and error both did; and beyond the reference it is measured again."""
    old = [0.8, 1.0], [0.3, 0.1]
    assert layers_check(old, ([1.0, 1.0], [0.1, 0.1])).status is Status.PASSED
    assert layers_check(old, ([1.2, 1.0], [0.3, 0.1])).status is Status.PASSED
    assert layers_check(old, ([1.21, 1.0], [0.3, 0.1])).status is Status.REGRESSED


def test_the_noise_of_requantizations_widens_the_bound_of_layers():
    """Twice the farthest move of an unchanged recipe, where that is more than the tolerance."""
    old, new = ([1.0], [0.1]), ([1.05], [0.1])
    assert layers_check(old, new).status is Status.REGRESSED
    for moved, bound, status in ((0.01, 0.03, Status.REGRESSED), (0.03, 0.06, Status.PASSED)):
        check = layers_check(old, new, noise(layers=moved))
        assert (check.bound, check.status) == (bound, status)
    assert layers_check(old, new, tolerances=Tolerances(layers=0.06)).status is Status.PASSED


def test_layers_without_counterparts_are_not_compared():
    """A baseline without figures gives no check; one with figures that find none is no pass."""
    assert layers_check(([], []), ([1.0], [0.1])) is None
    for new in (([], []), ([1.0, 1.0], [0.1, 0.1])):
        found = layers_check(([1.0], [0.1]), new)
        assert found.status is Status.INVALID
        assert "figures of 1 decoder layers" in found.evidence


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_a_layer_that_is_not_finite_is_never_a_pass(bad, where):
    """NaN compares false with every bound: it is an error of its own, with or without a baseline."""
    one, reference = beside()
    figures = [[1.0, 1.0], [0.1, 0.1]]
    figures[where][0] = bad
    one = replace(one, layers=Layers(*map(tuple, figures)))
    entry = accepted(layers=Layers((1.0, 1.0), (0.1, 0.1)))
    for old in (entry, None):
        verdict = judged(one, reference, old, NO_LIMITS, DEFAULT)
        assert verdict.status is Status.ERROR
        assert "decoder layer 0" in verdict.failing[0].evidence
    part = Part("shakespeare", "test_gate", one, reference)
    assert Part.from_dict(
        json.loads(json.dumps(part.to_dict(), allow_nan=False))
    ).measurement.layers.nonfinite == [0]


# ------------------------------------------------------------ divergence


@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize(
    ("mean", "status"),
    [(0.05, Status.PASSED), (0.149, Status.PASSED), (0.151, Status.REGRESSED), (2.0, Status.REGRESSED)],
)
def test_mean_divergence_is_bounded(count, mean, status):
    """In nats per token: by its interval where there is one, else by the point."""
    pair = beside(count=count, kld=ripple(count, mean, 0.001))
    check = check_of(pair, "max_kld", Limits(max_kld=0.15))
    assert check.status is status
    assert (str(check.kind.question), check.bound, check.difference, check.before) == (
        "limit",
        0.15,
        None,
        None,
    )
    assert check.value == pytest.approx(mean)
    if count == 3:
        assert (check.low, check.high, check.decisive) == (None, None, False)
    else:
        assert check.low < mean < check.high
        assert check.decisive is not (check.low < 0.15 < check.high)
        assert f"interval {check.low:.4f} to {check.high:.4f} at any look" in check.evidence


@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize(
    ("agree", "status"),
    [(0.99, Status.PASSED), (0.951, Status.PASSED), (0.949, Status.REGRESSED), (0.2, Status.REGRESSED)],
)
def test_agreement_is_bounded_from_below(count, agree, status):
    """Shown as the share that agrees, with its interval the same way round."""
    pair = beside(count=count, differ=ripple(count, 1 - agree, 0.002))
    check = check_of(pair, "min_top1", Limits(min_top1=0.95))
    assert check.status is status
    assert check.bound == pytest.approx(0.95)
    assert check.value == pytest.approx(agree)
    if count == 3:
        assert (check.low, check.high, check.decisive) == (None, None, False)
    else:
        assert check.low < agree < check.high
        assert check.decisive is not (check.low < 0.95 < check.high)
        assert f"interval {check.low:+.2%} to {check.high:+.2%} at any look" in check.evidence


def test_a_lower_bound_is_named_where_it_counts():
    """A divergence over top tokens can only be less than the whole one: whoever bounds it is told."""
    for kind, said in (("top-k lower bound", True), ("exact", False)):
        pair = beside(kld=ripple(40, 0.1, 0.01), kind=kind)
        limits = Limits(max_kld=0.15, min_top1=0.9)
        check = check_of(pair, "max_kld", limits)
        assert ("; top-k lower bound, which cannot show that a limit is met" in check.evidence) is said
        assert check.decisive is not said
        assert "lower bound" not in check_of(pair, "min_top1", limits).evidence


def test_other_tokens_are_not_compared_with_the_reference():
    """A checkpoint of another tokenizer has no divergences and no paired windows: it regresses, and that is all."""
    one, reference = beside()
    windows = replace(one.windows, stream="other", kld=(), disagreement=(), squared_dp=())
    limits = Limits(max_ppl_delta=0.1, max_kld=0.1, min_top1=0.9, min_compression={"whole_vs_16bit": 2.0})
    verdict = judged(replace(one, windows=windows), reference, None, limits, DEFAULT)
    assert [check.name for check in verdict.failing] == ["tokenizer"]
    assert [check.name for check in verdict.answering(Question.LIMIT)] == ["min_compression"]


# ------------------------------------------------------------ plain forms


windows_of_nll = st.lists(st.tuples(st.floats(0, 700), st.floats(0, 700)), min_size=1, max_size=12)


@given(
    windows_of_nll, st.integers(1, 12), st.booleans(), st.booleans(), st.floats(0, 0.02), st.floats(0, 0.5)
)
@settings(deadline=None, max_examples=50)
def test_a_verdict_is_plain_json_whatever_was_measured(rows, old, fixed, same, spread, moved):
    """No NaN, no infinity, few windows or many, alike or ruined; and it comes back as it was."""
    count = len(rows)
    one, reference = (
        measured([TOKENS * x for x in nll], tokens=(TOKENS,) * count, weights="d" if same else "e")
        for nll in zip(*rows, strict=True)
    )
    kld = tuple(TOKENS * abs(a - b) for a, b in rows)
    windows = replace(one.windows, kld=kld, disagreement=(float(TOKENS),) * count, squared_dp=(0.0,) * count)
    one = replace(one, windows=windows, layers=Layers((1 + moved,), (moved,)))
    accepted_one = replace(reference, windows=reference.windows.prefix(old), layers=Layers((1.0,), (0.1,)))
    entry = Entry.of(accepted_one, accepted_one, noise(spread, moved / 10, threads=moved / 100))
    limits = Limits(max_ppl_delta=0.1, max_kld=0.1, min_top1=0.9, min_compression={"layers_vs_16bit": 3.0})
    verdict = judged(one, reference, entry, limits, DEFAULT, accepted_one, rule=Rule(0.001, fixed))
    text = json.dumps(verdict.to_dict(), allow_nan=False)
    assert Verdict.from_dict(json.loads(text)) == verdict


@pytest.mark.parametrize("spread", [0.0, 0.001])
def test_evidence_has_no_infinity_in_it(spread):
    """Texts are for people: neither inf nor nan is a figure."""
    for count in (1, 3, 4, 5, 40):
        pair = beside(0.004, count=count, spread=spread, kld=[0.1] * count, differ=[0.1] * count)
        limits = Limits(max_ppl_delta=0.004, max_kld=0.1, min_top1=0.9)
        for check in judged(*pair, accepted(count=count), limits, DEFAULT).checks:
            assert not re.search(r"\b(inf|nan)\b", check.evidence)
