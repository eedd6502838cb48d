"""The proof's steps: together within eight minutes, and all that the kit promises."""

import ast
import json
import re
import sys

import pytest
from pack import SUITE
from places import ROOT, TESTS
from steps import GATES, LIMITS, Setup, make_steps

KIT = ROOT / "gpu"


@pytest.fixture
def steps(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a-1-py3-none-any.whl").touch()
    return make_steps(Setup("python", tmp_path / "files", tmp_path, tmp_path / "out"))


def test_all_limits_together_are_below_eight_minutes(steps):
    """With ten seconds to spare for joining the pieces; every step has one, and no limit is without a step."""
    assert sum(LIMITS.values()) <= 470
    assert [step.name for step in steps] == list(LIMITS)
    assert [step.seconds for step in steps] == list(LIMITS.values())


def test_a_gate_that_ended_in_an_error_has_a_row_without_figures(steps, tmp_path):
    """Its report has none."""
    (tmp_path / "out").mkdir()
    outcome = {"verdict": {"status": "error"}, "device_class": "cpu-avx2", "quantizing": {}, "figures": None}
    (tmp_path / "out" / "nf4.json").write_text(json.dumps({"outcomes": [outcome]}))
    (gate,) = (step for step in steps if step.name == "nf4")
    assert gate.figures()["status"] == "error"


def test_every_gate_of_the_steps_is_a_test_of_the_suite_and_the_other_way_round():
    """By name."""
    text = (KIT / "gates" / "test_gates.py").read_text(encoding="utf-8")
    assert re.findall(r"^def test_(\w+)", text, re.MULTILINE) == list(GATES)


def test_every_test_that_needs_a_gpu_is_in_the_kit():
    """With the modules that it is run with."""
    texts = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in TESTS.rglob("test_*.py")}
    marked = {
        name for name, text in texts.items() if re.search(r"^(pytestmark = |@)pytest\.mark\.gpu$", text, re.M)
    }
    assert marked != set()
    assert marked <= set(SUITE)
    assert all((ROOT / path).exists() for path in SUITE)


@pytest.mark.parametrize(
    "name", ["prove", "pieces", "running", "steps", "tables", "install", "again", "machine"]
)
def test_what_starts_the_proof_needs_the_standard_library_alone(name):
    """Nothing is installed yet; torch is imported where a function needs it."""
    ours = {path.stem for path in KIT.glob("*.py")} - {"closure", "pack", "measured"}
    for node in ast.parse((KIT / f"{name}.py").read_text(encoding="utf-8")).body:
        found = [node.module] if isinstance(node, ast.ImportFrom) else []
        found += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for module in found:
            assert module.partition(".")[0] in {*sys.stdlib_module_names, *ours}, module


def test_the_page_has_every_step_with_its_limit():
    """And no other: the table of ``docs/gpu.md``."""
    text = (
        (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8").partition("| step |")[2].partition("\n\n")[0]
    )
    cells = re.findall(r"^\| (`[^|]*) \| ([\d, ]+) \|", text, re.MULTILINE)
    pairs = [zip(re.findall(r"`(\w+)`", names), numbers.split(", "), strict=True) for names, numbers in cells]
    assert {name: int(number) for rows in pairs for name, number in rows} == LIMITS
