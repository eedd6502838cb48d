"""When windows have answered: at the first look that decides, by worker and verdict alike."""

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_tenpak.metrics.intervals import Rule, estimate, looks
from pytest_tenpak.metrics.measurement import Windows
from pytest_tenpak.verdict.criteria import FIRST_SECTION, Criterion, first_decisive_look, limit_of

PLANNED = 100
GRID = looks(PLANNED)
SURE = Rule(0.001)
patient = settings(deadline=None)


def windows(rows, tokens=100, lost=None, units=None, **others) -> Windows:
    """Windows with so many nats per token each."""
    count = len(rows)
    sums = {name: tuple(tokens * x for x in row) for name, row in {"nll": rows, **others}.items()}
    return Windows(
        tokens=(tokens,) * count, lost=tuple(lost or (0,) * count), stream="s", units=units, **sums
    )


def noisy(count=PLANNED, mean=0.0, spread=0.01, seed=0) -> list[float]:
    """Nats per token, window by window, around a mean."""
    chooser = random.Random(seed)
    return [chooser.gauss(mean, spread) for _ in range(count)]


def criterion(bound, against=None, **rest) -> Criterion:
    """A bound on NLL, paired with nothing or with nats per token."""
    sums = None if against is None else tuple(100 * x for x in against)
    return Criterion("max_ppl_delta", "nll", bound, sums, **rest)


def by_hand(criteria, measured, rule=SURE):
    """The first look whose intervals are clear of their bounds, from the definition."""
    for count in GRID:
        if count > len(measured.tokens):
            return None
        answers = []
        for one in criteria:
            sums = [a - b for a, b in zip(measured.nll[:count], one.against, strict=False)]
            found = estimate(sums, measured.tokens[:count], rule)
            answers.append(True if found.high <= one.bound else False if found.low > one.bound else None)
        if False in answers or None not in answers:
            return count
    return None


# ------------------------------------------------------------ where to stop


@pytest.mark.parametrize("mean", [0.0, 0.004, 0.007, 0.013, 0.02, 0.1])
def test_the_first_decisive_look_is_the_last(mean):
    """Clear figures take one look, close ones more, and it is always the first one that decides."""
    before = noisy(seed=1)
    measured = windows([a + b for a, b in zip(before, noisy(mean=mean, spread=0.005), strict=True)])
    criteria = [criterion(0.01, before)]
    found = first_decisive_look(criteria, measured, PLANNED, SURE)
    assert found == by_hand(criteria, measured)
    assert found is not None
    for count in GRID:
        answer = criteria[0].is_decided(measured.prefix(count), SURE)
        if count < found:
            assert answer is None
        if count == found:
            assert answer is (mean < 0.01)


def test_clear_figures_take_one_look_and_close_ones_more():
    """A failure far beyond the bound ends at once, as does a pass; on the bound itself nothing does."""
    before = noisy(seed=1)
    ends = []
    for mean in (-1.0, 0.0, 0.011, 0.1, 3.0):
        measured = windows([a + b for a, b in zip(before, noisy(mean=mean, spread=0.005), strict=True)])
        ends.append(first_decisive_look([criterion(0.01, before)], measured, PLANNED, SURE))
    assert ends[0] == ends[3] == ends[4] == GRID[0]
    assert ends[1] > GRID[0]
    assert ends[2] is None


def test_no_look_is_larger_than_what_was_measured():
    """However clear it is: windows that are not there cannot be asked."""
    for count in range(1, PLANNED + 1):
        measured = windows(noisy(count, mean=-1))
        found = first_decisive_look([criterion(0.0, [0.0] * PLANNED)], measured, PLANNED, SURE)
        assert found == (GRID[0] if count >= GRID[0] else None)


