"""The method on whole models: what is saved, loaded, and read without torch."""

import json

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from pytest_tenpak.diagnosis.formats import read_layer
from pytest_tenpak.diagnosis.weights import audit_weights
from pytest_tenpak.errors import CheckpointError, SpecError
from pytest_tenpak.models.ledger import corresponding_tensors, parts_of, quantized_layers
from pytest_tenpak.progress import ignore
from pytest_tenpak.quantizers.base import Job
from pytest_tenpak.quantizers.int4.method import Int4
from pytest_tenpak.quantizers.int4.statistics import fisher_information
from pytest_tenpak.quantizers.loading import load_pretrained
from pytest_tenpak.quantizers.registry import Registry
from pytest_tenpak.spec import QuantizeSpec

TEXT = "It was the best of times, it was the worst of times. " * 20
ALL = {"group_size": {"attn": 24, "*": -1}, "sym": False, "outlier_fraction": 0.01, "clip": True}
RECIPES: dict[str, dict[str, object]] = {
    "plain": {},
    "all": {**ALL, "activation_scaling": True},
    "fisher": {"allocation": "fisher", "outlier_fraction": 0.005},
}


def quantize(model, out, method="int4", **given):
    """Quantize a model directory with few samples; return the spec."""
    quantizer, options = Registry().expand(method, {**given, "samples": 2, "sample_length": 32})
    spec = QuantizeSpec.build(quantizer.method, quantizer.options, options)
    quantizer.quantize(Job(spec, model, out, "cpu", "float32", [TEXT], ignore))
    return spec


@pytest.fixture
def model(tmp_path):
    """A random Llama."""
    return tiny.save(tiny.random_model("llama"), tmp_path / "model")


@pytest.mark.parametrize(
    ("family", "recipe"),
    [*(("llama", recipe) for recipe in RECIPES), ("gpt2", "all"), ("gpt2", "fisher"), ("opt", "all")],
)
def test_a_loaded_checkpoint_computes_with_what_is_stored(family, recipe, tmp_path):
    """The same weights as numpy reads from the file, and the logits of a model that has these.

    Also of layers that lie the other way round (GPT-2), and of layers with a bias (OPT).
    """
    model = tiny.save(tiny.random_model(family), tmp_path / "model")
    quantize(model, tmp_path / "out", **RECIPES[recipe])
    loaded, plain = (load_pretrained(path, "cpu", "float32") for path in (tmp_path / "out", model))
    stored = corresponding_tensors(tmp_path / "out", model)[1]
    layers = quantized_layers(*corresponding_tensors(tmp_path / "out", model))
    assert len(layers) >= 8
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    for name in layers:
        layer = read_layer(parts_of(name, stored), config)
        rows = layer.rows(0, layer.shape[0])
        np.testing.assert_allclose(rows, loaded.get_submodule(name).weight.numpy(), rtol=1e-6, atol=1e-7)
        weight = plain.get_submodule(name).weight
        turned = type(plain.get_submodule(name)).__name__ == "Conv1D"
        weight.data = torch.from_numpy(rows.T.copy() if turned else rows)
    ids = torch.arange(30)[None]
    with torch.inference_mode():
        assert torch.allclose(loaded(ids).logits, plain(ids).logits, atol=1e-4)


@pytest.mark.parametrize("sym", [True, False])
def test_the_audit_holds_every_layer_to_its_own_rounding(sym, model, tmp_path):
    """With scaled inputs, outliers and groups of Fisher's choice: no more error than rounding, nor dead inputs."""
    given = {"activation_scaling": True, "outlier_fraction": 0.01, "allocation": "fisher"}
    quantize(model, tmp_path / "out", sym=sym, **given)
    audit = audit_weights(tmp_path / "out", model)
    assert len(audit.layers) == 14
    assert not audit.changed
    assert not audit.not_compared
    assert max(layer.factor for layer in audit.layers) < 1.01
    assert max(abs(layer.gain - layer.rounded_gain) for layer in audit.layers) < 0.002
    assert not any(layer.dead for layer in audit.layers)


@pytest.mark.parametrize("sym", [True, False])
def test_a_model_that_was_quantized_before_is_no_fault(sym, tmp_path):
    """Half of its weights lie in the middle of two values, where the last digit of a scale decides."""
    made = tiny.random_model("llama")
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if name.endswith("_proj.weight"):
                steps = weight.unflatten(1, (-1, 32)).abs().amax(2) / 14
                steps = steps.repeat_interleave(32, dim=1)
                weight.copy_((weight / steps).round() * steps)
    model = tiny.save(made, tmp_path / "model")
    quantize(model, tmp_path / "out", group_size=32, sym=sym)
    audit = audit_weights(tmp_path / "out", model)
    assert max(abs(layer.gain - layer.rounded_gain) for layer in audit.layers) < 1e-4
    assert max(layer.factor for layer in audit.layers) < 1.001


