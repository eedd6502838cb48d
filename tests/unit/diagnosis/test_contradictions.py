"""Quantization configs that contradict the weights beside them."""

import json

import pytest
import torch
from safetensors.torch import save_file

from pytest_tenpak.diagnosis.contradictions import contradictions

INPUTS, OUTPUTS, GROUP = 64, 32, 16


@pytest.fixture
def model(tmp_path):
    """One layer and a norm."""
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(
        {"l.up.weight": torch.randn(OUTPUTS, INPUTS), "norm.weight": torch.ones(4)},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text("{}")
    return folder


def gptq(folder, config, shuffled=False, middle=True, second=None):
    """The layer as GPTQ stores it, with a config."""
    folder.mkdir()
    groups = torch.arange(INPUTS) // GROUP
    zeros = 0x77777777 if middle else 0x01234567
    tensors = {
        "l.up.qweight": torch.zeros(INPUTS // 8, OUTPUTS, dtype=torch.int32),
        "l.up.qzeros": torch.full((INPUTS // GROUP, OUTPUTS // 8), zeros, dtype=torch.int32),
        "l.up.scales": torch.ones(INPUTS // GROUP, OUTPUTS),
        "l.up.g_idx": (groups.flip(0).contiguous() if shuffled else groups).int(),
        "norm.weight": torch.ones(4),
    }
    save_file(tensors, folder / "model.safetensors")
    config = {"quant_method": "gptq", **config}
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    if second is not None:
        (folder / "quantize_config.json").write_text(json.dumps(second))
    return folder


@pytest.mark.parametrize(
    "config",
    [
        {"bits": 4, "group_size": GROUP, "desc_act": False, "sym": True},
        {"bits": 4, "group_size": GROUP, "desc_act": True, "sym": False},
        {},
    ],
)
def test_a_config_that_agrees_is_no_contradiction(tmp_path, model, config):
    """Nor is one that allows more than the weights need, or that says nothing."""
    assert contradictions(gptq(tmp_path / "checkpoint", config, second=config), model) == []


@pytest.mark.parametrize(
    ("config", "made", "line"),
    [
        ({"bits": 8}, {}, "bits is 8, but the weights have 4"),
        ({"group_size": 32}, {}, "group_size is 32, but the weights have 16"),
        ({"group_size": -1}, {}, "group_size is -1, but the weights have 16"),
        ({"desc_act": False}, {"shuffled": True}, "desc_act is false, but the weights have true"),
        ({"sym": True}, {"middle": False}, "sym is true, but the weights have false"),
        ({"modules_to_not_convert": ["up"]}, {}, "'up' is to be left unquantized, but is stored quantized"),
    ],
)
def test_a_contradiction_is_named(tmp_path, model, config, made, line):
    """With both sides, and how many layers are concerned."""
    assert contradictions(gptq(tmp_path / "checkpoint", config, **made), model) == [f"{line} (1 of 1 layers)"]


def test_two_configs_that_contradict_each_other_are_named(tmp_path, model):
    """Loaders read either."""
    folder = gptq(tmp_path / "checkpoint", {"bits": 4, "sym": True}, second={"bits": 4, "sym": False})
    assert contradictions(folder, model) == ["sym is true in config.json, but false in quantize_config.json"]


def test_kinds_of_4_bit_codes(tmp_path, model):
    """bitsandbytes' loader believes the weights, others the config."""
    functional = pytest.importorskip("bitsandbytes").functional
    codes, state = functional.quantize_4bit(torch.randn(OUTPUTS, INPUTS), blocksize=64, quant_type="fp4")
    tensors = {f"l.up.weight.{name}": value for name, value in state.as_dict(packed=True).items()}
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save_file({"l.up.weight": codes, "norm.weight": torch.ones(4), **tensors}, folder / "model.safetensors")
    config = {
        "quant_method": "bitsandbytes",
        "load_in_8bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    }
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    assert [line.partition(" is")[0] for line in contradictions(folder, model)] == [
        "bits",
        "bnb_4bit_quant_type",
        "bnb_4bit_use_double_quant",
    ]
