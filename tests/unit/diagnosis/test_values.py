"""Numbers in stored tensors: every type as torch reads it, whole or by rows."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pytest_tenpak.diagnosis.values import floats, stored_values
from pytest_tenpak.models.safetensors_files import read_tensors

TYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int8,
    torch.uint8,
    torch.int32,
    torch.int64,
)


def stored(folder, tensor):
    """The tensor as a file has it."""
    save_file({"a": torch.ones(3), "x": tensor}, folder / "model.safetensors")
    return read_tensors(folder)["x"]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_values_are_those_that_torch_reads(tmp_path, dtype):
    """Of every type, and of a part of the rows."""
    values = (torch.randn(9, 4, generator=torch.Generator().manual_seed(0)) * 40).abs().to(dtype)
    found = stored(tmp_path, values)
    assert np.array_equal(floats(found), values.float().numpy())
    assert np.array_equal(floats(found, 2, 5), values[2:5].float().numpy())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_all_floats_of_8_bits_are_known(tmp_path, dtype):
    """Each of the 256, NaN and infinity among them."""
    values = torch.arange(256, dtype=torch.uint8).view(dtype)
    assert np.array_equal(floats(stored(tmp_path, values)), values.float().numpy(), equal_nan=True)


def test_a_single_number_is_read(tmp_path):
    """A scalar has no rows."""
    assert stored_values(stored(tmp_path, torch.tensor(7, dtype=torch.int64))) == 7
