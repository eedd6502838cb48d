"""Means per token of paired windows: what the intervals and the looks promise."""

import json
import math
import random
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT

from pytest_tenpak.metrics.intervals import (
    MIN_DOCUMENTS,
    MIN_UNITS,
    Estimate,
    Rule,
    anytime_t,
    estimate,
    looks,
    perplexity,
    units_of,
)

WINDOWS = ROOT / "benchmarks" / "windows.json"
#: Windows as they come: sums of differences in nats, a few hundred tokens each.
# Sums below a billionth of a nat are none: relative figures of them overflow.
sums_ = st.floats(-500, 500).map(lambda nats: round(nats, 9))
rows = st.lists(st.tuples(sums_, st.integers(100, 600)), min_size=8, max_size=40)
rules = st.builds(Rule, st.sampled_from([0.001, 0.01, 0.05, 0.1]), st.booleans())
bounds = st.floats(-2, 2)
#: A busy machine may take its time; a bootstrapped interval needs some hundredths of a second anyway.
patient = settings(deadline=None)
slower = settings(patient, max_examples=25)


@pytest.fixture(scope="module")
def student():
    """Student's distribution, by a module whose import takes most of a second."""
    from scipy.stats import t

    return t


def near(value, scale=1.0):
    return pytest.approx(value, rel=1e-6, abs=1e-9 * scale)


def ends(found):
    return [found.value, found.low, found.high]


@slower
@given(rows, rules, st.randoms(use_true_random=False))
def test_the_order_of_windows_does_not_show(rows, rule, random):
    """The mean is the same to the last bit in any order, and so is an anytime interval."""
    shuffled = random.sample(rows, len(rows))
    one, other = estimate(*zip(*rows, strict=True), rule), estimate(*zip(*shuffled, strict=True), rule)
    assert one.value == other.value
    # Below 30 windows a fixed interval is bootstrapped, and the draws name windows by their place.
    if not rule.fixed or len(rows) >= 30:
        assert one == other


@slower
@given(rows, rules, st.floats(0.01, 100))
def test_the_unit_of_measurement_does_not_show(rows, rule, factor):
    """Sums in another unit give the same mean and interval in that unit."""
    sums, tokens = zip(*rows, strict=True)
    scaled = estimate([factor * s for s in sums], tokens, rule)
    assert ends(scaled) == near([factor * x for x in ends(estimate(sums, tokens, rule))], factor)


@patient
@given(rows, st.sampled_from([0.001, 0.05]), st.floats(-3, 3))
def test_a_shift_moves_the_whole_interval(rows, alpha, shift):
    """So many nats more on every token move mean, low and high by just that."""
    sums, tokens = zip(*rows, strict=True)
    moved = [s + shift * t for s, t in zip(sums, tokens, strict=True)]
    found, shifted = (estimate(x, tokens, Rule(alpha)) for x in (sums, moved))
    assert ends(shifted) == near([x + shift for x in ends(found)], 100)


@patient
@given(rows, st.booleans())
def test_a_mirror_mirrors_the_interval(rows, fixed):
    """Better and worse are judged alike: the negated sums have the negated interval, arms swapped."""
    rows = rows * 4 if fixed else rows  # from 30 windows on: a bootstrap has its own draws for either end
    sums, tokens = zip(*rows, strict=True)
    found, mirrored = (estimate(x, tokens, Rule(fixed=fixed)) for x in (sums, [-s for s in sums]))
    assert [-mirrored.value, -mirrored.high, -mirrored.low] == near(ends(found))


@slower
@given(rows, st.booleans())
def test_more_confidence_is_never_narrower(rows, fixed):
    """The interval for a lower error rate holds the one for a higher rate."""
    sums, tokens = zip(*rows, strict=True)
    found = [estimate(sums, tokens, Rule(alpha, fixed)) for alpha in (0.1, 0.05, 0.01, 0.001)]
    for narrow, wide in pairwise(found):
        assert wide.low <= narrow.low <= narrow.value <= narrow.high <= wide.high


