"""Which stored tensors hold NaN or infinity."""

import pytest
import torch
from safetensors.torch import save_file

from pytest_tenpak.models.nonfinite import nonfinite_tensors


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_tensors_with_nan_or_infinity_are_named_with_their_file(tmp_path, dtype, bad):
    """The largest finite number is fine; integers cannot be anything else."""
    fine = torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).min, 0.0], dtype=dtype)
    broken = torch.tensor([0.0, bad], dtype=dtype)
    save_file({"a": fine, "b": broken, "c": torch.full((3,), -1)}, tmp_path / "model.safetensors")
    assert nonfinite_tensors(tmp_path) == ("b in model.safetensors",)
