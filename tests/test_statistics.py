"""Perplexity and paired differences, against their definitions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tenpak.statistics import perplexity, relative_perplexity

rows = st.lists(
    st.tuples(st.floats(0, 5000), st.floats(0, 5000), st.integers(500, 600)), min_size=1, max_size=40
)


@given(rows)
def test_the_paired_difference_is_the_ratio_of_perplexities(rows):
    """exp of the mean NLL difference, minus one, equals PPL/PPL_before − 1."""
    nll, before, tokens = zip(*rows, strict=True)
    expected = perplexity(nll, tokens) / perplexity(before, tokens) - 1
    assert relative_perplexity(nll, before, tokens).value == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_sums_are_divided_last():
    """Windows of unequal length weigh by their tokens."""
    assert perplexity([10.0, 1.0], [1, 10]) == pytest.approx(math.exp(1.0))


def test_nothing_scored_is_no_figure():
    """No tokens give NaN, never a number; pairing nothing is an error."""
    assert math.isnan(perplexity([], []))
    with pytest.raises(ValueError, match="paired"):
        relative_perplexity([], [], [])
    with pytest.raises(ValueError, match="paired"):
        relative_perplexity([1.0], [1.0, 2.0], [1])


def test_an_absurd_loss_is_infinite_not_a_crash():
    """exp overflows at about 710 nats; a ruined model can get there."""
    assert perplexity([1e6], [1]) == math.inf
    assert relative_perplexity([1e6], [1.0], [1]).value == math.inf
