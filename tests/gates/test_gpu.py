"""The gate on a CUDA device: run with `-m gpu` where there is one."""

import json

import pytest

pytestmark = pytest.mark.gpu

CALIBRATION = "samples=8, sample_length=128"
GATES = f"""
@pytest.mark.parametrize("name", [
    pytest.param("nf4", marks=pytest.mark.quantize(method="nf4")),
    pytest.param("int8", marks=pytest.mark.quantize(method="int8")),
    pytest.param("gptq", marks=pytest.mark.quantize(method="gptq", group_size=64, {CALIBRATION})),
    pytest.param("torch", marks=pytest.mark.quantize(method="gptq", kernel="torch", group_size=64, {CALIBRATION})),
    pytest.param("awq", marks=pytest.mark.quantize(method="awq", group_size=64, {CALIBRATION})),
])
def test_it(name, quantized):
    assert quantized.generate("KING", max_new_tokens=4)
"""


@pytest.fixture(autouse=True, scope="session")
def _cuda():
    """Skip before any model is trained for these tests."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


def test_every_method_is_quantized_and_gated_on_cuda(project, fluent, distributed):
    """On the device's own entry of the baseline, near the reference, with the peak of its memory; one GPU a worker."""
    project.ini(**{**project.settings, "model": fluent, "context": 128})
    project.test(GATES)
    result = project.run("--tenpak-device=cuda", "--tenpak-json=out.json", *distributed)
    result.assert_outcomes(passed=5)
    for outcome in json.loads((project.path / "out.json").read_text())["outcomes"]:
        assert outcome["device_class"].startswith("cuda-sm")
        assert outcome["quantizing"]["peak_cuda_bytes"] > 0
        assert abs(outcome["figures"]["ppl_delta"]) < 0.05
    project.run("--tenpak-device=cuda").assert_outcomes(passed=5)
