"""A regressed gate says which modules are to blame, in every report."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

NAME = "model.layers.1.mlp.up_proj"
GATE = (
    "@pytest.mark.quantize(checkpoint='ck', may_differ=['model.*'], max_tokens=2000{})\ndef test_it(): pass\n"
)


@pytest.fixture
def checkpoint(project):
    """A copy of the model in the project, one module of which is too large, and a gate on it."""
    folder = project.path / "ck"
    shutil.copytree(project.model, folder)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("proj.weight"):
            tensor.mul_(1.005)
    tensors[f"{NAME}.weight"].mul_(1.4)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    project.test(GATE.format(", max_kld=0.0001"))
    return folder


def test_the_module_is_named_in_every_report(project, checkpoint):
    """With its share, the ratio of the sum to the whole, and the tokens; the second time without a job."""
    reports = ("--tenpak-json=run.json", "--tenpak-html=run.html", "--tenpak-md=run.md")
    result = project.run("--tenpak-blame", *reports)
    result.assert_outcomes(failed=1)
    lines = [
        f"to blame: decoder layer 1 (*% of the divergence); {NAME} (*%)",
        f"* *%  {NAME}, 0.* nats per token",
        "blame: 14 parts put into the reference one by one, on * tokens where the checkpoint diverges most: "
        "the sum of their KL divergences is 1.0* times (1.* times for whole layers) the whole checkpoint's 0.00* nats per token",
    ]
    result.stdout.fnmatch_lines(lines)
    (outcome,) = json.loads((project.path / "run.json").read_text())["outcomes"]
    blame = outcome["blame"]
    assert blame["culprits"] == [NAME]
    assert blame["culprit_layers"] == [1]
    assert blame["modules"][0]["name"] == NAME
    assert len(blame["modules"]) == 14
    assert 0.5 < blame["additivity"] < 2
    assert 0 < blame["tokens"] <= 2000
    assert "to blame: decoder layer 1" in (project.path / "run.md").read_text()
    page = (project.path / "run.html").read_text()
    assert "Divergence by module" in page
    assert f"the darkest is {NAME}" in page
    again = project.run("--tenpak-blame")
    again.stdout.fnmatch_lines(lines)
    again.stdout.no_fnmatch_line("*looking for the modules to blame*")


def test_a_regression_has_it_by_itself_where_that_is_quick(project, checkpoint):
    """As the ini says; else a line says what it would take, and 0 says nothing."""
    project.run().stdout.no_fnmatch_line("*blame*")
    project.run("--tenpak-blame-seconds=0.001").stdout.fnmatch_lines(
        ["modules were not blamed, which would take too long: --tenpak-blame does it"]
    )
    project.ini(**{**project.settings, "blame_seconds": 60})
    project.run().stdout.fnmatch_lines([f"to blame: *{NAME}*"])


def test_a_passing_gate_has_it_where_the_run_asks_for_it(project):
    """Of a quantized checkpoint every quantized layer is a part; the gate passes, and a note has the figures."""
    project.test("@pytest.mark.quantize(method='nf4', max_tokens=2000)\ndef test_it(): pass\n")
    result = project.run("--tenpak-blame", "--tenpak-json=run.json")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*test_it: blame: 14 parts put into the reference one by one*"])
    (outcome,) = json.loads((project.path / "run.json").read_text())["outcomes"]
    assert {row["name"] for row in outcome["blame"]["layers"]} == {"model.layers.0", "model.layers.1"}
    assert 0.5 < outcome["blame"]["additivity"] < 2
    assert 0.5 < outcome["blame"]["layer_additivity"] < 2


def test_a_checkpoint_that_is_the_model_has_nothing_to_blame(project, checkpoint):
    """There is no divergence, or no module that differs: a sentence, and no guess."""
    shutil.copy(project.model / "model.safetensors", checkpoint)
    project.test(GATE.format(""))
    result = project.run("--tenpak-blame", "--tenpak-json=run.json")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*test_it: no module *"])
    (outcome,) = json.loads((project.path / "run.json").read_text())["outcomes"]
    assert outcome["blame"]["modules"] == outcome["blame"]["culprits"] == []
