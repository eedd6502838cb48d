"""What tests run things in: a user's project, and an interpreter with the archived backends."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from places import ROOT, SUPPORT

from pytest_tenpak.evaluation.corpus import load_corpus
from pytest_tenpak.machines.cpu_class import cpu_class

#: Products this small are ten times slower on two threads than on one where others use the machine too.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}

#: Pytest's plugins that are installed here, without ours and xdist: importing them costs a second.
OTHERS = {entry.name for entry in entry_points(group="pytest11")} - {"tenpak", "xdist", "xdist.looponfail"}


def without(others: Iterable[str]) -> tuple[str, ...]:
    """Arguments that keep plugins out of a run, of its xdist workers too."""
    return tuple(arg for name in sorted(others) for arg in ("-p", f"no:{name}"))


#: Arguments for a run that is not about other plugins.
LEAN = without(OTHERS)

#: The device class of this machine's CPU, whose entries runs on it write.
CPU = cpu_class()

#: What the projects measure on: 110 windows of 64 bytes of what the model was trained on.
TEXT = load_corpus("shakespeare", Path()).documents[0][-7080:]


class Archived:
    """An interpreter with AutoGPTQ and AutoAWQ, which do not install beside everything else."""

    def __init__(self, python: Path) -> None:
        self.python = python

    def run(self, code: str) -> dict[str, Any]:
        """Run code there, in a process of its own; it ends by calling :func:`archived.answer`."""
        paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{SUPPORT}"}
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


class Project:
    """A user's project in a temporary folder, with a model, a corpus, and pytest to run."""

    def __init__(self, pytester: pytest.Pytester, model: Path, cache: Path) -> None:
        self.pytester = pytester
        self.path = pytester.path
        self.model = model
        #: Other plugins that runs load, by the names of their entry points.
        self.others: set[str] = set()
        (self.path / "text.txt").write_text(TEXT, encoding="utf-8")
        self.ini(model=model, cache_dir=cache, corpus="text.txt", context=64)

    def ini(self, **settings: object) -> None:
        """Write the project's ini file; a regression is not blamed unless a test is about that."""
        self.settings = settings = {"blame_seconds": 0, **settings}
        rows = "".join(f"tenpak_{name} = {value}\n" for name, value in settings.items())
        self.pytester.makeini(f"[pytest]\n{rows}")

    def test(self, body: str, name: str = "test_gate") -> None:
        """Write a test file."""
        self.pytester.makepyfile(**{name: "import pytest\n" + dedent(body)})

    def run(self, *args: str | os.PathLike[str]) -> pytest.RunResult:
        """Run pytest in the project, without other plugins but xdist and those of :attr:`others`."""
        return self.pytester.runpytest_subprocess(*without(OTHERS - self.others), *args)

    @property
    def baselines(self) -> list[str]:
        """Paths of all files below the baseline folder."""
        root = self.path / "baselines"
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
