"""The audit in a gate: what no text can show is a failure that names it, and what is healthy passes."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from pytest_tenpak.cli.main import main

GATE = "@pytest.mark.quantize(checkpoint='ck'{})\ndef test_it(): pass\n"


@pytest.fixture
def checkpoint(project):
    """A copy of the model, gated as a checkpoint."""
    folder = project.path / "ck"
    shutil.copytree(project.model, folder)
    project.test(GATE.format(""))
    return folder


def change(folder, edit):
    """Change the tensors of a checkpoint."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file({n: t.clone() for n, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


def test_rows_of_rare_tokens_are_seen(project, checkpoint):
    """Though the figures are those of the whole model; in the failure, JSON, Markdown and HTML."""
    project.run("-q").assert_outcomes(passed=1)

    def zero(tensors):
        tensors["model.embed_tokens.weight"][250] = 0

    change(checkpoint, zero)
    result = project.run("--tenpak-json=run.json", "--tenpak-md=run.md", "--tenpak-html=run.html")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*regressed: weights are not the model's*",
            "*model.embed_tokens.weight: 128 of 33,024 weights differ*row 250*",
        ]
    )
    (outcome,) = json.loads((project.path / "run.json").read_text())["outcomes"]
    assert [row["name"] for row in outcome["audit"]["weights"]["changed"]] == ["model.embed_tokens.weight"]
    failing = [check["name"] for check in outcome["verdict"]["checks"] if check["status"] == "regressed"]
    assert failing == ["audit"]
    for report in ("run.md", "run.html"):
        assert "in row 250" in (project.path / report).read_text()


def test_what_is_meant_to_differ_is_named_in_the_marker(project, checkpoint):
    """A tensor, by a pattern; the audit can be switched off, and held to files."""
    change(checkpoint, lambda tensors: tensors["model.embed_tokens.weight"][250].zero_())
    project.run().assert_outcomes(failed=1)
    project.run("--tenpak-audit=files").assert_outcomes(passed=1)
    project.run("--tenpak-audit=off").assert_outcomes(passed=1)
    project.test(GATE.format(", may_differ=['*embed_tokens*']"))
    project.run().assert_outcomes(passed=1)


def test_files_that_say_otherwise_fail_with_old_and_new(project, checkpoint):
    """No text shows which token ends a sequence."""
    file = checkpoint / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": 7}))
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*files beside the weights say otherwise than the model's*",
            "*generation.eos_token_id 257 → 7*",
            "*what to do: restore the fields from the model's files; *may_differ=*",
        ]
    )
    project.test(GATE.format(", may_differ=['generation.eos_token_id']"))
    result = project.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*as allowed or without effect: generation.eos_token_id 257 → 7"])


def test_layers_are_compared_with_the_baseline_and_an_update_clears_that(project):
    """Another recipe is another checkpoint; the baseline has each layer's error and gain."""
    project.test("@pytest.mark.quantize(method='nf4', baseline='it')\ndef test_it(): pass\n")
    project.run("--tenpak-json=run.json").assert_outcomes(passed=1)
    file = project.path / "baselines" / "it.json"
    (entry,) = json.loads(file.read_text())["entries"].values()
    assert len(entry["audit"]["names"]) == len(entry["audit"]["error"]) == len(entry["audit"]["gain"]) == 14
    assert entry["audit"]["files"]["quantization.bnb_4bit_quant_type"] == "nf4"
    (outcome,) = json.loads((project.path / "run.json").read_text())["outcomes"]
    folder = project.path / "ck"
    shutil.copytree(outcome["checkpoint"], folder)
    project.test("@pytest.mark.quantize(checkpoint='ck', baseline='ck')\ndef test_it(): pass\n")
    project.run().assert_outcomes(passed=1)

    def scale(tensors):
        tensors["model.layers.1.mlp.down_proj.weight.absmax"] *= 1.01

    change(folder, scale)
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "regressed: weights are not the model's; weights moved from the baseline's",
            "weights vs the model's: model.layers.1.mlp.down_proj: weights are 1.0* times as large as rounding*",
            "weights vs baseline: model.layers.1.mlp.down_proj: error *, gain 0.99* → 1.0* (1 of 14 layers *",
        ]
    )


def test_one_expert_in_many_is_seen(project, tmp_path):
    """Whatever the router sends there of this text."""
    import tiny

    experts = {"num_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 32}
    tiny.FAMILIES["qwen3_moe"] = {
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "head_dim": 16,
        **experts,
    }
    model = tiny.save(tiny.random_model("qwen3_moe"), tmp_path / "model")
    shutil.copytree(model, project.path / "ck")
    name = next(n for n in load_file(model / "model.safetensors") if ".experts." in n and "down_proj" in n)
    change(project.path / "ck", lambda tensors: tensors[name].mul_(1.05))
    project.test(
        f"@pytest.mark.quantize(checkpoint='ck', model={str(model)!r}, max_reference_nll=0, max_tokens=200)\n"
        "def test_it(): pass\n"
    )
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{name}: * weights differ by more than any rounding*"])


def test_the_command_audits_two_directories(project, checkpoint, capsys):
    """Without pytest's tests: 0 for healthy ones, 1 with what is wrong, 4 for a mistake."""

    def run(*given):
        capsys.readouterr()
        code = main(["audit", str(project.model), *given])
        printed = capsys.readouterr()
        return (
            code,
            pytest.LineMatcher(printed.out.splitlines()),
            pytest.LineMatcher(printed.err.splitlines()),
        )

    code, out, _ = run("ck")
    assert code == 0
    out.fnmatch_lines(["✓ weights vs the model's", "* tensors as the model's", "✓ files vs the model's"])
    (checkpoint / "config.json").write_text(
        (checkpoint / "config.json")
        .read_text()
        .replace('"max_position_embeddings": 256', '"max_position_embeddings": 64')
    )
    change(checkpoint, lambda tensors: tensors["model.norm.weight"].mul_(1.01))
    code, out, _ = run("ck")
    assert code == 1
    out.fnmatch_lines(
        [
            "✗ weights vs the model's",
            "*model.norm.weight: *",
            "✗ files vs the model's",
            "*config.max_position_embeddings 256 → 64*",
        ]
    )
    assert run("ck", "--may-differ", "model.norm", "config.*")[0] == 0
    assert run("nowhere")[0] == 4
    (checkpoint / "generation_config.json").write_text("{")
    code, _, err = run("ck")
    assert code == 4
    err.fnmatch_lines(["*generation_config.json is not valid JSON*"])
