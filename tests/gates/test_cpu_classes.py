"""A baseline that was recorded on another class of CPUs, which the libraries' own switches emulate."""

import json

import pytest
from made_up import better, rewrite
from projects import CPU

from pytest_tenpak.metrics.device_class import X86

#: Switches for the next class below this machine's, with its name.
LOWER = {
    "cpu-avx2": ("cpu-x86-64", {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}),
    "other": ("cpu-avx2", {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
}


@pytest.mark.slow
def test_a_run_on_another_cpu_is_compared_and_says_so(project, monkeypatch):
    """With the nearest class, its bounds wider; no file changes, and a regression stays one."""
    if CPU not in X86[1:]:
        pytest.skip(f"no class below {CPU} can be emulated")
    lower, switches = LOWER.get(CPU, LOWER["other"])
    project.test("@pytest.mark.quantize(method='nf4')\ndef test_nf4(): pass\n")
    project.run().assert_outcomes(passed=1)
    own = project.run()
    own.stdout.fnmatch_lines([f"compared with baseline entries of {CPU}"])
    path = project.path / "baselines" / "test_gate" / "test_nf4.json"
    written = path.read_bytes()
    for name, value in switches.items():
        monkeypatch.setenv(name, value)
    result = project.run("--tenpak-json=out.json")
    result.assert_outcomes(passed=1)
    assert path.read_bytes() == written
    [outcome] = json.loads((project.path / "out.json").read_text())["outcomes"]
    assert outcome["device_class"] == lower
    assert [part["entry_device"] for part in outcome["parts"]] == [CPU]
    result.stdout.fnmatch_lines(
        [f"compared with baseline entries of {CPU}, the device class nearest to {lower}"]
    )
    check = next(one for one in outcome["verdict"]["checks"] if one["name"] == "ppl_tolerance")
    assert (
        f"compared with the entry of {CPU}, the nearest device class; widened by 0.25%" in check["evidence"]
    )
    rewrite(path, lambda entry: better(entry, 1.25))
    project.run().assert_outcomes(failed=1)
    result = project.run("--tenpak-update=failing", "--tenpak-accept=other kernels")
    result.assert_outcomes(passed=1)
    assert sorted(json.loads(path.read_text())["entries"]) == sorted([CPU, lower])
