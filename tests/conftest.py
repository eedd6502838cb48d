"""Shared by all tests: a tiny model that has learned something, and projects to run pytest in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from pytest_tenpak.evaluation.corpus import load_corpus
from pytest_tenpak.store.store import Store

#: What CI systems and xdist set, and what would change how pytest or the gate behaves.
AMBIENT = ("CI", "BUILD_NUMBER", "GITHUB_ACTIONS", "PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS")

#: Products this small are ten times slower on two threads than on one where others use the machine too.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}

if "PYTEST_XDIST_WORKER" in os.environ:
    for _name, _value in ONE_THREAD.items():
        os.environ.setdefault(_name, _value)

#: What the projects measure on: 110 windows of 64 bytes of what the model was trained on.
TEXT = load_corpus("shakespeare", Path()).documents[0][-7080:]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    """Tests see no CI unless they are about CI."""
    for name in AMBIENT:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory) -> Path:
    """One cache for the whole run: a checkpoint that one test made, the next one finds."""
    root = tmp_path_factory.getbasetemp()
    return (root.parent if root.name.startswith("popen-") else root) / "cache"


def _train(folder: Path, steps: int) -> dict[str, str]:
    # In a process of its own: pytester forgets modules that were first imported beside it, and torch
    # cannot be imported twice.
    code = f"import tiny, pathlib; tiny.save_trained_llama(pathlib.Path({str(folder)!r}), steps={steps})"
    environment = {**os.environ, **ONE_THREAD}
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment, check=True)
    return {}


@pytest.fixture(scope="session")
def trained(shared_cache) -> Path:
    """A byte-level Llama of 0.4 million weights, trained for some seconds on the packaged corpus."""
    return Store(shared_cache).directory("trained", {}, lambda folder: _train(folder, steps=120)).path


@pytest.fixture(scope="session")
def fluent(shared_cache) -> Path:
    """The same Llama, trained until its layers matter: a quantizer that ruins them is seen."""
    return Store(shared_cache).directory("fluent", {}, lambda folder: _train(folder, steps=300)).path


class Archived:
    """An interpreter with AutoGPTQ and AutoAWQ, which do not install beside everything else."""

    def __init__(self, python: Path) -> None:
        self.python = python

    def run(self, code: str) -> dict[str, Any]:
        """Run code there, in a process of its own; it ends by calling :func:`archived.answer`."""
        here = Path(__file__).parent
        paths = {"PYTHONPATH": f"{here.parent}{os.pathsep}{here}"}
        quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
        ran = subprocess.run(
            [self.python, "-c", "import archived\n" + dedent(code)],
            env={**os.environ, **paths, **quiet, **ONE_THREAD},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr[-4000:]
        figures: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
        return figures


@pytest.fixture(scope="session")
def archived_python() -> Archived:
    """The interpreter that TENPAK_ARCHIVED_PYTHON names, or the one that make builds."""
    built = Path(__file__).parent.parent / ".venv-archived" / "bin" / "python"
    python = Path(os.environ.get("TENPAK_ARCHIVED_PYTHON", built))
    if not python.is_file():
        pytest.skip(f"{python} is not there; build it with: make .venv-archived/installed")
    return Archived(python)


class Project:
    """A user's project in a temporary folder, with a model, a corpus, and pytest to run."""

    def __init__(self, pytester: pytest.Pytester, model: Path, cache: Path) -> None:
        self.pytester = pytester
        self.path = pytester.path
        self.model = model
        (self.path / "text.txt").write_text(TEXT, encoding="utf-8")
        self.ini(model=model, cache_dir=cache, corpus="text.txt", context=64)

    def ini(self, **settings: object) -> None:
        """Write the project's ini file."""
        self.settings = settings
        rows = "".join(f"tenpak_{name} = {value}\n" for name, value in settings.items())
        self.pytester.makeini(f"[pytest]\nasyncio_default_fixture_loop_scope = function\n{rows}")

    def test(self, body: str, name: str = "test_gate") -> None:
        """Write a test file."""
        self.pytester.makepyfile(**{name: "import pytest\n" + dedent(body)})

    def run(self, *args: str | os.PathLike[str]) -> pytest.RunResult:
        """Run pytest in the project; plugins that reorder tests stay out unless a test asks for them."""
        quiet = () if any("randomly" in str(arg) for arg in args) else ("-p", "no:randomly")
        return self.pytester.runpytest_subprocess(*quiet, *args)

    @property
    def baselines(self) -> list[str]:
        """Paths of all files below the baseline folder."""
        root = self.path / "baselines"
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.fixture
def project(pytester, trained, shared_cache) -> Project:
    """A project whose model is the trained Llama and whose cache is shared by the session."""
    return Project(pytester, trained, shared_cache)


@pytest.fixture(params=[(), ("-n", "2")], ids=["alone", "xdist"])
def distributed(request) -> tuple[str, ...]:
    """Arguments that run a project in one process, and under xdist."""
    return request.param


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
