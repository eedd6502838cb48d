"""GPTQ and AWQ through GPTQModel for real: quantized, loaded back in another process, gated; all four backends
in one command where the archived ones have an interpreter.
"""

import json
import os
import subprocess
import sys

import pytest
from places import ROOT, SUPPORT

pytestmark = pytest.mark.slow

#: Of the trained model: 2 layers of 4 · 128² + 3 · 128 · 256 weights are quantized.
HIDDEN, INNER, LAYERS = 128, 256, 2
WEIGHTS = LAYERS * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INNER)
CALIBRATION = "samples=8, sample_length=128"

GATES = f"""
@pytest.mark.quantize(method="gptq", backend="gptqmodel", group_size=64, {CALIBRATION})
def test_gptq(quantized):
    assert quantized.generate("KING", max_new_tokens=4)

@pytest.mark.quantize(method="gptq", bits=2, group_size=32, sym=False, dtype="bfloat16", {CALIBRATION})
def test_two_bits(): pass

@pytest.mark.quantize(method="gptq", bits=3, desc_act=True, kernel="torch", group_size=64, dtype="bfloat16", {CALIBRATION})
def test_three_bits(): pass

@pytest.mark.quantize(method="gptq", bits=8, kernel="torch_int8", group_size=-1, {CALIBRATION})
def test_eight_bits(): pass

@pytest.mark.quantize(method="awq", backend="gptqmodel", group_size=64, {CALIBRATION})
def test_awq(quantized):
    assert quantized.generate("KING", max_new_tokens=4)

@pytest.mark.quantize(method="awq", clip=False, zero_point=False, group_size=128, {CALIBRATION})
def test_symmetric(): pass
"""


def outcomes(project, *args) -> dict[str, dict]:
    assert project.run("--tenpak-json=out.json", *args).ret == 0
    plain = json.loads((project.path / "out.json").read_text())
    return {outcome["case"]["nodeid"].rpartition("::")[2]: outcome for outcome in plain["outcomes"]}


@pytest.fixture
def fluent_project(project, fluent):
    """A project that gates the model whose layers matter."""
    project.ini(**{**project.settings, "model": fluent, "context": 128})
    return project


def expected_bits(options: dict, method: str) -> float:
    """Codes; a 16-bit scale and a zero point of the codes' width per group; GPTQ's 32-bit column indices."""
    bits, group = options["bits"], options["group_size"]
    rows = LAYERS * (4 * HIDDEN + 2 * INNER + HIDDEN)
    groups = rows if group == -1 else WEIGHTS / group
    indices = LAYERS * (6 * HIDDEN + INNER) if method == "gptq" else 0
    return bits + (groups * (16 + bits) + 32 * indices) / WEIGHTS


def test_gptq_and_awq_are_quantized_loaded_back_and_gated(fluent_project):
    """Ledger equal to theory within 1 %, near the reference, GPTQModel named with its kernel and threads."""
    fluent_project.test(GATES)
    measured = outcomes(fluent_project)
    lost = {name: outcome["figures"]["ppl_delta"] for name, outcome in measured.items()}
    for outcome in measured.values():
        spec = outcome["case"]["spec"]
        bits = outcome["figures"]["bits_per_weight"]
        assert bits == pytest.approx(expected_bits(spec["options"], spec["method"]), rel=0.01), spec
        assert spec["options"]["backend"] == "gptqmodel"
        assert outcome["parts"][0]["measurement"]["loader"].startswith("gptqmodel ")
        assert outcome["parts"][0]["measurement"]["provenance"]["device"].keys() >= {
            "kernel",
            "quantizer threads",
        }
        assert outcome["parts"][0]["measurement"]["provenance"]["versions"].keys() >= {"gptqmodel"}
        assert outcome["quantizing"].keys() >= {"seconds", "peak_bytes", "threads"}
        assert (
            outcome["parts"][0]["measurement"]["weights_digest"]
            != outcome["parts"][0]["reference"]["weights_digest"]
        )
    for name in ("test_gptq", "test_three_bits", "test_eight_bits", "test_awq", "test_symmetric"):
        assert abs(lost[name]) < 0.03, name
    # The embeddings are stored as the model has them, though AWQ works in 16 bit.
    assert measured["test_awq"]["parts"][0]["measurement"]["ledger"]["tensor_bytes"] > 4 * 258 * HIDDEN
    again = fluent_project.run()
    again.assert_outcomes(passed=6)
    again.stdout.fnmatch_lines(["test_gate.py::test_awq *awq (gptqmodel) *passed"])


#: The benchmarks' method "round-to-nearest": the layers rounded to nearest, saved unpacked.
RTN = (ROOT / "benchmarks" / "methods" / "conftest.py").read_text(encoding="utf-8")


def test_gptq_beats_round_to_nearest_and_awq_comes_near(fluent_project):
    """At 2 bits GPTQ loses at most 0.6 of what rounding loses; at 4 bits AWQ is within 1 % of rounding."""
    fluent_project.pytester.makeconftest(RTN)
    fluent_project.test(
        f"""
        @pytest.mark.quantize(method="round-to-nearest", bits=2, group_size=32, dtype="bfloat16", max_rtn_factor=0)
        def test_rtn_2(): pass

        @pytest.mark.quantize(method="gptq", bits=2, group_size=32, dtype="bfloat16", {CALIBRATION})
        def test_gptq_2(): pass

        @pytest.mark.quantize(method="round-to-nearest", bits=4, group_size=64)
        def test_rtn_4(): pass

        @pytest.mark.quantize(method="awq", backend="gptqmodel", group_size=64, {CALIBRATION})
        def test_awq_4(): pass
        """
    )
    lost = {name: row["figures"]["ppl_delta"] for name, row in outcomes(fluent_project).items()}
    assert lost["test_gptq_2"] < 0.6 * lost["test_rtn_2"]
    assert lost["test_awq_4"] < lost["test_rtn_4"] + 0.01


