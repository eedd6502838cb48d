"""Figures that mean nothing, and the cause of a change: what a report says."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file


@pytest.fixture
def harmed(project):
    """A copy of the model as the reference; gives what changes its tensors."""
    folder = project.path / "model"
    shutil.copytree(project.model, folder)
    project.ini(**{**project.settings, "model": "model"})

    def edit(change):
        tensors = change(load_file(folder / "model.safetensors"))
        kept = {name: tensor.clone() for name, tensor in tensors.items()}
        save_file(kept, folder / "model.safetensors", {"format": "pt"})

    return edit


@pytest.fixture
def checkpoint(project):
    """A copy of the model that is gated as a checkpoint."""
    folder = project.path / "ck"
    shutil.copytree(project.model, folder)
    project.test("@pytest.mark.quantize(checkpoint='ck')\ndef test_it(): pass\n")
    return folder


def edit_tensor(folder, name, edit) -> None:
    """Change one tensor of a checkpoint."""
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = edit(tensors[name])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def louder(tensors):
    """A model that is sure of the wrong tokens."""
    return {name: tensor.flip(0) * 20 if "embed" in name else tensor for name, tensor in tensors.items()}


def test_a_model_that_cannot_predict_the_text_is_invalid(project, harmed):
    """Worse than guessing, before anything is quantized; a limit that the marker can move."""
    harmed(louder)
    test = "@pytest.mark.quantize(method='fp16'{})\ndef test_it(): pass\n"
    project.test(test.format(""))
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*the unquantized model cannot predict this text, so figures on it mean nothing",
            "*corpus 'text.txt': perplexity *; guessing among 258 tokens has 258",
            "*max_reference_nll*",
            "*fp16 * invalid",
        ]
    )
    assert project.baselines == []
    project.test(test.format(", max_reference_nll=0"))
    result = project.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*: the unquantized model predicts text.txt worse than by guessing *"])


@pytest.mark.slow
def test_a_text_far_worse_than_another_is_invalid(project):
    """Of two texts, one is not what the model was made for."""
    (project.path / "noise.txt").write_bytes(bytes(33 + (n * n * 7919 + n // 7) % 90 for n in range(3000)))
    project.test(
        "@pytest.mark.quantize(method='fp16', corpus=['text.txt', 'noise.txt'])\ndef test_it(): pass\n"
    )
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the unquantized model * this text*", "*corpus 'noise.txt'*"])


def test_every_verdict_says_what_it_could_have_seen(project):
    """In a line at the end, in the text of a failure, and in JSON; it is the interval's half-width."""
    project.test("@pytest.mark.quantize(method='fp16', max_ppl_delta=-0.5)\ndef test_it(): pass\n")
    result = project.run("--tenpak-json=out.json")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "differences of perplexity below * on text.txt could not have been told from none",
            "differences of perplexity that could not have been told from none: below * in test_gate.py::test_it",
        ]
    )
    [outcome] = json.loads((project.path / "out.json").read_text())["outcomes"]
    limit = next(one for one in outcome["verdict"]["checks"] if one["name"] == "max_ppl_delta")
    assert outcome["parts"][0]["resolution"] == pytest.approx((limit["high"] - limit["low"]) / 2, rel=0.05)


def test_a_config_that_was_edited_is_the_cause_that_is_named(project, checkpoint):
    """The same weights, another rope base: neither kernels nor libraries moved the figures."""
    project.run().assert_outcomes(passed=1)
    config = json.loads((checkpoint / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 50.0
    (checkpoint / "config.json").write_text(json.dumps(config))
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "perplexity vs baseline: *the same quantized weights, but another config: "
            "config rope_parameters.rope_theta 10000.0 → 50.0*",
            "differs in provenance: *config rope_parameters.rope_theta 10000.0 → 50.0*",
        ]
    )


def test_other_weights_are_marked_though_the_gate_passes(project, checkpoint):
    """A requantized checkpoint whose figures are as good is not the one that was accepted."""
    project.run().assert_outcomes(passed=1)
    same = project.run()
    assert "≠" not in same.stdout.str()
    edit_tensor(checkpoint, "model.norm.weight", lambda norm: norm.half().float())
    result = project.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*test_it * ≠ *passed", "≠: the quantized weights are not those that *"])


@pytest.mark.slow
def test_a_tensor_with_nan_is_named_with_its_file(project, checkpoint):
    """And the advice is about weights, not about limits."""
    edit_tensor(checkpoint, "model.norm.weight", lambda norm: norm * torch.nan)
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "error: figures are not finite*",
            "*stored tensors with NaN or infinity: model.norm.weight in model.safetensors",
            "what to do: where a tensor is named, quantize or copy the weights again*",
        ]
    )


@pytest.mark.slow
def test_a_tokenizer_that_adds_a_token_is_named_by_its_file(project, checkpoint):
    """What differs, and advice that fits."""
    folder = checkpoint
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "regressed: the tokenizer gives other tokens; files beside the weights say otherwise than the model's",
            "tokenizer: *than the model's own: tokenizer.json: post_processor * → (…)",
            "what to do: put the model's own tokenizer files into the checkpoint, or restore them",
        ]
    )


@pytest.mark.slow
def test_a_token_without_an_embedding_is_named(project, harmed):
    """A tokenizer that has grown, and a model that has not."""
    file = project.path / "model" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": 258, "content": "<|user|>"})
    file.write_text(json.dumps(tokenizer))
    (project.path / "chat.txt").write_text(("<|user|>" + "A sentence that goes on for a while. " * 4) * 10)
    project.test("@pytest.mark.quantize(method='fp16', corpus='chat.txt')\ndef test_it(): pass\n")
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*the tokenizer in *model has tokens for which the model has no embedding",
            "*given: *'<|user|>' has the id 258, and there are 258 embeddings",
        ]
    )


@pytest.mark.slow
def test_other_line_ends_than_the_baselines_are_said(project):
    """The text was checked out on Windows: invalid, with the reason."""
    project.test("@pytest.mark.quantize(method='fp16')\ndef test_it(): pass\n")
    project.run().assert_outcomes(passed=1)
    text = project.path / "text.txt"
    text.write_bytes(text.read_bytes().replace(b"\n", b"\r\n"))
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "baseline: the baseline does not match this case: corpus: sha256:*, the same text with line ends LF → *"
        ]
    )
