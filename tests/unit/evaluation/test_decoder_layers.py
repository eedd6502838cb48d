"""Decoder layers one by one, beside the reference's, with the reference's inputs."""

import pytest
import torch
from tiny import FAMILIES, random_model
from traces import TOKENS

from pytest_tenpak.evaluation.decoder_layers import TOKENS as RUN
from pytest_tenpak.evaluation.decoder_layers import compare_layers, save_layers
from pytest_tenpak.metrics.measurement import Layers
from pytest_tenpak.models.decoder import decoder_layers

DEEP = 4


@pytest.fixture
def kept(tmp_path):
    """A Llama of four layers, and the file of its layers' inputs and outputs."""
    model = random_model("llama", num_hidden_layers=DEEP)
    file = tmp_path / "layers.safetensors"
    save_layers(model, TOKENS, file)
    return model, file


def same(model, file, layers=DEEP):
    """The figures of a model whose layers are the reference's."""
    figures = compare_layers(model, TOKENS, file)
    assert figures["gain"] == pytest.approx([1.0] * layers, abs=1e-4)
    assert figures["error"] == pytest.approx([0.0] * layers, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_beside_itself(tmp_path, family):
    """Gain exactly 1 and error exactly 0 for every layer, in every family; nothing half-written is left."""
    model = random_model(family)
    file = tmp_path / "layers.safetensors"
    save_layers(model, TOKENS, file)
    assert compare_layers(model, TOKENS, file) == {"gain": [1.0, 1.0], "error": [0.0, 0.0]}
    assert [path.name for path in tmp_path.iterdir()] == ["layers.safetensors"]


@pytest.mark.parametrize("family", FAMILIES)
def test_another_model_is_another(tmp_path, family):
    """Random layers of another seed have nothing in common with the reference's: errors are of their size."""
    file = tmp_path / "layers.safetensors"
    save_layers(random_model(family), TOKENS, file)
    figures = compare_layers(random_model(family, seed=1), TOKENS, file)
    assert len(figures["gain"]) == len(figures["error"]) == 2
    assert all(error > 0.5 for error in figures["error"])


def test_the_model_is_left_as_it_was(kept):
    """No hook stays, also where the run fails: the perplexity that follows is the model's own."""
    model, file = kept
    ids = torch.tensor([TOKENS[:32]])
    with torch.no_grad():
        before = model(ids).logits
    compare_layers(random_model("llama", seed=1, num_hidden_layers=DEEP), TOKENS, file)
    with pytest.raises(IndexError):
        save_layers(model, [10**6] * 3, file.with_name("never.safetensors"))
    assert not file.with_name("never.safetensors").exists()
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in decoder_layers(model))
    with torch.no_grad():
        assert torch.equal(model(ids).logits, before)


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_scales_that_are_too_large_show_in_their_layer_alone(kept, layer):
    """2 % on one projection moves that layer's gain and error, and not one that comes after it."""
    model, file = kept
    model.model.layers[layer].mlp.down_proj.weight.data *= 1.02
    figures = compare_layers(model, TOKENS, file)
    moved = [n for n in range(DEEP) if figures["gain"][n] != 1.0 or figures["error"][n] != 0.0]
    assert moved == [layer]
    assert 0.003 < figures["error"][layer] <= 0.021
    assert 1e-4 < figures["gain"][layer] - 1 <= 0.021


def test_a_layer_of_double_size_has_gain_two(kept):
    """Everything that a layer adds, doubled: gain 2, and an error of its whole size."""
    model, file = kept
    layer = model.model.layers[1]
    # The MLP alone adds: it is doubled without changing what it is given.
    layer.self_attn.o_proj.weight.data.zero_()
    save_layers(model, TOKENS, file)
    layer.mlp.down_proj.weight.data *= 2
    figures = compare_layers(model, TOKENS, file)
    assert figures["gain"] == pytest.approx([1, 2, 1, 1], abs=1e-4)
    assert figures["error"] == pytest.approx([0, 1, 0, 0], abs=1e-4)


