"""The frontier: what is out is out on evidence, and what is best stays, on made-up windows."""

import math
import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_tenpak.metrics.intervals import Rule
from pytest_tenpak.metrics.measurement import Windows
from pytest_tenpak.verdict.checks import Limits
from pytest_tenpak.verdict.frontier import Contender, Out, Sieve, Why, pareto, sections

TOKENS, PLANNED = 255, 32
RULE, FIXED = Rule(0.001), Rule(0.001, fixed=True)


def text(seed: int = 0, count: int = PLANNED) -> list[float]:
    """NLL by token of the unquantized model: some windows are harder than others."""
    chooser = random.Random(seed)
    return [3 + 0.5 * chooser.gauss(0, 1) for _ in range(count)]


def windows(nll, lost=()) -> Windows:
    """Windows with these means per token; those numbered in ``lost`` have a token that is not finite."""
    count = len(nll)
    sums = tuple(TOKENS * x for x in nll)
    return Windows(sums, (TOKENS,) * count, tuple(int(n in lost) for n in range(count)), "s")


def contender(name, compression, loss, noise=0.0, seed=1, count=PLANNED, **rest) -> Contender:
    """A recipe that loses so many nats per token, more in some windows than in others."""
    chooser = random.Random(f"{name}{seed}")
    nll = [x + loss + noise * chooser.gauss(0, 1) for x in text()[:count]]
    return Contender(name, compression, windows(nll, **rest))


def sieve(most=0.05, least=None, rule=RULE) -> Sieve:
    """What contenders are held against."""
    limits = Limits(max_ppl_delta=most, min_compression={} if least is None else {"whole_vs_16bit": least})
    return Sieve(limits, windows(text()), PLANNED, rule)


def test_a_recipe_is_dominated_only_where_the_difference_is_significant():
    """The same difference of means, once the same in all windows and once lost in noise."""
    good, worse = contender("good", 2.0, 0.01, 0.002), contender("worse", 2.0, 0.03, 0.002)
    assert sieve().out([good, worse]) == {"worse": Out(Why.DOMINATED, 8 * TOKENS, "good")}
    noisy = contender("worse", 2.0, 0.03, 0.1)
    assert sieve().out([good, noisy]) == {}


def test_windows_are_paired():
    """The texts' own differences, ten times as large, hide nothing."""
    ours = [contender("good", 2.0, 0.0).windows.nll, contender("worse", 2.0, 0.05, 0.005).windows.nll]
    assert max(ours[0]) - min(ours[0]) > 10 * TOKENS * 0.05
    found = sieve(most=None).out([contender("good", 2.0, 0.0), contender("worse", 2.0, 0.05, 0.005)])
    assert found["worse"].by == "good"


def test_a_smaller_recipe_is_not_dominated_by_a_better_one():
    """That is what a frontier is."""
    assert sieve(most=None).out([contender("good", 2.0, 0.0), contender("small", 2.1, 0.5, 0.01)]) == {}


def test_bounds_put_out_what_breaks_them():
    """Compression without a token; perplexity at the first look that is clear; what has no figure at once."""
    found = sieve(0.05, 2.0).out(
        [
            contender("large", 1.9, 0.0),
            contender("bad", 2.5, 0.3, 0.02),
            contender("broken", 2.4, 0.0, lost=(3,)),
            contender("fine", 2.2, 0.01, 0.005),
        ]
    )
    assert found == {
        "large": Out(Why.COMPRESSION),
        "bad": Out(Why.PERPLEXITY, 8 * TOKENS),
        "broken": Out(Why.NOT_FINITE, 8 * TOKENS),
    }


def test_what_is_not_measured_yet_is_in():
    """And drops nothing."""
    nothing = Contender("new", 3.0, Windows((), (), (), ""))
    assert sieve().out([nothing, contender("fine", 2.0, 0.0)]) == {}
    assert sieve().unsettled([nothing, contender("fine", 2.0, 0.0)]) == {"new"}


def test_other_texts_are_not_compared():
    """A checkpoint with another tokenizer has other tokens: no pair of windows means anything."""
    good = contender("good", 2.0, 0.0)
    moved = replace(good, windows=replace(good.windows, stream="t"))
    assert sieve(most=None).out([moved, contender("worse", 2.0, 0.5, 0.01)]) == {}


def test_one_fixed_look_is_taken_at_the_end():
    """Before the end of the plan nothing is out, however clear it seems."""
    early = [contender("good", 2.0, 0.0, count=16), contender("worse", 2.0, 0.2, 0.01, count=16)]
    whole = [contender("good", 2.0, 0.0), contender("worse", 2.0, 0.2, 0.01)]
    assert sieve(most=None, rule=FIXED).out(early) == {}
    assert sieve(most=None, rule=FIXED).out(whole) == {"worse": Out(Why.DOMINATED, PLANNED * TOKENS, "good")}


def test_equals_do_not_drop_each_other():
    """Of 200 pairs that differ by noise alone, at every look: the error rate is 0.001."""
    dropped = 0
    for seed in range(200):
        pair = [contender(name, 2.0, 0.02, 0.02, seed=seed) for name in "ab"]
        dropped += len(sieve(most=None).out(pair))
    assert dropped <= 2


