"""The gate on a CUDA device: run with `-m gpu` where there is one."""

import json

import pytest

pytestmark = pytest.mark.gpu

CALIBRATION = "samples=8, sample_length=128"
GATE = """
@pytest.mark.parametrize("name", [
    {}
])
def test_it(name, quantized):
    assert quantized.generate("KING", max_new_tokens=4)
"""
#: Marker arguments by name: of what runs as it is installed, and with kernels that GPTQModel compiles first.
PLAIN = {
    "nf4": "method='nf4'",
    "int8": "method='int8'",
    "int4": "method='int4', group_size=32",
    "gptq": f"method='gptq', kernel='torch', group_size=64, {CALIBRATION}",
    "awq": f"method='awq', kernel='torch', group_size=64, {CALIBRATION}",
}
COMPILED = {
    "gptq": f"method='gptq', group_size=64, {CALIBRATION}",
    "awq": f"method='awq', group_size=64, {CALIBRATION}",
}


@pytest.fixture(autouse=True, scope="session")
def _cuda():
    """Skip before any model is trained for these tests."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


def gates(project, model, arguments, *options) -> list[dict]:
    """The outcomes of a gate for each, that all passed, and pass again from the cache."""
    rows = (f"pytest.param('{n}', marks=pytest.mark.quantize({a}))," for n, a in arguments.items())
    project.ini(**{**project.settings, "model": model, "context": 128})
    project.test(GATE.format("\n    ".join(rows)))
    result = project.run("--tenpak-device=cuda", "--tenpak-json=out.json", *options)
    result.assert_outcomes(passed=len(arguments))
    project.run("--tenpak-device=cuda").assert_outcomes(passed=len(arguments))
    return json.loads((project.path / "out.json").read_text())["outcomes"]


def test_every_method_is_quantized_and_gated_on_cuda(project, fluent, distributed):
    """On the device's own entry of the baseline, near the reference, with the peak of its memory; one GPU a worker."""
    for outcome in gates(project, fluent, PLAIN, *distributed):
        assert outcome["device_class"].startswith("cuda-sm")
        assert outcome["quantizing"]["peak_cuda_bytes"] > 0
        assert abs(outcome["figures"]["ppl_delta"]) < 0.05


def test_kernels_that_are_compiled_first(project, fluent):
    """GPTQModel's own choice, which takes minutes where it was not compiled yet, has figures near the reference."""
    for outcome in gates(project, fluent, COMPILED):
        assert abs(outcome["figures"]["ppl_delta"]) < 0.05
