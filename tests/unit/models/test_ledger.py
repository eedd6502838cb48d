"""The compression ledger and the weights' digest, from real safetensors files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pytest_tenpak.errors import CheckpointError
from pytest_tenpak.models.ledger import ledger
from pytest_tenpak.models.safetensors_files import read_tensors, weights_digest


def saved(folder: Path, tensors: dict, name: str = "model.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / name)
    return folder


@pytest.fixture
def model(tmp_path) -> Path:
    """A layer of 64 × 32 with a bias, embeddings of 100 × 32, a norm; 16 bit."""
    return saved(
        tmp_path / "model",
        {
            "model.embed_tokens.weight": torch.randn(100, 32).half(),
            "model.layers.0.up.weight": torch.randn(64, 32).half(),
            "model.layers.0.up.bias": torch.randn(64).half(),
            "model.norm.weight": torch.ones(32).half(),
        },
    )


WEIGHTS = 100 * 32 + 64 * 32 + 64 + 32


def test_an_unquantized_model_is_one_to_one(model):
    """Compression 1 against 16 bit, 2 against 32; no layer is quantized, so there are no bits per weight."""
    counted = ledger(model, model)
    assert counted.weights == WEIGHTS
    assert counted.ratios == {"whole_vs_16bit": 1.0, "whole_vs_32bit": 2.0}
    assert counted.bits_per_weight is None


@pytest.mark.parametrize(
    "layer",
    [
        {"weight": torch.zeros(1024, 1).byte(), "weight.absmax": torch.zeros(32)},
        {
            "qweight": torch.zeros(4, 64).int(),
            "scales": torch.zeros(1, 64).half(),
            "qzeros": torch.zeros(1, 8).int(),
        },
        {"weight": torch.zeros(64, 32).char(), "SCB": torch.zeros(64)},
    ],
    ids=["nf4", "gptq", "int8"],
)
def test_everything_a_quantized_layer_stores_counts_but_its_bias(model, tmp_path, layer):
    """Codes, scales, zeros and maxima are the price; the bias is not quantized and not counted there."""
    tensors = {f"model.layers.0.up.{name}": tensor for name, tensor in layer.items()}
    for name in ("model.embed_tokens.weight", "model.norm.weight", "model.layers.0.up.bias"):
        tensors[name] = torch.zeros(read_tensors(model)[name].shape).half()
    counted = ledger(saved(tmp_path / "q", tensors), model)
    price = sum(tensor.numel() * tensor.element_size() for tensor in layer.values())
    assert counted.layer_weights == 64 * 32
    assert counted.layer_bytes == price
    assert counted.bits_per_weight == 8 * price / 2048
    assert counted.tensor_bytes == price + 2 * (WEIGHTS - 2048)
    assert counted.ratios["whole_vs_16bit"] == 2 * WEIGHTS / counted.tensor_bytes
    assert counted.file_bytes > counted.tensor_bytes


@pytest.mark.parametrize("prefixed", ["model", "checkpoint"])
def test_names_may_differ_by_a_prefix(tmp_path, prefixed):
    """GPT-2 is published without the prefix that a saved checkpoint has; masks in old files are no weights."""
    body = {
        "wte.weight": torch.randn(100, 32).half(),
        "h.0.attn.bias": torch.ones(1, 1, 64, 64),
        "h.0.attn.masked_bias": torch.tensor(-1e4),
        "h.0.attn.c_attn.weight": torch.randn(32, 96).half(),
        "h.0.attn.c_attn.bias": torch.randn(96).half(),
    }
    quantized = {
        "wte.weight": body["wte.weight"],
        "h.0.attn.c_attn.weight": torch.zeros(1536, 1).byte(),
        "h.0.attn.c_attn.weight.absmax": torch.zeros(48),
        "h.0.attn.c_attn.bias": body["h.0.attn.c_attn.bias"],
    }
    named = {"model": body, "checkpoint": quantized}
    named[prefixed] = {f"transformer.{name}": tensor for name, tensor in named[prefixed].items()}
    folders = {name: saved(tmp_path / name, tensors) for name, tensors in named.items()}
    counted = ledger(folders["checkpoint"], folders["model"])
    assert counted.weights == 3200 + 3072 + 96
    assert counted.layer_weights == 3072
    assert counted.layer_bytes == 1536 + 4 * 48


def test_tied_embeddings_count_once(model, tmp_path):
    """A head that repeats the embeddings is no weight more; one with values of its own is."""
    tensors = {"model.embed_tokens.weight": torch.randn(100, 32), "lm_head.weight": torch.randn(100, 32)}
    untied = saved(tmp_path / "untied", tensors)
    assert ledger(untied, untied).weights == 6400
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tied = saved(tmp_path / "tied", tensors)
    assert ledger(tied, tied).weights == 3200
    assert ledger(tied, tied).ratios["whole_vs_32bit"] == 0.5, "stored twice is what is on disk"


def test_the_digest_does_not_depend_on_how_the_files_are_cut(tmp_path):
    """The same tensors in one file or two, in any order, have one digest; a changed byte has another."""
    one, two = torch.randn(5, 3), torch.randn(7).half()
    whole = saved(tmp_path / "whole", {"a": one, "b": two})
    cut = saved(tmp_path / "cut", {"b": two}, "model-1.safetensors")
    saved(cut, {"a": one}, "model-2.safetensors")
    assert weights_digest(whole) == weights_digest(cut)
    one[0, 0] += 1
    assert weights_digest(saved(tmp_path / "other", {"a": one, "b": two})) != weights_digest(whole)


def test_damaged_and_missing_files_are_named(model, tmp_path):
    """A shard cut short, garbage, a shard that the index promises, or no safetensors at all."""
    file = model / "model.safetensors"
    whole = file.read_bytes()
    for cut in (len(whole) - 1, 40, 4):
        file.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated or damaged"):
            read_tensors(model)
    file.write_bytes(whole)
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"x": "model-2.safetensors"}}')
    with pytest.raises(CheckpointError, match="a shard .* is missing") as caught:
        read_tensors(model)
    assert "model-2.safetensors" in str(caught.value)
    with pytest.raises(CheckpointError, match="no weights"):
        read_tensors(tmp_path)
