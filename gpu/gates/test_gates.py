"""Gates of every method on one model, with kernels that need no compiler."""

import os

import pytest

CALIBRATION = {"samples": 16, "sample_length": 256}
#: On a GPU GPTQModel's own choice is compiled first, for minutes; "torch" is plain Python.
KERNEL = os.environ.get("TENPAK_PROOF_KERNEL", "torch")


@pytest.mark.quantize(method="nf4")
def test_nf4():
    """4-bit NormalFloat, by bitsandbytes."""


@pytest.mark.quantize(method="int8")
def test_int8():
    """LLM.int8(), by bitsandbytes."""


@pytest.mark.quantize(
    method="int4", group_size=64, outlier_fraction=0.005, activation_scaling=True, clip=True, **CALIBRATION
)
def test_int4():
    """The plugin's own method, with everything that it can search for."""


@pytest.mark.quantize(method="gptq", group_size=64, kernel=KERNEL, **CALIBRATION)
def test_gptq():
    """GPTQ, by GPTQModel."""


@pytest.mark.quantize(method="awq", group_size=64, kernel=KERNEL, **CALIBRATION)
def test_awq():
    """AWQ, by GPTQModel."""
