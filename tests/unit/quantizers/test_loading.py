"""Loading by transformers: what the files lack is never made up, and what nobody reads is named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, random_model, save

from pytest_tenpak.errors import CheckpointError
from pytest_tenpak.quantizers.loading import (
    load_pretrained,
    load_tokenizer,
    load_with_account,
    require_causal_lm,
)


def edited(folder: Path, edit) -> Path:
    """Change the tensors of a saved model."""
    file = folder / "model.safetensors"
    tensors = edit(load_file(file))
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, file, {"format": "pt"})
    return folder


def configured(folder: Path, **changed) -> Path:
    """Change the config of a saved model."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    return folder


@pytest.fixture
def llama(tmp_path) -> Path:
    return save(random_model("llama", tie_word_embeddings=True, intermediate_size=128), tmp_path / "llama")


def without(part: str):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


@pytest.mark.parametrize(
    ("edit", "names"),
    [
        (lambda t: {f"_orig_mod.{name}": tensor for name, tensor in t.items()}, "model.embed_tokens.weight"),
        (without("layers.1.mlp.down_proj"), "model.layers.1.mlp.down_proj.weight"),
        (without("model.norm"), "model.norm.weight"),
        (without("embed_tokens"), "model.embed_tokens.weight"),
    ],
    ids=["another prefix", "a matrix", "a norm", "embeddings"],
)
def test_tensors_that_the_files_lack_are_named(llama, edit, names):
    """Else transformers would initialize them at random, and the figures would be plausible."""
    with pytest.raises(CheckpointError, match="lack tensors of the model") as caught:
        load_pretrained(edited(llama, edit), "cpu", "float32")
    assert names in caught.value.given


def test_a_head_that_is_its_own_by_config_has_to_be_there(llama):
    """With tied embeddings it may be missing."""
    load_pretrained(llama, "cpu", "float32")
    with pytest.raises(CheckpointError, match="lack tensors of the model") as caught:
        load_pretrained(configured(llama, tie_word_embeddings=False), "cpu", "float32")
    assert caught.value.given == "lm_head.weight"


def test_tensors_of_another_shape_are_named_with_both(llama):
    """A file of another model."""
    folder = edited(llama, lambda t: {**t, "model.norm.weight": torch.zeros(32)})
    with pytest.raises(CheckpointError, match="other shapes") as caught:
        load_pretrained(folder, "cpu", "float32")
    assert caught.value.given == "model.norm.weight (stored as 32, expected 64)"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda folder: configured(folder, num_hidden_layers=1), "model.layers.1.input_layernorm.weight"),
        (
            lambda folder: edited(
                folder, lambda t: {**t, "model.layers.0.self_attn.q_proj.bias": torch.ones(64)}
            ),
            "model.layers.0.self_attn.q_proj.bias",
        ),
        (lambda folder: edited(folder, lambda t: {**t, "lm_head.bias": torch.ones(258)}), "lm_head.bias"),
    ],
    ids=["a layer more than the config has", "a bias of a layer without", "a bias of the head"],
)
def test_tensors_of_the_models_parts_that_it_would_ignore_are_named(llama, change, name):
    """The model would compute without them, and differ from the one that was saved."""
    with pytest.raises(CheckpointError, match="for which the model has no place") as caught:
        load_pretrained(change(llama), "cpu", "float32")
    assert name in caught.value.given


def test_tensors_of_other_parts_are_listed_and_harmless(llama):
    """Heads for further tokens, a vision half, what an optimizer needs; masks and frequencies are not weights."""
    more = {
        "mtp.layers.0.norm.weight": torch.ones(3),
        "model.visual.blocks.0.norm.weight": torch.ones(3),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
    }
    _, unread = load_with_account(edited(llama, lambda t: {**t, **more}), "cpu", "float32")
    assert unread == ["model.visual.blocks.0.norm.weight", "mtp.layers.0.norm.weight"]


def test_layers_for_further_tokens_are_no_layers_too_many(llama):
    """Where the config says that they follow the last one."""
    more = {"model.layers.2.norm.weight": torch.ones(3)}
    folder = configured(edited(llama, lambda t: {**t, **more}), num_nextn_predict_layers=1)
    assert load_with_account(folder, "cpu", "float32")[1] == ["model.layers.2.norm.weight"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_all_and_nothing_else(family, tmp_path):
    """As transformers saves it: tied heads and computed buffers are no exceptions that anybody meets."""
    folder = save(random_model(family), tmp_path / family)
    assert load_with_account(folder, "cpu", "float32")[1] == []


def test_a_quantized_layer_that_cannot_be_put_together_is_an_error_of_ours(llama, tmp_path):
    """transformers' own message points to a report that a user does not see."""
    from transformers import BitsAndBytesConfig

    recipe = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = load_pretrained(llama, "cpu", "float32", quantization_config=recipe)
    folder = save(model, tmp_path / "nf4")
    with pytest.raises(CheckpointError, match="cannot be put together"):
        load_pretrained(edited(folder, without("layers.1.mlp.down_proj.weight.absmax")), "cpu", "float32")


# ---------------------------------------------------------------- what is no causal language model


def test_an_encoder_decoder_is_no_causal_language_model(tmp_path):
    """One sentence in place of transformers' list of all classes."""
    from transformers import T5Config

    T5Config(d_model=64, num_layers=1).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="is not a causal language model") as caught:
        require_causal_lm(tmp_path)
    assert "'t5'" in caught.value.given


def test_a_model_with_code_of_its_own_is_never_run(llama):
    """And nobody is told to pass an argument that is not offered."""
    configured(llama, model_type="ours", auto_map={"AutoConfig": "configuration_ours.Ours"})
    (llama / "configuration_ours.py").write_text("raise SystemExit('was run')")
    with pytest.raises(CheckpointError, match="needs code of its own, which is never run") as caught:
        require_causal_lm(llama)
    assert "trust_remote_code" not in str(caught.value)


def test_a_model_type_of_a_later_version_says_which_version_is_here(llama):
    """Or a typing error in config.json."""
    with pytest.raises(CheckpointError, match=r"transformers 5\..* cannot read .*config\.json") as caught:
        require_causal_lm(configured(llama, model_type="llama9"))
    assert "'llama9'" in caught.value.given


def test_a_tokenizer_that_cannot_be_loaded_is_named(llama):
    """Whatever the library says about it."""
    load_tokenizer(llama)
    (llama / "tokenizer.json").write_text('{"version": "1.0", "model": {}}')
    with pytest.raises(CheckpointError, match="the tokenizer in .* cannot be loaded"):
        load_tokenizer(llama)


def test_a_tokenizer_whose_library_is_missing_is_not_told_to_install_another(llama):
    """Without tokenizer.json, transformers ends with the last library that it tried."""
    (llama / "tokenizer.json").unlink()
    (llama / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    (llama / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    with pytest.raises(CheckpointError, match=r"cannot be loaded: there is no tokenizer\.json") as caught:
        load_tokenizer(llama)
    assert "tiktoken" not in str(caught.value)


def test_weights_of_another_name_are_named(llama):
    """As some converters write them; transformers looks for model.safetensors."""
    (llama / "model.safetensors").rename(llama / "model.fp16.safetensors")
    with pytest.raises(CheckpointError, match="transformers finds no weights") as caught:
        load_pretrained(llama, "cpu", "float32")
    assert caught.value.given == "model.fp16.safetensors"
