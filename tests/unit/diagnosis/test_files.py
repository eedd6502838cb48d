"""Files beside the weights, compared by meaning: real tokenizers and configs, as transformers reads them."""

import json

import pytest
import tiny

from pytest_tenpak.diagnosis.files import compare_files
from pytest_tenpak.diagnosis.shipped import read_directory


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny Llama with a chat template."""
    folder = tiny.save(tiny.random_model("llama"), tmp_path_factory.mktemp("model"))
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    return folder


@pytest.fixture
def checkpoint(model, tmp_path):
    """A copy of the files, to change."""
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def edit(file, **changed):
    """Change fields of a JSON file; None removes one."""
    plain = {**json.loads(file.read_text()), **changed}
    file.write_text(json.dumps({name: value for name, value in plain.items() if value is not None}))


def changes(model, checkpoint):
    """What differs: names of fields that matter, and of those that do not."""
    audit = compare_files(read_directory(model), read_directory(checkpoint))
    return [one.name for one in audit.behaviour], [one.name for one in audit.cosmetic]


def test_the_same_files_differ_in_nothing(model, checkpoint):
    """Wherever they lie."""
    assert changes(model, checkpoint) == ([], [])


def test_a_field_that_is_left_out_has_its_default(model, checkpoint):
    """And one that is written though it is the default changes nothing."""
    edit(checkpoint / "config.json", attention_bias=None, rms_norm_eps=None, mlp_bias=False, use_cache=False)
    assert changes(model, checkpoint)[0] == []


def test_a_generation_config_that_says_what_the_config_says_is_none(model, checkpoint):
    """Libraries write one from the config, where the model has none."""
    (checkpoint / "generation_config.json").unlink()
    assert changes(model, checkpoint)[0] == []


def test_one_id_and_a_list_of_it_are_the_same(model, checkpoint):
    """Libraries write either."""
    edit(checkpoint / "generation_config.json", eos_token_id=[257])
    edit(checkpoint / "config.json", eos_token_id=[257])
    assert changes(model, checkpoint)[0] == []


@pytest.mark.parametrize(
    ("file", "field", "value", "named"),
    [
        ("config.json", "rope_parameters", {"rope_theta": 1e6, "rope_type": "default"}, "config.rope_parameters.rope_theta"),
        ("config.json", "max_position_embeddings", 128, "config.max_position_embeddings"),
        ("config.json", "rms_norm_eps", 0.1, "config.rms_norm_eps"),
        ("generation_config.json", "eos_token_id", 0, "generation.eos_token_id"),
        ("generation_config.json", "do_sample", True, "generation.do_sample"),
        ("tokenizer_config.json", "eos_token", "<s>", "tokenizer.eos_token"),
        ("tokenizer_config.json", "padding_side", "left", "tokenizer.padding_side"),
    ],
)  # fmt: skip
def test_what_changes_behaviour_is_named(model, checkpoint, file, field, value, named):
    """With old and new, though no text may show it."""
    edit(checkpoint / file, **{field: value})
    assert named in changes(model, checkpoint)[0]


def test_a_template_that_was_removed_or_changed_is_named(model, checkpoint):
    """Old and new are shown by length and digest where they are long."""
    template = checkpoint / "chat_template.jinja"
    template.write_text("x" * 200)
    (found,) = compare_files(read_directory(model), read_directory(checkpoint)).behaviour
    assert (found.name, found.old) == ("tokenizer.chat_template", "{{ messages[0].content }}")
    assert found.new.startswith("200 characters, sha256:")
    template.unlink()
    assert changes(model, checkpoint)[0] == ["tokenizer.chat_template"]


@pytest.mark.parametrize(
    ("section", "value", "named"),
    [
        ("normalizer", {"type": "Lowercase"}, "tokenizer.normalizer.type"),
        ("pre_tokenizer", None, "tokenizer.pre_tokenizer"),
    ],
)
def test_a_tokenizer_that_cuts_otherwise_is_named(model, checkpoint, section, value, named):
    """By the section of tokenizer.json that differs."""
    file = checkpoint / "tokenizer.json"
    plain = json.loads(file.read_text())
    file.write_text(json.dumps({**plain, section: value}))
    assert any(name.startswith(named) for name in changes(model, checkpoint)[0])


def test_merges_that_are_missing_are_named(model, checkpoint):
    """A vocabulary or merges are described by how many entries they have."""
    file = checkpoint / "tokenizer.json"
    plain = json.loads(file.read_text())
    plain["model"]["vocab"]["ab"] = 300
    plain["model"]["merges"] = [["a", "b"]]
    file.write_text(json.dumps(plain))
    assert {"tokenizer.merges", "tokenizer.vocab"} <= set(changes(model, checkpoint)[0])


def test_what_is_cosmetic_is_named_and_no_fault(model, checkpoint):
    """Dropout and initialization are of training; a first token to pad with changes nothing."""
    edit(checkpoint / "config.json", attention_dropout=0.5, initializer_range=0.5)
    edit(checkpoint / "tokenizer_config.json", pad_token="</s>")
    behaviour, cosmetic = changes(model, checkpoint)
    assert behaviour == []
    assert {"config.attention_dropout", "config.initializer_range"} <= set(cosmetic)
    assert {"tokenizer.pad_token", "tokenizer.pad_token_id"} <= set(cosmetic)


def test_defaults_of_different_versions_are_no_difference():
    """Where the two were read by different versions, fields that only one of them has do not count."""
    old, new = {"config.a": "1", "config.b": "2"}, {"config.a": "3", "config.c": "4"}
    assert [one.name for one in compare_files(old, new, complete=False).behaviour] == ["config.a"]
    assert len(compare_files(old, new).behaviour) == 3


def test_options_that_loaders_act_upon_are_the_recipe():
    """Not what a library notes about itself."""
    found = {"quantization.bits": "4", "quantization.meta.quantizer": "x 1.2"}
    audit = compare_files({}, found)
    assert (dict(audit.recipe), audit.behaviour, audit.cosmetic) == ({"quantization.bits": "4"}, (), ())
