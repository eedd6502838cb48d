"""The core alone: what reviews, checks, merges and accepts baselines needs neither torch nor transformers."""

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commanding import git
from made_up import measured, outcome, reference, summary
from places import ROOT

from pytest_tenpak.baselines.entry import Baseline, Entry
from pytest_tenpak.reports.run_document import render

pytestmark = pytest.mark.slow


class Core:
    """An environment with the core of the package, and a copy of this repository's baselines in git."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.python = python
        self.folder = folder

    def run(self, *command: str, code: int = 0) -> str:
        """What a module prints when it is run there: ``pytest_tenpak`` or ``pytest``."""
        wide = {**os.environ, "COLUMNS": "200"}
        line = [str(self.python), "-m", *command]
        ran = subprocess.run(line, cwd=self.folder, env=wide, capture_output=True, text=True, check=False)
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran.stdout

    def tenpak(self, *arguments: str, code: int = 0) -> str:
        """What the command prints."""
        return self.run("pytest_tenpak", *arguments, code=code)


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of a fresh environment with nothing but the built wheel and what that asks for."""
    folder = tmp_path_factory.mktemp("core")
    source = folder / "source"
    shutil.copytree(ROOT / "pytest_tenpak", source / "pytest_tenpak")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, source], check=True)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    started = time.monotonic()
    install = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*install, "-c", ROOT / "constraints.txt", wheel], check=True)
    print(f"the core was installed in {time.monotonic() - started:.0f} s")
    return python


@pytest.fixture
def core(python, tmp_path) -> Core:
    """A repository with this project's demo and its baselines, committed."""
    for name in ("baselines", "demo"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pytest.ini").write_text(f"[pytest]\ntenpak_cache_dir = {tmp_path / 'cache'}\n")
    (tmp_path / "conftest.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "Accept")
    return Core(python, tmp_path)


def test_neither_torch_nor_transformers_comes_with_it(core):
    """Nor anything else that only measuring needs, plots with, or loads models by."""
    installed = json.loads(core.run("pip", "list", "--format=json"))
    names = {row["name"].lower() for row in installed}
    heavy = {
        "torch",
        "transformers",
        "accelerate",
        "safetensors",
        "huggingface-hub",
        "matplotlib",
        "datasets",
    }
    assert not names & heavy
    assert "pytest-tenpak" in names


def test_what_reviews_baselines_runs(core):
    """show, diff, check, history, prune and move, on this repository's own baselines."""
    assert "demo/test_smollm2/test_nf4" in core.tenpak("show")
    committed = len(list((ROOT / "baselines").rglob("*.json")))
    assert core.tenpak("check").splitlines()[-1] == f"{committed} baselines, 0 faults"
    assert core.tenpak("check", "baselines/demo/test_smollm2/test_nf4.json")  # as the pre-commit hook does
    assert "nothing changed since HEAD" in core.tenpak("diff")
    assert core.tenpak("history", "demo/test_smollm2/test_nf4", "--plot", "history.svg")
    assert (core.folder / "history.svg").read_text().startswith("<svg")
    assert core.tenpak("prune", "demo/test_smollm2.py")
    old, new = (f"demo/test_smollm2.py::test_{name}" for name in ("nf4", "four_bits"))
    core.tenpak("move", old, new)
    assert "1 moved since HEAD" in core.tenpak("diff")
    assert "four_bits" in core.tenpak("prune", "demo/test_smollm2.py", code=1)


def test_weights_are_audited_without_torch(core, tmp_path):
    """The tensors of two directories are compared; that files are not is said."""
    for name, factor in (("model", 1.0), ("checkpoint", 1.5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"model_type": "llama"}')
        header = json.dumps({"a.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
        values = struct.pack("<2f", factor, 1.0)
        (tmp_path / name / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + values)
    assert "✓ weights vs the model's" in core.tenpak("audit", "model", "model")
    printed = core.tenpak("audit", "model", "checkpoint", code=1)
    assert "a.weight: 1 of 2 weights differ by more than any rounding" in printed
    assert "files are not compared: transformers, which knows their defaults, is not installed" in printed


def test_what_another_machine_measured_is_accepted_and_merged(core):
    """accept writes a baseline by the very rules of a run; merge joins the documents of shards."""
    document = core.folder / "run.json"
    document.write_text(render(summary(outcome(factor=1.2))))
    path = core.folder / "baselines" / "test_a" / "test_a.json"
    Baseline("test_a.py::test_a", {"cpu": Entry.of(measured(), reference())}).write(path)
    before = path.read_bytes()
    assert "needs --reason" in core.tenpak("accept", "run.json", "--fewer-windows", code=1)
    assert path.read_bytes() == before
    assert "written" in core.tenpak(
        "accept", "run.json", "--fewer-windows", "--reason", "smaller", "--reanchor"
    )
    assert path.read_bytes() != before
    merged = core.tenpak("merge", "run.json", "--md", "run.md", "--json", "all.json", code=1)
    assert "1 gate expected, 1 ran" in merged
    assert (core.folder / "run.md").is_file()


def test_a_gate_says_which_extra_is_missing(core):
    """Not a traceback, and not a pass: an error with the pip line of the gate's own method."""
    said = core.run("pytest", "demo/test_smollm2.py", code=1)
    assert "measuring needs torch and transformers, which are not installed" in said
    assert "pip install 'pytest-tenpak[bitsandbytes]'" in said
    assert "Traceback" not in said
