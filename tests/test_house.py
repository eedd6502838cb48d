"""The house itself: imports point down, nothing heavy is imported unasked, the documents are complete."""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import pytest_tenpak
from pytest_tenpak.gate.arguments import ARGUMENTS
from pytest_tenpak.plugin import options
from pytest_tenpak.quantizers.registry import Registry

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "pytest_tenpak"

#: The table of layers; a module imports from lower ones, or from its own where that is not barred below.
LAYERS = {
    **dict.fromkeys(("errors", "digest", "files", "git", "locks", "source", "units"), 0),
    **dict.fromkeys(("spec", "protocol", "statistics", "measurement", "goals", "progress", "weights"), 1),
    **dict.fromkeys(("schema", "baseline", "checks", "evidence", "drift", "verdict", "update", "outcome"), 2),
    **dict.fromkeys(("report", "checkpoint", "device", "interpreters"), 3),
    **dict.fromkeys(("quantizers", "measure", "models"), 4),
    **dict.fromkeys(
        ("jobs", "measuring", "worker", "bench", "traced", "noise", "pipeline", "arguments", "marker"), 5
    ),
    "keeping": 5,
    **dict.fromkeys(("session", "quantized", "doctor", "stale", "renames", "history", "accepting"), 6),
    **dict.fromkeys(
        (
            "hookspecs",
            "options",
            "state",
            "census",
            "reporting",
            "pytest_html",
            "collector",
            "plugin",
            "commands",
            "cli",
            "__main__",
        ),
        7,
    ),
}
HEAVY = {"torch", "transformers", "bitsandbytes", "datasets", "accelerate"}


def imports():
    """(importing module, imported module or distribution, whether at the top of the file)."""
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = set(tree.body)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = parts[: len(parts) - node.level]
                names = [node.module] if node.module else [alias.name for alias in node.names]
                yield from ((parts, (*base, *name.split(".")), node in top) for name in names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield parts, (node.module.split(".")[0],), node in top
            elif isinstance(node, ast.Import):
                yield from ((parts, (alias.name.split(".")[0],), node in top) for alias in node.names)


def test_imports_point_down():
    """No module imports from a higher layer; quantizers and measure never import each other."""
    for importer, imported, _ in imports():
        one, other = importer[0], imported[0]
        if other in LAYERS and one in LAYERS and one != other:
            assert LAYERS[other] <= LAYERS[one], f"{one} imports {other}"
            assert {one, other} != {"quantizers", "measure"}


def test_every_module_has_its_layer():
    """A new module takes a place in the table."""
    modules = {p.relative_to(SOURCE).with_suffix("").parts[0] for p in SOURCE.rglob("*.py")} - {"__init__"}
    assert modules == set(LAYERS)


def test_heavy_libraries_are_imported_only_in_their_layer_and_only_when_needed():
    """torch and its kin: layer 4 and the worker, never at the top of a module."""
    for importer, imported, at_top in imports():
        if imported[0] in HEAVY:
            assert not at_top, f"{importer} imports {imported} at its top"
            assert LAYERS[importer[0]] == 4 or importer[0] in ("jobs", "measuring", "quantized"), importer


def test_only_the_top_layer_knows_pytest():
    """Everything below could serve a command line as well."""
    for importer, imported, _ in imports():
        if imported[0] in ("pytest", "_pytest"):
            assert LAYERS[importer[0]] == 7, importer


@pytest.mark.parametrize("module", ["_pytest", "xdist"])
def test_no_private_modules_of_others(module):
    """pytest's public names only."""
    assert not [importer for importer, imported, _ in imports() if imported[0] == module]


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


def test_the_installed_wheel_is_tested():
    """Not the source tree, unless it was installed as editable on purpose."""
    direct = metadata.distribution("pytest-tenpak").read_text("direct_url.json") or ""
    if '"editable"' in direct:
        pytest.skip("editable install")
    assert not Path(pytest_tenpak.__file__).is_relative_to(ROOT / "pytest_tenpak")
    files = {str(file) for file in metadata.distribution("pytest-tenpak").files}
    assert {
        "pytest_tenpak/py.typed",
        "pytest_tenpak/baselines/schemas/baseline-2.json",
        "pytest_tenpak/evaluation/corpora/shakespeare.txt",
        "pytest_tenpak/reports/html/templates/report.html.j2",
    } <= files


def test_the_readme_names_every_marker_argument_option_and_method():
    """Tables in README are complete: arguments, each method's options, options and ini keys."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    registry = Registry()
    names = [argument.name for argument in ARGUMENTS]
    names += [option.name for method in registry for option in registry[method].options]
    names += [*registry, *(setting.flag for setting in (options.MODEL, *options.DEFAULTS, *options.RUN))]
    missing = [name for name in names if f"`{name}`" not in readme]
    assert missing == []


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
