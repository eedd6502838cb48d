"""A budget of bits, spent where it saves most."""

import random
from itertools import product

import pytest

from pytest_tenpak.quantizers.int4.allocation import Choice, allocate, candidates
from pytest_tenpak.quantizers.int4.matrix import Recipe


def rows(seed):
    """Choices of four matrices: more bits lose less, not always in proportion."""
    chooser = random.Random(seed)
    found = {}
    for name in "abcd":
        loss, bits, choices = chooser.uniform(1, 9), 100, []
        for number in range(4):
            choices.append(Choice(Recipe(16 + number), bits, loss))
            loss, bits = loss * chooser.uniform(0.2, 1.1), bits + chooser.randint(5, 60)
        found[name] = choices
    return found


def totals(choices, recipes):
    """Bits and loss of chosen recipes."""
    taken = [one for name, rows in choices.items() for one in rows if one.recipe == recipes[name]]
    return sum(one.bits for one in taken), sum(one.loss for one in taken)


@pytest.mark.parametrize("seed", range(20))
def test_the_budget_is_kept_and_nearly_nothing_saves_more(seed):
    """Within the budget, and no worse than the best with one step less to spend."""
    choices = rows(seed)
    budget = 560
    bits, loss = totals(choices, allocate(choices, budget))
    assert bits <= budget
    combinations = [[*zip(choices, combination, strict=True)] for combination in product(*choices.values())]
    best = min(
        sum(one.loss for _, one in combination)
        for combination in combinations
        if sum(one.bits for _, one in combination) <= budget - 60
    )
    assert loss <= best + 1e-9


def test_a_budget_below_the_cheapest_gives_the_cheapest():
    """There is nothing cheaper to choose."""
    choices = rows(0)
    assert {recipe.group for recipe in allocate(choices, 1).values()} == {16}


def test_the_uniform_recipe_is_among_the_choices():
    """So that its own bits are always enough, whatever the width."""
    for width in (20, 64, 576):
        found = candidates(Recipe(min(128, width), outliers=0.005), width)
        assert Recipe(min(128, width), outliers=0.005) in found
        assert all(16 <= one.group <= width for one in found)
        assert len(set(found)) == len(found)