RECIPES = st.lists(
    st.tuples(st.sampled_from([1.0, 1.6, 2.2, 2.3, 2.4]), st.floats(-0.02, 0.3), st.floats(0, 0.05)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(RECIPES)
def test_the_best_is_never_dropped(recipes):
    """Whatever is dominated leads, over what dominates it, to one that is not, and is no larger."""
    contenders = [contender(f"r{n}", *recipe) for n, recipe in enumerate(recipes)]
    found = sieve(most=None).out(contenders)
    compression = {one.name: one.compression for one in contenders}
    for name in compression:
        at = name
        for _ in contenders:
            if at not in found:
                break
            assert compression[found[at].by] >= compression[at]
            at = found[at].by
        assert at not in found
    best = min(contenders, key=lambda one: (-one.compression, sum(one.windows.nll)))
    assert best.name not in found
    assert sieve(most=None).pick(contenders) == best


@settings(max_examples=40, deadline=None)
@given(RECIPES, st.lists(st.integers(8, PLANNED), min_size=6, max_size=6))
def test_what_is_out_stays_out(recipes, counts):
    """More windows of any recipe bring nothing back: what was dropped need not be measured again."""

    def measured(count):
        return [contender(f"r{n}", *recipe, count=count(n)) for n, recipe in enumerate(recipes)]

    some = measured(lambda n: counts[n])
    early = sieve().out(some)
    # What is out is measured no further, and the order of equals in size may change with more windows.
    later = sieve().out(
        [
            one if one.name in early else whole
            for one, whole in zip(some, measured(lambda n: PLANNED), strict=True)
        ]
    )
    sizes = [one.compression for one in some]
    if len(set(sizes)) == len(sizes):
        assert early.keys() <= later.keys()
    assert {name for name, out in early.items() if out.why is Why.PERPLEXITY} <= later.keys()


def test_more_is_measured_only_where_it_may_change_the_answer():
    """What is larger than a recipe that surely meets the bound is settled, and so is what is out."""
    sure = contender("sure", 2.2, 0.0, 0.002, count=8)
    open_one = contender("open", 2.4, 0.045, 0.05, count=8)
    large = contender("large", 1.6, 0.045, 0.05, count=8)
    bad = contender("bad", 2.5, 0.4, 0.02, count=8)
    assert sieve().unsettled([sure, open_one, large, bad]) == {"open"}
    assert sieve().unsettled([open_one, large, bad]) == {"open", "large"}
    assert sieve().unsettled([contender("open", 2.4, 0.045, 0.05)]) == set(), "the budget is spent"


def test_of_two_equally_small_the_better_is_to_be_found():
    """Both surely meet the bound, and their perplexities are too near: more windows may tell."""
    pair = [contender("a", 2.2, 0.0, 0.002, count=8), contender("b", 2.2, 0.0001, 0.002, count=8)]
    assert sieve().unsettled(pair) == {"a", "b"}


def test_the_smallest_that_meets_the_bounds_is_picked_and_of_equals_the_best():
    """None where none does."""
    a, b, c = contender("a", 2.2, 0.02), contender("b", 2.2, 0.01), contender("c", 2.5, 0.2)
    assert sieve().pick([a, b, c]).name == "b"
    assert sieve(0.5).pick([a, b, c]).name == "c"
    assert sieve(0.001).pick([a, b, c]) is None
    assert sieve(0.5, 3.0).pick([a, b, c]) is None


def test_recipes_measured_on_different_stretches_are_ordered_by_what_they_lose():
    """The first windows of this text are the hardest: whoever has only those is no worse for it."""
    order = sorted(range(PLANNED), key=lambda n: -text()[n])
    hard = [text()[n] for n in order]
    held = replace(sieve(), reference=windows(hard))
    short = Contender("short", 2.0, windows([x + 0.01 for x in hard[:8]]))
    long = Contender("long", 2.0, windows([x + 0.02 for x in hard]))
    assert held.pick([short, long]) == short
    assert held.out([short, long]).keys() == {"long"}


@pytest.mark.parametrize("planned", [1, 4, 8, 31, 32, 600])
def test_sections_grow_to_the_whole_plan(planned):
    """A quarter where the plan is long, at most twice as many each time; one look has one section."""
    found = sections(planned, RULE)
    assert found[-1] == planned
    assert all(a < b <= 2 * a for a, b in pairwise(found))
    assert found[0] <= max(8, planned / 4)
    assert sections(planned, FIXED) == [planned]
    few = contender("few", 2.0, 0.0, 0.002, count=min(found[0], PLANNED))
    decided = sieve().bound().is_decided(few.windows, RULE)
    assert decided or planned < 8, "fewer windows than have an interval are no section"


def test_the_frontier_is_what_no_other_beats():
    """None is as low in both figures and lower in one; equals stand together."""
    assert pareto([(4, 3.0), (8, 1.0), (8, 2.0), (4, 3.0), (5, 3.0), (6, 2.0)]) == {0, 3, 5, 1}
    assert pareto([]) == set()


def test_a_contender_without_a_figure_is_worst():
    """It dominates nothing."""
    broken = contender("broken", 2.5, -1.0, lost=(0,))
    assert sieve().loss(broken) == math.inf
    assert "fine" not in sieve().out([broken, contender("fine", 2.0, 0.0)])