def test_the_same_spec_and_threads_give_the_same_weights(fluent_project, tmp_path):
    """From an empty cache: the same bytes in the file of weights, for both methods."""
    fluent_project.test(
        f"""
        @pytest.mark.quantize(method="gptq", group_size=64, {CALIBRATION})
        def test_gptq(): pass

        @pytest.mark.quantize(method="awq", group_size=64, {CALIBRATION})
        def test_awq(): pass
        """
    )
    files = []
    for folder in (fluent_project.settings["cache_dir"], tmp_path):
        made = outcomes(fluent_project, f"--tenpak-cache-dir={folder}")
        files.append(
            {
                name: fluent_project.path.joinpath(o["checkpoint"], "model.safetensors").read_bytes()
                for name, o in made.items()
            }
        )
    assert files[0] == files[1]


def test_the_four_backends_of_the_table_in_one_command(fluent_project, archived_python):
    """GPTQModel here, AutoGPTQ and AutoAWQ in an environment that has no pytest-tenpak: one run, one table."""
    python = archived_python.python
    fluent_project.ini(
        **fluent_project.settings,
        python=f'{{"auto-gptq": "{python}", "autoawq": "{python}"}}',
        max_tokens=1000,
    )
    fluent_project.test(
        f"""
        @pytest.mark.quantize(method="gptq", backend="auto-gptq", group_size=64, {CALIBRATION})
        def test_auto_gptq(): pass

        @pytest.mark.quantize(method="awq", backend="autoawq", group_size=64, clip=False, {CALIBRATION})
        def test_autoawq(quantized):
            assert quantized.generate("KING", max_new_tokens=4)  # with GPTQModel's loader, in this process

        @pytest.mark.quantize(method="nf4")
        def test_nf4(): pass

        @pytest.mark.quantize(method="int8")
        def test_int8(): pass
        """
    )
    measured = outcomes(fluent_project)
    for test, method, backend in (
        ("test_auto_gptq", "gptq", "auto-gptq"),
        ("test_autoawq", "awq", "autoawq"),
    ):
        outcome = measured[test]
        assert outcome["parts"][0]["measurement"]["loader"].startswith(backend)
        assert backend in outcome["parts"][0]["measurement"]["provenance"]["versions"]
        assert abs(outcome["figures"]["ppl_delta"]) < 0.03
        options = outcome["case"]["spec"]["options"]
        assert outcome["figures"]["bits_per_weight"] == pytest.approx(
            expected_bits(options, method), rel=0.01
        )
    again = fluent_project.run("-rA")
    again.stdout.fnmatch_lines_random(
        [
            "*::test_auto_gptq *gptq (auto-gptq) *passed",
            "*::test_autoawq *awq (autoawq) *passed",
            "*::test_nf4 *passed",
            "4 gates expected, 4 ran",
        ]
    )


def test_an_architecture_that_gptqmodel_does_not_know_is_named(fluent_project, tmp_path):
    """Before anything is quantized, with those it knows."""
    model = tmp_path / "odd"
    code = (
        "import tiny, pathlib; from transformers import XGLMConfig, XGLMForCausalLM;"
        "m = XGLMForCausalLM(XGLMConfig(vocab_size=258, d_model=64, ffn_dim=128, num_layers=1, attention_heads=2));"
        f"tiny.save(m, pathlib.Path({str(model)!r}))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=SUPPORT, check=True)
    fluent_project.test(
        f"@pytest.mark.quantize(method='gptq', model={str(model)!r}, group_size=32, {CALIBRATION})\n"
        "def test_odd(): pass\n"
    )
    result = fluent_project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*backend 'gptqmodel' does not support the architecture 'xglm'", "*llama*"])


FLOAT32 = """
import dataclasses, json, sys
import torch
import archived
from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear
from pytest_tenpak.quantizers.backends import gptqmodel as adapter
from pytest_tenpak.spec import QuantizeSpec

model, folder = sys.argv[1:]
AwqTorchLinear.SUPPORTS_DTYPES = [*AwqTorchLinear.SUPPORTS_DTYPES, torch.float32]
seen = {"reference": archived.perplexity(archived.reference(model), model)}
for dtype in ("bfloat16", "float32"):
    adapter._dtype = lambda job: dtype
    job = archived.job(model, f"{folder}/{dtype}", group_size=64)
    job = dataclasses.replace(job, spec=QuantizeSpec("awq", job.spec.options))
    adapter.quantize(job)
    seen[dtype] = archived.perplexity(adapter.load(job.spec, job.out, "cpu", "float32"), model)
print(json.dumps(seen))
"""


def test_awq_is_kept_from_float32_where_its_search_would_ruin_the_weights(fluent, tmp_path):
    """GPTQModel copies by converting, which in float32 on CPU copies nothing; if that is mended, this tells."""
    ran = subprocess.run(
        [sys.executable, "-c", FLOAT32, str(fluent), str(tmp_path)],
        cwd=tmp_path,  # where the library leaves its logs
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    seen = json.loads(ran.stdout.splitlines()[-1])
    assert abs(seen["bfloat16"] / seen["reference"] - 1) < 0.02
    assert seen["float32"] / seen["reference"] - 1 > 0.05, "GPTQModel keeps real copies: float32 can be used"
