"""TenPak's recipes, its failures and classic slips, one gate each, for `make tenpak-history`."""

import os

import pytest

MODEL = os.environ.get("TENPAK_HISTORY_MODEL")
LIMIT = float(os.environ.get("TENPAK_HISTORY_LIMIT", "0.4"))
#: Groups by module, for recipes that are neither v10 nor v60, as v10 has them.
V10 = {"group_size": {"attn": 256, "mlp": 2048}, "activation_scaling": True, "outlier_fraction": 0.005}
SAMPLES = {"samples": 16, "sample_length": 256}
RECIPES = {
    "v10": {"method": "tenpak-v10", **SAMPLES},
    "v60": {"method": "tenpak-v60", **SAMPLES},
    "v13": {"method": "rtn", "group_size": {"attn": 512, "mlp": 2048}},
    "v14": {"method": "int4", **V10, "outlier_fraction": 0.01, **SAMPLES},
    "v17": {"method": "int4", **V10, "outlier_fraction": 0.0, **SAMPLES},
    "v21": {"method": "sparse-2-4", **V10, **SAMPLES},
    "v63": {"method": "sparse-3-4", **V10, **SAMPLES},
    "v62": {"method": "hadamard", **V10, **SAMPLES},
    "v67": {"method": "gptq-lite", "group_size": 64},
    # What works, taken further: small groups, and bits where they matter.
    "rtn": {"method": "rtn", "group_size": 64},
    "scaled": {"method": "int4", "group_size": 64, "activation_scaling": True, "clip": True, **SAMPLES},
    "fisher": {"method": "int4", **V10, "allocation": "fisher", **SAMPLES},
    "zeros": {"method": "zeros-off-by-one", "group_size": 64, "sym": False},
    "scales": {"method": "neighbours-scales", "group_size": 64},
    "transposed": {"method": "transposed-groups", "group_size": 64},
    "shard": {"method": "foreign-shard", "group_size": 64},
    "order": {"method": "group-order-ignored", "group_size": 64},
    "cheat": {"method": "tenpak-v10", "calibration": "shakespeare", **SAMPLES},
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.quantize(model=MODEL, max_ppl_delta=LIMIT, **row))
        for name, row in RECIPES.items()
    ],
)
def test_recipe(name):
    """The gate does the work; what it measures goes into the table."""
