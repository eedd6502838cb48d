"""Every method and backend on one model: one gate each, without limits. `make table` prints what they give.

`TENPAK_METHODS_MODEL` names the model, `TENPAK_METHODS_GROUP` the group size, which has to divide its widths.
"""

import os

import pytest

MODEL = os.environ.get("TENPAK_METHODS_MODEL")
GROUP = int(os.environ.get("TENPAK_METHODS_GROUP", "64"))
#: Few samples, so that four methods that calibrate are done within the hour on two cores.
CALIBRATION = {"samples": 16, "sample_length": 256}
GROUPED = {"bits": 4, "group_size": GROUP, **CALIBRATION}
METHODS = {
    "fp16": {"method": "fp16"},
    "rtn-4": {"method": "round-to-nearest", "bits": 4, "group_size": GROUP},
    "gptq": {"method": "gptq", "backend": "gptqmodel", **GROUPED},
    "auto-gptq": {"method": "gptq", "backend": "auto-gptq", **GROUPED},
    # The search for clipping is left out: on CPU it takes longer than all the rest.
    "awq": {"method": "awq", "backend": "gptqmodel", "clip": False, **GROUPED},
    "autoawq": {"method": "awq", "backend": "autoawq", "clip": False, **GROUPED},
    "tenpak-v10": {"method": "tenpak-v10", **CALIBRATION},
    "tenpak-v60": {"method": "tenpak-v60", **CALIBRATION},
    "int4": {"method": "int4", "activation_scaling": True, "clip": True, **GROUPED},
    "int4-fisher": {"method": "int4", "allocation": "fisher", "outlier_fraction": 0.005, **GROUPED},
    "nf4": {"method": "nf4"},
    "nf4-double": {"method": "nf4", "double_quant": True},
    "rtn-8": {"method": "round-to-nearest", "bits": 8, "group_size": GROUP},
    "int8": {"method": "int8"},
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.quantize(model=MODEL, max_rtn_factor=0, may_skip=True, **row))
        for name, row in METHODS.items()
    ],
)
def test_method(name):
    """The gate does the work; what it measures goes into the table."""