@patient
@given(st.integers(MIN_UNITS, 5000), st.floats(1e-5, 0.2))
def test_looking_whenever_one_likes_is_never_free(student, n, alpha):
    """The anytime interval is never narrower than Student's for one look at the same windows."""
    assert anytime_t(n, alpha) >= student.isf(alpha / 2, n - 1)


def test_the_anytime_bound_is_where_its_e_value_is_one_over_alpha(student):
    """The bound solves BF(t) = 1/alpha, with the Bayes factor integrated from its definition."""
    from scipy.integrate import quad
    from scipy.stats import nct, norm

    from pytest_tenpak.metrics.intervals import MIXTURE

    for n, alpha in ((8, 0.01), (16, 0.001), (64, 0.05)):
        bound = anytime_t(n, alpha)

        def mixed(effect, n=n, bound=bound):
            return nct.pdf(bound, n - 1, effect * n**0.5) * norm.pdf(effect, scale=MIXTURE**0.5)

        alternative, _ = quad(mixed, -5, 15, limit=400, points=[0, bound / n**0.5])
        assert alternative / student.pdf(bound, n - 1) == pytest.approx(1 / alpha, rel=1e-3)


@slower
@given(rows, rules)
def test_units_of_one_window_are_no_units(rows, rule):
    """Naming each window its own piece changes nothing."""
    sums, tokens = zip(*rows, strict=True)
    assert estimate(sums, tokens, rule, range(len(rows))) == estimate(sums, tokens, rule)


def test_windows_of_a_document_are_one_piece():
    """Copies of a window inside its document are no new evidence: the interval stays as wide."""
    sums, tokens = [1.0, -2.0, 3.0, 0.5, 2.5, -1.0] * 6, [100] * 36
    once = estimate(sums, tokens)
    copied = [s for s in sums for _ in range(5)]
    documents = [number for number in range(36) for _ in range(5)]
    clustered = estimate(copied, [100] * 180, units=documents)
    assert (clustered.windows, clustered.units) == (180, 36)
    assert ends(clustered) == near(ends(once))
    assert estimate(copied, [100] * 180).half_width < once.half_width / 2


def test_a_prefix_keeps_the_units_of_its_plan():
    """Units may go on beyond the windows measured so far, but never end before them."""
    sums, tokens = [1.0, 2.0, 3.0, 4.0, 5.0], [10] * 5
    assert estimate(sums, tokens, units=range(9)) == estimate(sums, tokens, units=range(5))
    with pytest.raises(ValueError, match="units"):
        estimate(sums, tokens, units=range(4))


def test_documents_count_from_ten_on():
    """A corpus of few documents is judged window by window, one of many by document."""
    assert units_of([0] * 50) is None
    assert units_of(list(range(MIN_DOCUMENTS - 1))) is None
    assert units_of([0, 0, *range(MIN_DOCUMENTS)]) == [0, 0, *range(MIN_DOCUMENTS)]


@slower
@given(rows, rules, bounds)
def test_a_decision_is_an_interval_on_one_side(rows, rule, bound):
    """True and False need the whole interval on their side of the bound, and then the mean is there too."""
    found = estimate(*zip(*rows, strict=True), rule)
    decided = found.decides(bound)
    assert decided is {(True, False): True, (False, True): False}.get(
        (found.high <= bound, found.low > bound)
    )
    if decided is not None:
        assert decided == (found.value <= bound)
    # Relative differences decide against the relative bound as nats do against nats.
    if abs(found.high - bound) > 1e-6 and abs(found.low - bound) > 1e-6:
        assert found.relative().decides(math.expm1(bound)) is decided


@pytest.mark.parametrize("fixed", [False, True])
def test_few_windows_decide_nothing(fixed):
    """Three windows that agree almost exactly are still no evidence."""
    few = estimate([1.0, 1.001, 0.999], [100] * 3, Rule(fixed=fixed))
    assert (few.low, few.high) == (-math.inf, math.inf)
    assert few.decides(1e9) is None
    assert few.tokens_to_decide(0.5) == math.inf


@pytest.mark.parametrize("fixed", [False, True])
def test_windows_that_are_all_alike_leave_no_doubt(fixed):
    """Identical measurements, as of unchanged weights on the same machine, decide at once."""
    found = estimate([0.0] * 4, [100] * 4, Rule(fixed=fixed))
    assert ends(found) == [0, 0, 0]
    assert found.decides(0.0) is True


