"""A suite in a git repository, and the ``tenpak`` command run in it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_tenpak.baselines.entry import Baseline, Entry
from pytest_tenpak.cli.main import main

#: Git as it is anywhere, and an author who commits at known times.
GIT = {
    **{"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"},
    **{
        "GIT_AUTHOR_NAME": "A",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "A",
        "GIT_COMMITTER_EMAIL": "a@b",
    },
}


def git(folder: Path, *arguments: str) -> str:
    """What a git command prints."""
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **GIT}
    ).stdout.strip()


@dataclass
class Suite:
    """A folder with baselines, in which commands run in this process."""

    path: Path
    capsys: pytest.CaptureFixture[str]
    code: int = 0
    errors: str = ""

    @property
    def folder(self) -> Path:
        return self.path / "baselines"

    def write(self, name: str, entry: Entry, case: str = "", device_class: str = "cpu") -> Path:
        """Write an entry to a baseline; its file."""
        path = self.folder / f"{name}.json"
        baseline = Baseline.read(path) or Baseline(case or f"{name}.py::test")
        baseline.with_entry(device_class, entry).write(path)
        return path

    def commit(self, message: str = "message") -> str:
        """Commit everything; the commit."""
        if not (self.path / ".git").exists():
            git(self.path, "init", "-q")
        git(self.path, "add", "-A")
        git(self.path, "commit", "-qm", message)
        return git(self.path, "rev-parse", "HEAD")

    def tenpak(self, *arguments: str | Path) -> str:
        """What the command prints; ``code`` and ``errors`` say how it ended."""
        self.capsys.readouterr()
        self.code = main([str(argument) for argument in arguments])
        printed = self.capsys.readouterr()
        self.errors = printed.err
        return printed.out


@pytest.fixture
def suite(tmp_path, monkeypatch, capsys) -> Suite:
    """A suite of its own, outside git until something is committed."""
    (tmp_path / "pytest.ini").write_text("[pytest]\ntenpak_cache_dir = cache\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return Suite(tmp_path, capsys)
