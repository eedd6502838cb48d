"""The cached run of the proof: what was quantized or measured once must not be again."""

import json
import subprocess
import sys

import pytest
from places import ROOT


@pytest.fixture
def again(tmp_path):
    """Runs ``again.py`` over a cache with one trace; gives exit code and figures."""
    cache = tmp_path / "cache" / "traces" / "a"
    cache.mkdir(parents=True)
    (cache / "0-8.safetensors").touch()

    def run(code, **statuses):
        for name, status in statuses.items():
            report = {"outcomes": [{"verdict": {"status": status}}]}
            (tmp_path / f"{name}.json").write_text(json.dumps(report))
        out = ["--out", str(tmp_path / "again.json"), "--gates", "nf4", "gptq", "--"]
        command = [str(ROOT / "gpu" / "again.py"), *out, str(tmp_path / "cache"), "-c", code]
        ran = subprocess.run([sys.executable, *command], cwd=cache, capture_output=True, check=False)
        return ran.returncode, json.loads((tmp_path / "again.json").read_text())

    return run


@pytest.mark.parametrize(
    ("code", "made", "exit_code"),
    [
        ("open('summary-8.json', 'w')", [], 0),
        ("open('8-16.safetensors', 'w')", ["traces/a/8-16.safetensors"], 1),
        ("raise SystemExit(2)", [], 2),
    ],
    ids=["summarized", "measured", "failed"],
)
def test_measuring_again_is_a_failure(again, code, made, exit_code):
    """A summary of what was measured is none; a gate's own failure stays one."""
    found, figures = again(code, nf4="new", gptq="new")
    assert (found, figures["made"]) == (exit_code, made)


def test_a_gate_that_failed_is_not_tried_again(again):
    """It would take its time a second time; what passed is run, by name."""
    code = "import sys; assert sys.argv[1:] == ['test_gates.py::test_gptq'], sys.argv"
    found, figures = again(code, nf4="error", gptq="passed")
    assert (found, figures["gates"]) == (0, ["gptq"])


def test_without_any_gate_nothing_is_shown(again):
    """Which is a failure too."""
    found, figures = again("pass", nf4="regressed")
    assert (found, figures["gates"]) == (1, [])
