"""The compression ledger and the weights' digest, from real safetensors files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_tenpak.errors import CheckpointError
from pytest_tenpak.models.ledger import read_contents
from pytest_tenpak.models.safetensors_files import INDEX, read_tensors, weights_digest


def saved(folder: Path, tensors: dict, name: str = "model.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / name)
    return folder


def sharded(folder: Path, shards: list[dict]) -> Path:
    """Tensors in several files, with an index."""
    named = {}
    for n, tensors in enumerate(shards, 1):
        file = f"model-{n:05}-of-{len(shards):05}.safetensors"
        saved(folder, tensors, file)
        named |= dict.fromkeys(tensors, file)
    (folder / INDEX).write_text(json.dumps({"weight_map": named}))
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
    counted = read_contents(model, model).ledger
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
    counted = read_contents(saved(tmp_path / "q", tensors), model).ledger
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
    counted = read_contents(folders["checkpoint"], folders["model"]).ledger
    assert counted.weights == 3200 + 3072 + 96
    assert counted.layer_weights == 3072
    assert counted.layer_bytes == 1536 + 4 * 48


def test_tied_embeddings_count_once(model, tmp_path):
    """A head that repeats the embeddings is no weight more; one with values of its own is."""
    tensors = {"model.embed_tokens.weight": torch.randn(100, 32), "lm_head.weight": torch.randn(100, 32)}
    untied = saved(tmp_path / "untied", tensors)
    assert read_contents(untied, untied).ledger.weights == 6400
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tied = saved(tmp_path / "tied", tensors)
    assert read_contents(tied, tied).ledger.weights == 3200
    assert read_contents(tied, tied).ledger.ratios["whole_vs_32bit"] == 0.5, "stored twice is what is on disk"


def test_the_digest_does_not_depend_on_how_the_files_are_cut(tmp_path):
    """The same tensors in one file or two, in any order, have one digest; a changed byte has another."""
    one, two = torch.randn(5, 3), torch.randn(7).half()
    whole = saved(tmp_path / "whole", {"a": one, "b": two})
    cut = sharded(tmp_path / "cut", [{"b": two}, {"a": one}])
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
    cut = sharded(tmp_path / "cut", [{"a": torch.zeros(2)}, {"b": torch.zeros(2)}])
    (cut / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="a shard .* is missing") as caught:
        read_tensors(cut)
    assert "model-00002-of-00002.safetensors" in str(caught.value)
    with pytest.raises(CheckpointError, match="no weights"):
        read_tensors(tmp_path)


def without_the_second_shard(named: dict) -> dict:
    return {name: file for name, file in named.items() if "model-00002" not in file}


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (without_the_second_shard, "no tensor of model-00002-of-00002.safetensors is in the index"),
        (lambda named: {**named, "c": named["a"]}, "c is not in model-00001-of-00002.safetensors"),
        (lambda named: {**named, "a": named["b"]}, "a is in model-00001-of-00002.safetensors, but not in"),
    ],
    ids=["a shard that is not named", "a tensor that is not there", "a tensor that is elsewhere"],
)
def test_an_index_that_contradicts_its_shards_is_refused(tmp_path, edit, said):
    """Some loaders go by the index, others by the shards: they would load different models."""
    zeros = torch.zeros(2)
    folder = sharded(tmp_path / "cut", [{"a": zeros, "other": zeros.clone()}, {"b": zeros}])
    index = folder / INDEX
    named = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": edit(named)}))
    with pytest.raises(CheckpointError, match="contradicts its shards") as caught:
        read_tensors(folder)
    assert said in caught.value.given


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {"a": 1}}', '{"weight_map": {}}', "\udcff"])
def test_an_index_that_is_none_is_named(tmp_path, text):
    """Cut short, another file's, or empty."""
    folder = sharded(tmp_path / "cut", [{"a": torch.zeros(2)}])
    (folder / INDEX).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json cannot be read"):
        read_tensors(folder)


def test_shards_without_an_index_are_refused(tmp_path):
    """Which of them a loader reads is anybody's guess."""
    folder = sharded(tmp_path / "cut", [{"a": torch.zeros(2)}, {"b": torch.zeros(2)}])
    (folder / INDEX).unlink()
    with pytest.raises(CheckpointError, match=r"has shards, but no model\.safetensors\.index\.json"):
        read_tensors(folder)


def test_files_that_no_loader_reads_do_not_count(model):
    """A second copy of the model, optimizer states, an index from before the shards were joined."""
    before = read_contents(model, model)
    saved(model, {"exp_avg": torch.zeros(1000)}, "optimizer.safetensors")
    saved(model, {"original": torch.zeros(1000)}, "consolidated.safetensors")
    (model / INDEX).write_text('{"weight_map": {"x": "model-00001-of-00002.safetensors"}}')
    assert read_contents(model, model) == before


# ---------------------------------------------------------------- what is missing


