"""One matrix with outliers and scaled inputs."""

import pytest
import torch

from pytest_tenpak.quantizers.int4.matrix import Recipe, Statistics, quantize_matrix


def weights():
    """A matrix with some large weights, and statistics of inputs of which a few are large."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(24, 50, generator=generator)
    rows[3, 7], rows[20, 49] = 30.0, -25.0
    sizes = torch.rand(50, generator=generator) + 0.1
    sizes[:3] = 40
    return rows, Statistics(sizes, sizes.square())


RECIPES = [
    Recipe(16),
    Recipe(50, sym=False),
    Recipe(7, outliers=0.01, scaled=True),
    Recipe(16, outliers=0.02, sym=False, clip=True, scaled=True),
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_a_recipe_says_it_takes_is_what_is_stored(recipe):
    """To the bit, so that a budget of bits is one of bytes on disk."""
    rows, statistics = weights()
    tensors = quantize_matrix(rows, recipe, statistics).tensors()
    assert 8 * sum(row.numel() * row.element_size() for row in tensors.values()) == recipe.bits(24, 50)


def test_outliers_are_kept_and_do_not_widen_their_groups():
    """In float16, the largest ones; the others have the steps of what is left."""
    rows, statistics = weights()
    plain = quantize_matrix(rows, Recipe(16), statistics).weights()
    kept = quantize_matrix(rows, Recipe(16, outliers=2 / 1200), statistics).weights()
    assert (kept[3, 7], kept[20, 49]) == (30.0, -25.0)
    assert (kept[3, :16] - rows[3, :16]).norm() < 0.2 * (plain[3, :16] - rows[3, :16]).norm()


def test_scaled_inputs_have_less_error_where_inputs_are_large():
    """The error of outputs falls; that of weights alone may rise."""
    rows, statistics = weights()

    def error(recipe):
        off = quantize_matrix(rows, recipe, statistics).weights() - rows
        return float((off.square() * statistics.squares).sum())

    assert error(Recipe(16, scaled=True)) < 0.5 * error(Recipe(16))