def test_what_is_not_quantized_stays_as_it_was(model, tmp_path):
    """Byte for byte, in the model's own type; and the config tells the recipe."""
    quantize(model, tmp_path / "out", skip_modules=["down_proj"])
    own, ours = (load_file(path / "model.safetensors") for path in (model, tmp_path / "out"))
    kept = [name for name in own if name in ours]
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in kept} >= {"down_proj", "norm"}
    assert all(torch.equal(own[name], ours[name]) and own[name].dtype == ours[name].dtype for name in kept)
    recipe = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert (recipe["quant_method"], recipe["bits"], recipe["group_size"]) == ("tenpak-int4", 4, 128)


def test_the_same_job_gives_the_same_bytes(model, tmp_path):
    """Calibration draws with a generator of its own."""
    for out in ("one", "other"):
        quantize(model, tmp_path / out, allocation="fisher", activation_scaling=True, outlier_fraction=0.01)
    one, other = ((tmp_path / out / "model.safetensors").read_bytes() for out in ("one", "other"))
    assert one == other


def test_codes_of_a_layer_that_the_model_lacks_are_refused(model, tmp_path):
    """A checkpoint of another model is no traceback of torch."""
    quantize(model, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    found = {
        name.replace("layers.1.mlp.up_proj", "layers.7.mlp.up_proj"): row for name, row in tensors.items()
    }
    save_file(found, tmp_path / "out" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="no linear layer"):
        load_pretrained(tmp_path / "out", "cpu", "float32")


def test_presets_are_recipes_of_tenpak():
    """Groups by module, outliers, scaled inputs; rounding to nearest is groups and nothing else."""
    quantizer, options = Registry().expand("tenpak-v10", {})
    spec = QuantizeSpec.build("int4", quantizer.options, options)
    assert spec.options["group_size"] == {"attn": 256, "mlp": 2048}
    assert (spec.options["outlier_fraction"], spec.options["activation_scaling"]) == (0.005, True)
    assert quantizer.needs_calibration(spec)
    quantizer, options = Registry().expand("rtn", {"group_size": 64})
    assert not quantizer.needs_calibration(QuantizeSpec.build("int4", quantizer.options, options))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"group_size": {"attn": 0}}, r"group_size\['attn'\]=0"),
        ({"group_size": {}}, "group_size={}"),
        ({"group_size": {1: 2}}, "group_size="),
        ({"outlier_fraction": {"attn": "x", "*": 0.1}}, r"outlier_fraction\['attn'\]='x'"),
        ({"sym": {"attn": True}}, "sym="),
        ({"allocation": "fischer"}, "did you mean 'fisher'"),
    ],
)
def test_options_that_are_not_accepted(given, says):
    """Each value of a mapping is held to what the option accepts, and only options by module take one."""
    with pytest.raises(SpecError, match=says):
        QuantizeSpec.build("int4", Int4.options, given)


def test_a_layer_that_no_part_names_is_refused_before_any_work(model, tmp_path):
    """Unless '*' stands for all others."""
    from pytest_tenpak.models.model import describe_model
    from pytest_tenpak.store.store import Store

    described = describe_model(model, Store(tmp_path / "store"))
    spec = QuantizeSpec.build("int4", Int4.options, {"group_size": {"attn": 32}})
    with pytest.raises(SpecError, match="group_size has no value for model.layers.0.mlp"):
        Int4().check(spec, described, "cpu", "float32")
    spec = QuantizeSpec.build("int4", Int4.options, {"group_size": {"attn": 32, "*": 64}})
    Int4().check(spec, described, "cpu", "float32")


@pytest.mark.parametrize(
    "given", [{"group_size": {"atn": 32, "*": 64}}, {"outlier_fraction": {"atn": 0.01, "*": 0}}]
)
def test_a_part_that_no_layer_has_in_its_name_is_refused_before_any_work(model, tmp_path, given):
    """It would be ignored, and the recipe another than the one that was meant."""
    from pytest_tenpak.models.model import describe_model
    from pytest_tenpak.store.store import Store

    described = describe_model(model, Store(tmp_path / "store"))
    spec = QuantizeSpec.build("int4", Int4.options, given)
    with pytest.raises(
        SpecError, match=f"{next(iter(given))} names 'atn', but the model has no such linear layer"
    ):
        Int4().check(spec, described, "cpu", "float32")


def test_fisher_information_foretells_the_divergence():
    """Half its product with squared errors is the KL divergence, within what pairs of weights add."""
    model = tiny.random_model("llama").float()
    generator = torch.Generator().manual_seed(0)
    samples = torch.randint(256, (24, 48), generator=generator).tolist()
    modules = {n: m for n, m in model.named_modules() if n.endswith(("q_proj", "down_proj"))}
    fisher = fisher_information(model, modules, samples, 0, ignore)
    assert not any(parameter.grad is not None for parameter in model.parameters())
    ids = torch.tensor(samples)
    with torch.no_grad():
        before = model(ids).logits.log_softmax(-1)
        foretold = 0.0
        for name, module in modules.items():
            signs = torch.randn(module.weight.shape, generator=generator)
            change = signs * 0.1 * module.weight.std()
            module.weight += change
            foretold += float((fisher[name] * change.square()).sum()) / 2
        after = model(ids).logits.log_softmax(-1)
    actual = float((before.exp() * (before - after)).sum(-1).mean())
    assert foretold == pytest.approx(actual, rel=0.5)
