"""Show what changed in the baselines since a revision, in figures and with reasons."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from ..baselines.diff import changes
from ..baselines.entry import Baseline, baseline_files
from ..baselines.git import Repository
from ..errors import BaselineError
from ..plugin import options
from ..reports import baseline_diff


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``REV``, and the form."""
    parser.add_argument("revision", nargs="?", default="HEAD", metavar="REV", help="default: HEAD")
    parser.add_argument("--markdown", action="store_true", help="a table fit for a pull request")


def run(arguments: argparse.Namespace, config: pytest.Config) -> int:
    """Print every baseline that differs in the working tree, and those that cannot be read."""
    folder = options.baseline_folder(config)
    repository = Repository(folder)
    files = {path: blob for path, blob in repository.files(arguments.revision).items() if _counts(path)}
    contents = repository.read(set(files.values()))
    committed = {path.removesuffix(".json"): contents.get(blob, b"") for path, blob in files.items()}
    problems: dict[str, list[str]] = {}
    present = {}
    for name, path in baseline_files(folder).items():
        try:
            present[name] = path.read_bytes()
        except OSError as fault:
            problems[name] = [f"in the working tree, the baseline {name}.json cannot be read: {fault}"]
    old, new = (
        _parsed(contents, where, problems)
        for contents, where in ((committed, arguments.revision), (present, "the working tree"))
    )
    # A file that cannot be read on one side is neither new nor gone.
    rows = changes(*({n: b for n, b in side.items() if n not in problems} for side in (old, new)))
    shown = baseline_diff.markdown if arguments.markdown else baseline_diff.text
    unreadable = [problem for named in problems.values() for problem in named]
    print(*shown(rows, arguments.revision, unreadable), sep="\n")
    return 0


def _counts(path: str) -> bool:
    return path.endswith(".json") and not path.rpartition("/")[2].startswith(".")


def _parsed(contents: dict[str, bytes], where: str, problems: dict[str, list[str]]) -> dict[str, Baseline]:
    """The baselines that can be read; the faults of the others go to ``problems``, by name."""
    baselines = {}
    for name, content in contents.items():
        try:
            baselines[name] = Baseline.parse(content.decode(), Path(f"{name}.json"))
        except UnicodeDecodeError as fault:
            problem = f"in {where}, the baseline {name}.json cannot be read: {fault}"
        except BaselineError as error:
            problem = f"in {where}, {error.problem}: {error.given}"
        else:
            continue
        problems.setdefault(name, []).append(problem)
    return baselines
