"""Groups on the grid of 16 values."""

import pytest
import torch

from pytest_tenpak.quantizers.int4.grid import pack, round_to_groups, unpack
from pytest_tenpak.quantizers.rounding import round_to_nearest


def weights(outputs=6, inputs=40, seed=0):
    """Some weights, one output of which is zero and one far from it."""
    rows = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))
    rows[1] = 0
    rows[2] += 3
    return rows


@pytest.mark.parametrize("count", [1, 2, 7, 16])
def test_packed_codes_are_read_back(count):
    """Two codes a byte, whether their number is even or odd."""
    codes = torch.arange(3 * count, dtype=torch.uint8).reshape(3, count) % 16
    packed = pack(codes)
    assert packed.shape == (3, -(-count // 2))
    assert torch.equal(unpack(packed, count), codes)


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("group", [8, 16, 40])
def test_every_weight_goes_to_the_nearest_value_of_its_group(sym, group):
    """No error beyond half a step, zero stays zero, and a last group may be shorter."""
    rows = weights()
    found = round_to_groups(rows, group, sym=sym)
    assert found.scales.shape == (6, -(-40 // group))
    steps = found.scales.float().repeat_interleave(group, dim=1)[:, :40]
    # Scales are rounded to float16, which may put the outermost weight a little outside.
    assert ((found.weights() - rows).abs() <= steps * 0.508).all()
    assert (found.weights()[1] == 0).all()


def test_an_asymmetric_grid_is_finer_for_weights_on_one_side_of_zero():
    """It spans from least to largest weight, where a symmetric one wastes the other half."""
    rows = weights().abs()
    errors = [float((round_to_groups(rows, 8, sym=sym).weights() - rows).norm()) for sym in (True, False)]
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("sym", [True, False])
def test_clipping_never_costs_and_counts_what_is_important(sym):
    """The error that it makes least is the weighted one."""
    rows = weights(32, 64)
    rows[:, 5] *= 20
    importance = torch.ones(1, 64)
    importance[0, 5] = 1e-6
    plain, clipped = (
        round_to_groups(rows, 16, sym=sym, clip=clip, importance=importance) for clip in (False, True)
    )
    errors = [float(((one.weights() - rows).square() * importance).sum()) for one in (plain, clipped)]
    assert errors[1] < 0.9 * errors[0]


def test_groups_and_nothing_else_are_the_floor():
    """What the gate rounds to nearest in memory, up to scales in float16."""
    torch.manual_seed(0)  # of other weights one may be so near the middle that the scales decide
    model = torch.nn.Sequential(torch.nn.Linear(40, 6, bias=False))
    rows = model[0].weight.detach().clone()
    round_to_nearest(model, ["0"], 4, 16)
    ours = round_to_groups(rows, 16, sym=True).weights()
    assert torch.allclose(ours, model[0].weight, atol=2e-3 * float(rows.abs().max()))