def test_a_layer_that_adds_nothing_has_gain_zero(kept):
    """A layer that was silenced lost all of it."""
    model, file = kept
    layer = model.model.layers[2]
    layer.self_attn.o_proj.weight.data.zero_()
    layer.mlp.down_proj.weight.data.zero_()
    figures = compare_layers(model, TOKENS, file)
    assert figures["gain"] == pytest.approx([1, 1, 0, 1], abs=1e-4)
    assert figures["error"] == pytest.approx([0, 0, 1, 0], abs=1e-4)


def test_scales_folded_between_projections_do_not_show(kept):
    """AWQ divides one projection's outputs and multiplies the next one's inputs: the layer is the same."""
    model, file = kept
    chooser = torch.Generator().manual_seed(0)
    for layer in model.model.layers:
        mlp = layer.mlp
        scales = torch.exp(torch.randn(mlp.up_proj.out_features, generator=chooser))
        mlp.up_proj.weight.data /= scales[:, None]
        mlp.down_proj.weight.data *= scales
    same(model, file)


def test_scales_folded_into_a_norm_do_not_show(kept):
    """Nor where they move from the projections into the layer's own norm."""
    model, file = kept
    chooser = torch.Generator().manual_seed(1)
    for layer in model.model.layers:
        scales = torch.exp(torch.randn(64, generator=chooser))
        layer.post_attention_layernorm.weight.data /= scales
        for projection in (layer.mlp.up_proj, layer.mlp.gate_proj):
            projection.weight.data *= scales
    same(model, file)


def test_figures_agree_with_the_definition(tmp_path):
    """Layer by layer in float64 from the stored states: means over tokens, the first one left out."""
    reference, checkpoint = random_model("gpt2"), random_model("gpt2", seed=1)
    file, other = tmp_path / "r.safetensors", tmp_path / "q.safetensors"
    save_layers(reference, TOKENS, file)
    save_layers(checkpoint, TOKENS, other)
    from safetensors.torch import load_file

    kept = load_file(file)
    assert kept["inputs.0"].shape == (1, RUN, 64)
    figures = compare_layers(checkpoint, TOKENS, file)
    for n, layer in enumerate(decoder_layers(checkpoint)):
        given = kept[f"inputs.{n}"]
        with torch.no_grad():
            output = layer(given)
        output = output[0] if isinstance(output, tuple) else output
        q = (output - given)[0, 1:].double().numpy()
        r = (kept[f"outputs.{n}"] - given)[0, 1:].double().numpy()
        size = (r * r).sum(1)
        assert figures["gain"][n] == pytest.approx(((q * r).sum(1) / size).mean(), rel=1e-4, abs=1e-5)
        assert figures["error"][n] == pytest.approx((((q - r) ** 2).sum(1) / size).mean() ** 0.5, rel=1e-4)


def test_other_layers_are_not_compared(kept):
    """A model with fewer or more layers has no counterparts, and no figures."""
    _, file = kept
    for layers in (1, DEEP - 1, DEEP + 1):
        assert compare_layers(random_model("llama", num_hidden_layers=layers), TOKENS, file) == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_sixteen_bits_is_itself(tmp_path, dtype):
    """What is kept in float32 goes through the layers in the type that they run in."""
    model = random_model("llama").to(dtype)
    file = tmp_path / "layers.safetensors"
    save_layers(model, TOKENS, file)
    assert compare_layers(model, TOKENS, file) == {"gain": [1.0, 1.0], "error": [0.0, 0.0]}


def test_a_short_corpus_is_enough(tmp_path):
    """Fewer tokens than are usually run are run as they are."""
    model = random_model("llama")
    file = tmp_path / "layers.safetensors"
    save_layers(model, TOKENS[:5], file)
    figures = compare_layers(model, TOKENS[:5], file)
    assert figures == {"gain": [1.0, 1.0], "error": [0.0, 0.0]}


def test_a_layer_that_is_not_finite_is_told_from_those_that_are(kept):
    """One poisoned weight: that layer has no figures, and the others, whose inputs are the reference's, do."""
    model, file = kept
    model.model.layers[1].mlp.down_proj.weight.data[3, 3] = torch.nan
    found = Layers.from_dict(compare_layers(model, TOKENS, file))
    assert found.nonfinite == [1]
    assert (found.gain[2], found.error[2]) == (1, 0)