@patient
@given(
    st.integers(0, 99),
    st.sampled_from([0.0, 0.006, 0.009, 0.011, 0.015, 0.05]),
    st.integers(1, PLANNED),
    st.booleans(),
    st.sampled_from([0.001, 0.05]),
)
def test_more_windows_than_needed_do_not_move_the_answer(seed, mean, count, whole, alpha):
    """The worker that stopped there, and the verdict over a longer trace, find the same count."""
    before = noisy(seed=seed)
    measured = windows([a + b for a, b in zip(before, noisy(mean=mean, seed=seed + 1), strict=True)])
    criteria = [criterion(0.01, before), criterion(0.2, before[:30], ends=True)]
    rule = Rule(alpha)
    answer = first_decisive_look(criteria, measured, PLANNED, rule, whole)
    shorter = first_decisive_look(criteria, measured.prefix(count), PLANNED, rule, whole)
    assert shorter == (answer if answer is not None and answer <= count else None)
    # Look by look, as a worker goes: it stops at that look and at no other.
    stopped = [
        look
        for look in GRID
        if first_decisive_look(criteria, measured.prefix(look), PLANNED, rule, whole, start=look) is not None
    ]
    assert (stopped[0] if stopped else None) == answer


def test_a_start_leaves_earlier_looks_out():
    """A worker that is past a look does not ask it again."""
    measured = windows(noisy(mean=-1))
    criteria = [criterion(0.0, [0.0] * PLANNED)]
    for start in (0, 1, 8, 9, 12, 50, 100):
        expected = next(look for look in GRID if look >= start)
        assert first_decisive_look(criteria, measured, PLANNED, SURE, start=start) == expected


def test_every_goal_has_to_be_met_and_one_that_is_broken_is_enough():
    """A pass waits for the last one; a failure waits for none."""
    measured = windows(noisy(mean=0.0), kld=noisy(mean=0.5), disagreement=[0.1] * PLANNED)
    met, open_ = criterion(1.0), criterion(estimate(measured.nll, measured.tokens).value)
    broken = Criterion("max_kld", "kld", 0.4)
    assert first_decisive_look([met], measured, PLANNED, SURE) == GRID[0]
    assert first_decisive_look([met, open_], measured, PLANNED, SURE) is None
    assert first_decisive_look([met, open_, broken], measured, PLANNED, SURE) == GRID[0]


def test_the_whole_plan_is_cut_short_by_a_broken_goal_alone():
    """A baseline wants all windows, but those of what fails its limit are of no use."""
    measured = windows(noisy(mean=0.0))
    for bound, early in ((1.0, None), (-1.0, GRID[0])):
        assert first_decisive_look([criterion(bound)], measured, PLANNED, SURE, whole=True) == early


def test_what_a_baseline_has_no_windows_for_is_settled_where_it_ends():
    """A shorter baseline is paired as far as it goes; a reference will go on."""
    level = noisy()
    measured = windows(level)
    mean = sum(level[:20]) / 20  # the very mean over the baseline's windows: no interval decides
    criteria = [criterion(mean, [0.0] * 20, ends=True)]
    assert first_decisive_look(criteria, measured, PLANNED, SURE) == next(look for look in GRID if look >= 20)
    assert first_decisive_look(criteria, measured.prefix(19), PLANNED, SURE) is None
    assert first_decisive_look([replace(criteria[0], ends=False)], measured, PLANNED, SURE) is None


def test_a_spread_that_dwarfs_the_sampling_error_ends_it():
    """What no window can remove is not waited for; what is broken beyond it is still broken."""
    measured = windows(noisy(mean=0.0, spread=1e-4))
    assert criterion(0.005).is_decided(measured, SURE) is True
    assert criterion(0.005, spread=0.02).is_decided(measured, SURE) is True
    assert criterion(-0.005, spread=0.02).is_decided(measured, SURE) is True  # nothing more to learn
    assert criterion(-0.005).is_decided(measured, SURE) is False
    assert criterion(-0.5, spread=0.02).is_decided(measured, SURE) is False
    # Where the sampling error is the larger one, windows can still tell.
    loose = windows(noisy(20, mean=0.0, spread=0.05))
    assert criterion(0.1, spread=0.1).is_decided(loose, SURE) is None


