"""Tensors that are missing, or that nobody reads: never a pass, never a gain of compression."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

CHECKPOINT = "@pytest.mark.quantize(checkpoint='ck', {})\ndef test_it(): pass\n"


@pytest.fixture
def checkpoint(project):
    """A copy of the model, gated as a checkpoint; gives what changes its tensors."""
    folder = project.path / "ck"
    shutil.copytree(project.model, folder)
    project.test(CHECKPOINT.format(""))

    def edit(change):
        tensors = change(load_file(folder / "model.safetensors"))
        kept = {name: tensor.clone() for name, tensor in tensors.items()}
        save_file(kept, folder / "model.safetensors", {"format": "pt"})

    return edit


def test_a_checkpoint_without_a_norm_is_an_error_that_names_it(project, checkpoint):
    """Before it is measured; healthy, damaged and mended in turn, one cache for all."""
    project.run().assert_outcomes(passed=1)
    name = "model.layers.1.input_layernorm.weight"
    healthy = load_file(project.path / "ck" / "model.safetensors")
    checkpoint(lambda tensors: {n: t for n, t in tensors.items() if n != name})
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*the checkpoint lacks tensors of the model", f"*given: *ck: {name}", "*error*"]
    )
    checkpoint(lambda _: healthy)
    project.run().assert_outcomes(passed=1)


def test_a_model_without_a_matrix_is_an_error_that_names_it(project, checkpoint):
    """On the side of the reference: its figures would be those of another model."""
    checkpoint(lambda tensors: {n: t for n, t in tensors.items() if "layers.1.mlp.up_proj" not in n})
    project.test("@pytest.mark.quantize(method='fp16', model='ck')\ndef test_it(): pass\n")
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*the weights in *ck lack tensors of the model", "*given: *model.layers.1.mlp.up_proj.weight"]
    )
    assert project.baselines == []


def test_what_nobody_loads_is_no_compression(project, checkpoint):
    """Neither a second copy in other files nor parts that the model lacks; a note says what is gone."""
    checkpoint(lambda tensors: {**tensors, "mtp.layers.0.norm.weight": torch.ones(10**6)})
    save_file({"original": torch.zeros(10**6)}, project.path / "ck" / "consolidated.safetensors")
    test = "@pytest.mark.quantize(method='fp16', model='ck', {})\ndef test_it(): pass\n"
    project.test(test.format("min_compression=1.01"))
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["✗ *compression (whole checkpoint vs 16 bit) *1.0000× *≥ 1.01×"])
    project.test(test.format(""))
    result = project.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["test_gate.py::test_it: the checkpoint no longer holds 1 tensors of mtp.layers"]
    )
    project.test(test.format("complete=True"))
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["✗ *tensors of the model's files*", "*the checkpoint no longer holds 1 tensors of mtp.layers"]
    )


def test_layers_that_a_method_left_alone_are_told_and_can_be_limited(project):
    """Bits per weight count the quantized layers only, and would look fine."""
    test = "@pytest.mark.quantize(method='nf4', skip_modules=('mlp',), {})\ndef test_it(): pass\n"
    project.test(test.format(""))
    result = project.run("--tenpak-json=out.json")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*: 40% of the decoder's weights are quantized; the others are as they were"]
    )
    [outcome] = json.loads((project.path / "out.json").read_text())["outcomes"]
    coverage = outcome["parts"][0]["measurement"]["coverage"]
    weights = 2 * (4 * 128 * 128 + 3 * 128 * 256)
    assert coverage == {"decoder_weights": weights, "left_out": {}, "added": [], "nonfinite": []}
    project.test(test.format("min_quantized_share=0.9"))
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["✗ *quantized share of the decoder's weights *40.00% *≥ 90.00%"])