def quantized(model: Path, folder: Path, layer: dict, layers: int = 3) -> tuple[Path, Path]:
    """The model with more layers, and a checkpoint in which each is stored so."""
    tensors = {
        name: torch.zeros(t.shape).half() for name, t in read_tensors(model).items() if ".0." not in name
    }
    whole, stored = dict(tensors), dict(tensors)
    for n in range(layers):
        for leaf, shape in (("weight", (64, 32)), ("bias", (64,))):
            whole[f"model.layers.{n}.up.{leaf}"] = torch.randn(shape).half()
        stored[f"model.layers.{n}.up.bias"] = torch.randn(64).half()
        stored |= {f"model.layers.{n}.up.{leaf}": tensor.clone() for leaf, tensor in layer.items()}
    return saved(folder / "whole", whole), saved(folder / "stored", stored)


NF4 = {
    "weight": torch.zeros(1024, 1).byte(),
    "weight.absmax": torch.zeros(32),
    "weight.quant_map": torch.zeros(16),
    "weight.nested_absmax": torch.zeros(1),
}
GPTQ = {
    "qweight": torch.zeros(4, 64).int(),
    "scales": torch.zeros(1, 64).half(),
    "qzeros": torch.zeros(1, 8).int(),
    "g_idx": torch.zeros(32).int(),
}
INT8 = {"weight": torch.zeros(64, 32).char(), "SCB": torch.zeros(64)}


@pytest.mark.parametrize(
    ("layer", "leaf"),
    [(layer, leaf) for layer in (NF4, GPTQ, INT8) for leaf in layer],
    ids=[
        f"{name} without {leaf}"
        for name, layer in (("nf4", NF4), ("gptq", GPTQ), ("int8", INT8))
        for leaf in layer
    ],
)
def test_a_part_that_one_quantized_layer_lacks_is_missing(model, tmp_path, layer, leaf):
    """Kernels read uninitialised memory in its place, and figures look plausible."""
    whole, stored = quantized(model, tmp_path, layer)
    assert read_contents(stored, whole).missing == ()
    tensors = load_file(stored / "model.safetensors")
    del tensors[f"model.layers.1.up.{leaf}"]
    saved(stored, tensors)
    assert read_contents(stored, whole).missing == (f"model.layers.1.up.{leaf}",)


@pytest.mark.parametrize("name", ["model.norm.weight", "model.embed_tokens.weight", "model.layers.1.up.bias"])
def test_an_unquantized_tensor_that_the_checkpoint_lacks_is_missing(model, tmp_path, name):
    """Norms, embeddings and biases that no method changes have to be there."""
    whole, stored = quantized(model, tmp_path, NF4)
    tensors = load_file(stored / "model.safetensors")
    del tensors[name]
    assert read_contents(saved(stored, tensors), whole).missing == (name,)


def test_a_whole_layer_that_is_gone_is_missing(model, tmp_path):
    """Code, scales and bias at once."""
    whole, stored = quantized(model, tmp_path, GPTQ)
    tensors = load_file(stored / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if ".1." not in name}
    missing = read_contents(saved(stored, kept), whole).missing
    assert missing == ("model.layers.1.up.bias", "model.layers.1.up.weight")


def test_what_no_loader_reads_is_left_out_and_not_missing(model, tmp_path):
    """The vision half and the heads for further tokens that a checkpoint no longer holds are counted by part."""
    whole, stored = quantized(model, tmp_path, NF4)
    unread = ["model.visual.blocks.0.weight", "model.visual.blocks.1.weight", "mtp.layers.0.weight"]
    tensors = load_file(whole / "model.safetensors") | {name: torch.zeros(4).half() for name in unread}
    contents = read_contents(stored, saved(whole, tensors), unread)
    assert contents.missing == ()
    assert contents.left_out == {"model.visual": 2, "mtp.layers": 1}
    assert (
        contents.ledger
        == read_contents(stored, saved(whole, load_file(whole / "model.safetensors")), unread).ledger
    )


def test_a_tied_head_may_be_missing(model, tmp_path):
    """Many files store a head that repeats the embeddings; saving drops it."""
    tensors = load_file(model / "model.safetensors")
    whole = saved(
        tmp_path / "tied", tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    )
    assert read_contents(model, whole).missing == ()
    other = saved(tmp_path / "untied", tensors | {"lm_head.weight": torch.ones(100, 32).half()})
    assert read_contents(model, other).missing == ("lm_head.weight",)


def test_experts_stored_together_or_one_by_one_are_the_same(tmp_path):
    """Libraries fuse them or take them apart."""
    one_by_one = {f"model.layers.0.mlp.experts.{n}.up.weight": torch.zeros(4, 4).half() for n in range(3)}
    together = {"model.layers.0.mlp.experts.up": torch.zeros(3, 4, 4).half()}
    folders = saved(tmp_path / "a", one_by_one), saved(tmp_path / "b", together)
    assert read_contents(*folders).missing == read_contents(*reversed(folders)).missing == ()