def test_one_token_that_is_not_finite_settles_everything():
    """At the first look that has it: the case is an error, and no window will mend that."""
    lost = [0] * PLANNED
    lost[13] = 1
    measured = windows(noisy(), lost=lost)
    criteria = [criterion(estimate(measured.nll, measured.tokens).value)]
    for whole in (False, True):
        assert first_decisive_look(criteria, measured, PLANNED, SURE, whole) == next(
            look for look in GRID if look >= 14
        )
    assert first_decisive_look(criteria, measured.prefix(13), PLANNED, SURE) is None


def test_a_fixed_rule_and_no_goals_never_stop():
    """One look is the one at the end; without a question there is no answer to wait for."""
    measured = windows(noisy(mean=-9), lost=[1] * PLANNED)
    assert first_decisive_look([criterion(0.0)], measured, PLANNED, Rule(0.001, fixed=True)) is None
    assert first_decisive_look([], measured, PLANNED, SURE) is None


def test_documents_are_the_pieces_that_count():
    """Windows of one document are not so many pieces of evidence."""
    level = [x for x in noisy(25, mean=0.004, spread=0.005, seed=3) for _ in range(4)]
    documents = tuple(n // 4 for n in range(PLANNED))
    alone, together = windows(level), windows(level, units=documents)
    counts = [
        first_decisive_look([criterion(0.01)], measured, PLANNED, Rule(0.05))
        for measured in (alone, together)
    ]
    assert counts[0] < (counts[1] or PLANNED + 1)


def test_a_goal_travels_to_the_worker():
    """As plain JSON, and back to what it was; also through one that pairs with nothing."""
    for one in (criterion(0.01, noisy(5), ends=True, spread=0.25), Criterion("max_kld", "kld", 0.1)):
        assert Criterion.from_dict(json.loads(json.dumps(one.to_dict()))) == one


# ------------------------------------------------------------ how many to measure


@given(st.integers(1, 3000))
def test_a_first_stretch_is_a_look_within_a_quarter(planned):
    """The last such look, or the first look where a quarter holds none; None is all, others are caps."""
    grid = looks(planned)
    within = [look for look in grid if look <= planned / 4]
    assert limit_of(planned, FIRST_SECTION) == (within[-1] if within else grid[0])
    assert limit_of(planned, None) == planned
    for limit in (1, 7, planned, planned + 1):
        assert limit_of(planned, limit) == min(limit, planned)


@pytest.mark.parametrize("count", range(1, 9))
def test_a_disaster_breaks_a_tolerance_however_few_the_windows(count):
    """Where no interval can be had the point alone decides; where one can, this is told apart from no change."""
    measured = windows(noisy(count, mean=5.0, spread=0.5))
    answer = criterion(0.005, [0.0] * count, unchanged=0.0).answer(measured, Rule())
    assert not answer.holds


def test_what_is_not_told_apart_from_no_change_breaks_no_tolerance():
    """Noise of a mean a little above the bound: passed, undecided, and said to be so."""
    measured = windows(noisy(mean=0.02, spread=0.1))
    against = criterion(0.003, [0.0] * PLANNED, unchanged=0.0)
    answer = against.answer(measured, Rule())
    assert answer.sampled.value > 0.003
    assert (answer.holds, answer.decisive, answer.significant) == (True, False, False)
    assert not criterion(0.003, [0.0] * PLANNED).answer(measured, Rule()).holds


def test_an_improvement_is_told_apart_from_no_change_too():
    """A lucky draw does not advise to tighten the baseline; a real gain does."""
    against = criterion(0.005, [0.0] * PLANNED, unchanged=0.0)
    lucky, real = (windows(noisy(mean=-0.02, spread=spread)) for spread in (1.0, 0.01))
    assert lucky.nll < real.nll or sum(lucky.nll) < 0
    assert not against.is_improvement(lucky, Rule())
    assert against.is_improvement(real, Rule())
