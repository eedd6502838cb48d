"""What the plugin costs a suite, and what it shows of itself: no gate, nothing heavy."""

import re
import subprocess
import sys
from pathlib import Path

from pytest_tenpak.plugin import options


def ran(code: str, *args: str, cwd: Path | None = None) -> str:
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd).stdout


LOADED = """
import sys, pytest
code = pytest.main(["-q", "-p", "no:randomly", *sys.argv[1:]])
print("torch" in sys.modules, "transformers" in sys.modules, "jsonschema" in sys.modules, int(code))
"""


def test_without_a_marked_test_nothing_heavy_is_imported(tmp_path):
    """A suite that has no gates pays almost nothing."""
    (tmp_path / "test_plain.py").write_text("def test_plain(): pass\n")
    assert ran(LOADED, str(tmp_path), cwd=tmp_path).splitlines()[-1] == "False False False 0"


def test_a_run_answered_from_the_cache_does_not_import_torch(project):
    """Nor does a gate whose measurements are known."""
    project.test("@pytest.mark.quantize(method='nf4')\ndef test_nf4(): pass\n")
    project.run().assert_outcomes(passed=1)
    assert ran(LOADED, cwd=project.path).splitlines()[-1] == "False False True 0"


def test_the_help_lists_every_option(pytester):
    """pytest --help shows the group."""
    text = pytester.runpytest_subprocess("--help").stdout.str()
    for setting in (options.MODEL, *options.DEFAULTS, *options.RUN):
        assert setting.flag in text
        assert not setting.ini or re.search(rf"{setting.key} \(string\)", text)


def test_markers_are_registered(pytester):
    """--markers explains both names."""
    text = pytester.runpytest_subprocess("--markers").stdout.str()
    assert "@pytest.mark.quantize(method" in text
    assert "@pytest.mark.tenpak_quantize(method" in text