def test_one_long_document_is_not_ten():
    """The mean of a corpus that is nearly all one document is nearly that document's: nothing is decided."""
    sums, tokens = [5000.0, *[1.0, -1.0] * 5], [100_000, *[100] * 10]
    assert estimate(sums, tokens).decides(0.06) is None
    assert estimate(sums, tokens, Rule(fixed=True)).decides(0.06) is None


@patient
@given(rows, st.floats(0.001, 1))
def test_another_error_widens_both_arms(rows, spread):
    """Added in quadrature: at least as wide as either alone, at most as wide as both in a row."""
    found = estimate(*zip(*rows, strict=True), Rule(0.05))
    wide = found.widened(spread)
    upper = found.high - found.value, wide.high - wide.value
    lower = found.value - found.low, wide.value - wide.low
    for before, after in (upper, lower):
        assert max(before, spread) - 1e-9 <= after <= before + spread + 1e-9
    assert found.widened(0) == found


def test_tokens_to_decide_decide_it():
    """With so many tokens and the same mean, the interval just reaches the bound; spread does not shrink."""
    found = Estimate(0.01, 20, 1000, 20, low=-0.01, high=0.03)
    assert found.tokens_to_decide(0.0) == pytest.approx(4000)
    assert found.tokens_to_decide(0.02) == pytest.approx(4000)
    assert found.tokens_to_decide(0.01) == math.inf
    wide = found.widened(0.005)
    assert wide.tokens_to_decide(0.0) == pytest.approx(1000 * 0.02**2 / (0.01**2 - 0.005**2))
    assert found.widened(0.01).tokens_to_decide(0.0) == math.inf
    assert wide.relative().tokens_to_decide(0.0) == pytest.approx(wide.tokens_to_decide(0.0), rel=0.03)


def test_arms_of_a_fixed_interval_follow_the_skew():
    """Windows that are mostly small and now and then large leave more room above the mean than below."""
    skewed = [x**3 for x in range(1, 21)]
    found = estimate(skewed, [1] * 20, Rule(0.05, fixed=True))
    assert found.high - found.value > 1.1 * (found.value - found.low)


