"""Rounding to nearest on the grids of formats: what their own libraries make of the same weights."""

import numpy as np
import pytest
import torch

from pytest_tenpak.diagnosis.grids import Grid, e4m3_levels

WEIGHTS = np.random.default_rng(0).normal(size=(16, 96)).astype(np.float32)


def error(one, other):
    """Relative error."""
    return np.linalg.norm(one - other) / np.linalg.norm(other)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("grid", ["symmetric", "with a lowest level", "between extremes"])
def test_rounding_is_as_near_as_the_step_allows(bits, grid):
    """No weight is further away than half a step of its group, but for the ends of the range."""
    kinds = {"symmetric": {}, "with a lowest level": {"lowest": -(2 ** (bits - 1))}, "between extremes": {}}
    found = Grid(bits, 32, grid != "between extremes", **kinds[grid]).round(WEIGHTS)
    groups, near = WEIGHTS.reshape(16, 3, 32), found.reshape(16, 3, 32)
    spread = groups.max(2) - groups.min(2) if grid == "between extremes" else 2 * np.abs(groups).max(2)
    levels = 2**bits - (2 if grid == "symmetric" else 1)
    step = spread / max(levels, 1)
    assert (np.abs(groups - near).max(2) <= step * 1.001).all()
    assert (np.mean(np.abs(groups - near)) < np.mean(step) / 2).all()


def test_a_group_that_does_not_divide_the_inputs_ends_short():
    """As some kernels have it; nothing is lost of the last weights."""
    assert error(Grid(8, 64).round(WEIGHTS), WEIGHTS) < 0.01


def test_nf4_is_rounded_as_bitsandbytes_rounds_it():
    """To its own levels, by the largest magnitude of 64 weights."""
    functional = pytest.importorskip("bitsandbytes").functional
    weights = torch.from_numpy(np.random.default_rng(1).normal(size=(32, 128)).astype(np.float32))
    packed, state = functional.quantize_4bit(weights, blocksize=64, quant_type="nf4")
    theirs = functional.dequantize_4bit(packed, state).numpy()
    ours = Grid(4, 64, levels=tuple(state.code.tolist())).round(weights.numpy())
    assert error(ours, theirs) < 0.01
    assert error(ours, weights.numpy()) == pytest.approx(error(theirs, weights.numpy()), rel=1e-3)


def test_floats_of_8_bits_are_rounded_as_torch_rounds_them():
    """Up to the fineness of the table, which moves no error by a hundredth."""
    scale = np.abs(WEIGHTS).max() / 448
    theirs = torch.from_numpy(WEIGHTS / scale).to(torch.float8_e4m3fn).float().numpy() * scale
    ours = Grid(8, 0, levels=e4m3_levels()).round(WEIGHTS.reshape(1, -1)).reshape(WEIGHTS.shape)
    assert error(ours, WEIGHTS) == pytest.approx(error(theirs, WEIGHTS), rel=0.01)
