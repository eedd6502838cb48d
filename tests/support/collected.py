"""A suite whose gates are collected, and never run: what that alone tells of its baselines."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from made_up import accepted
from projects import LEAN

from pytest_tenpak.baselines.entry import Baseline
from pytest_tenpak.baselines.names import derived_name

GATE = "@pytest.mark.quantize(method='fp16'{})\ndef {}(): pass\n"


class Suite:
    """A project whose gates nobody runs: no model is needed to collect them."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path
        self.ini()

    def ini(self, *rows: str) -> None:
        """Write the ini file."""
        self.pytester.makeini("\n".join(["[pytest]", *rows]))

    def test(self, file: str, *tests: str, head: str = "") -> None:
        """Write a test file with a gate for each of ``tests``, under a head of its own."""
        path = self.path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        body = "".join(GATE.format("", name) for name in tests)
        path.write_text(f"import pytest\n{head}\n{body}")

    def accept(self, *cases: str, name: str | None = None) -> None:
        """Write the baselines that runs of these tests once created."""
        for case in cases:
            path = self.path / "baselines" / f"{name or derived_name(case)}.json"
            Baseline(case, {"cpu": accepted()}).write(path)

    def run(self, *args: str) -> pytest.RunResult:
        """Run pytest; without workers, gates are only collected, which imports nothing heavy."""
        if "-n" in args:
            return self.pytester.runpytest_subprocess(*LEAN, *args)
        return self.pytester.runpytest_inprocess(*LEAN, "--collect-only", *args)

    def unused(self, *args: str) -> list[str]:
        """The names that a run says are unused."""
        lines = self.run(*args).outlines
        return [line.strip() for line in lines if line.startswith("  baselines/")]

    def tenpak(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run the ``tenpak`` command."""
        command = [sys.executable, "-m", "pytest_tenpak", *args]
        lean = {**os.environ, "PYTEST_ADDOPTS": " ".join(LEAN)}
        return subprocess.run(command, cwd=self.path, env=lean, capture_output=True, text=True, check=False)

    @property
    def baselines(self) -> list[str]:
        """Everything below the baseline folder."""
        root = self.path / "baselines"
        return sorted(str(path.relative_to(root)) for path in root.rglob("*"))