@patient
@given(st.integers(1, 10_000))
def test_looks_end_at_the_budget(total):
    """Looks rise, end with the whole budget, are few, and begin within its first quarter, but for tiny ones."""
    grid = looks(total)
    assert grid == sorted(set(grid))
    assert grid[-1] == total
    assert grid[0] <= max(total // 4, MIN_UNITS)
    assert len(grid) <= 4 + 3 * math.log2(max(2, total))
    assert all(later <= 2 * earlier for earlier, later in pairwise(grid))


@pytest.mark.parametrize("n", [12, 40])
def test_coverage_is_nominal(n):
    """Of some hundred seeded intervals over normal windows, at one look, as many hold the truth as they promise."""
    runs = 100 if n < 30 else 2000
    draw = np.random.default_rng(n).normal(0.3, 5.0, size=(runs, n)) * 100
    for alpha in (0.1, 0.05, 0.001):
        found = [estimate(list(row), [100] * n, Rule(alpha, fixed=True)) for row in draw]
        missed = sum(not x.low <= 0.3 <= x.high for x in found)
        allowed = runs * alpha
        assert missed <= allowed + 3 * math.sqrt(allowed) + 1
        if n >= 30 and allowed > 10:  # and not by being wider than need be
            assert missed >= allowed - 3 * math.sqrt(allowed)


def test_peeking_breaks_the_rate_and_the_anytime_interval_keeps_it(student):
    """Nothing differs; stopping at the first look that says otherwise is wrong 2 % of the time at most by
    the anytime interval, and three times as often as promised by intervals made for one look.
    """
    alpha, runs, grid = 0.02, 1000, looks(256)
    draw = np.random.default_rng(7).normal(size=(runs, 256))
    naive = [student.isf(alpha / 2, n - 1) for n in grid]
    anytime = [anytime_t(n, alpha) for n in grid]
    t = np.array([np.sqrt(n) * draw[:, :n].mean(1) / draw[:, :n].std(1, ddof=1) for n in grid])
    assert (abs(t) > np.array(naive)[:, None]).any(0).mean() > 3 * alpha
    assert (abs(t) > np.array(anytime)[:, None]).any(0).mean() <= alpha
    # The same, by the interval that users get.
    for row in draw[:20]:
        for n, bound in zip(grid, anytime, strict=True):
            found = estimate(list(row[:n]), [1] * n, Rule(alpha))
            assert found.error == pytest.approx(row[:n].std(ddof=1) / math.sqrt(n))
            assert found.half_width == pytest.approx(bound * row[:n].std(ddof=1) / math.sqrt(n))


@pytest.mark.parametrize("pair", [("bfloat16", "float32"), ("nf4-double", "nf4")])
def test_a_thousand_verdicts_on_real_windows_raise_one_false_alarm_at_most(pair):
    """Windows of a real model, resampled so that nothing got worse, against the default tolerance."""
    stored = json.loads(WINDOWS.read_text(encoding="utf-8"))
    new, old = (np.array(stored["nll"][name]) for name in pair)
    drawn = np.random.default_rng(11).choice(new - old - (new - old).mean(), size=(1000, 128))
    bound, tokens = math.log1p(0.005), stored["tokens"][:1] * 128
    alarms, spent = 0, []
    for row in drawn.tolist():
        for count in looks(128):
            found = estimate(row[:count], tokens[:count])
            if found.decides(bound) is not None:
                break
        alarms += found.value > bound
        spent.append(count)
    assert alarms <= 1
    assert np.median(spent) <= 128 / 4


def test_scipy_and_numpy_wait_until_a_fixed_interval_is_asked_for():
    """A gate that is answered from the cache pays for neither."""
    lines = (
        "import sys, pytest_tenpak.metrics.intervals as s",
        "s.estimate([1.0, 2.0, 3.0, 4.0, 5.0], [10] * 5)",
        "assert not {'scipy', 'numpy'} & set(sys.modules)",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


@patient
@given(st.lists(st.tuples(st.floats(0, 5000), st.floats(0, 5000), st.integers(500, 600)), min_size=1))
def test_the_paired_difference_is_the_ratio_of_perplexities(rows):
    """exp of the mean NLL difference, minus one, equals PPL/PPL_before − 1."""
    nll, before, tokens = zip(*rows, strict=True)
    differences = [a - b for a, b in zip(nll, before, strict=True)]
    expected = perplexity(nll, tokens) / perplexity(before, tokens) - 1
    assert estimate(differences, tokens).relative().value == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_sums_are_divided_last():
    """Windows of unequal length weigh by their tokens."""
    assert perplexity([10.0, 1.0], [1, 10]) == pytest.approx(math.exp(1.0))
    assert estimate([10.0, 1.0], [1, 10]).value == pytest.approx(1.0)


def test_nothing_scored_is_no_figure():
    """No tokens give NaN, never a number; an estimate of nothing is an error."""
    assert math.isnan(perplexity([], []))
    for sums, tokens in (([], []), ([0.0], [0]), ([1.0, 2.0], [1])):
        with pytest.raises(ValueError, match="equal, non-empty"):
            estimate(sums, tokens)


def test_windows_that_scored_nothing_are_no_evidence():
    """A window without a finite token counts as none."""
    random.seed(0)
    sums = [random.gauss(0, 1) for _ in range(10)]
    assert ends(estimate([*sums, 0.0], [10] * 10 + [0])) == ends(estimate(sums, [10] * 10))


def test_an_absurd_loss_is_infinite_not_a_crash():
    """exp overflows at about 710 nats; a ruined model can get there, and no tokens would clear it."""
    assert perplexity([1e6], [1]) == math.inf
    ruined = estimate([1e6, 1.1e6, 0.9e6, 1e6, 1.05e6, 1e6, 1e6, 1e6], [1] * 8, Rule(0.05)).relative()
    assert ruined.value == ruined.low == math.inf
    assert ruined.decides(0.005) is False
    assert ruined.tokens_to_decide(0.005) == math.inf
