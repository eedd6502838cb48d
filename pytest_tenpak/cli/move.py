"""Move the baseline of a renamed test to the test's new name, with its history."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from ..baselines.move import move
from ..baselines.names import derived_name
from ..errors import BaselineError
from ..plugin import options

_FORMS = "a test's id, or a baseline's name or path"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``OLD NEW``."""
    parser.add_argument("old", metavar="OLD", help=f"the old name: {_FORMS}")
    parser.add_argument("new", metavar="NEW", help=f"the new name: {_FORMS}; a killed move leaves both")


def run(arguments: argparse.Namespace, config: pytest.Config) -> int:
    """Move the file, and those of its other corpora."""
    folder = Path(os.path.normpath(options.baseline_folder(config)))
    old, new = (_name(text, folder, config) for text in (arguments.old, arguments.new))
    case = _nodeid(arguments.new, config) if "::" in arguments.new else None
    try:
        moves = move(folder, old, new, case)
    except OSError as fault:
        raise BaselineError(f"the baseline {old!r} cannot be moved to {new!r}", given=str(fault)) from None
    for paths in moves:
        print("moved", " → ".join(os.path.relpath(path, config.rootpath) for path in paths))
    return 0


def _nodeid(text: str, config: pytest.Config) -> str:
    """A test's id from the rootdir; pytest run in a subfolder shows and accepts ids from there."""
    file, _, test = text.partition("::")
    here = Path(os.path.normpath(config.invocation_params.dir / file))
    if here.is_file() and here.is_relative_to(config.rootpath):
        file = here.relative_to(config.rootpath).as_posix()
    return f"{file}::{test}"


def _name(text: str, folder: Path, config: pytest.Config) -> str:
    """The baseline's name that a test id, a name or a path stands for."""
    if "::" in text:
        return derived_name(_nodeid(text, config))
    paths = [Path(os.path.normpath(base / text)) for base in (config.invocation_params.dir, config.rootpath)]
    paths = [*paths, Path(os.path.normpath(folder / text))]
    inside = [path.relative_to(folder) for path in paths if path.is_relative_to(folder)]
    if not inside or not inside[0].parts or any(part.startswith(".") for part in inside[0].parts):
        raise BaselineError(
            f"{text!r} is not the name of a baseline", given=text, accepted=f"{_FORMS}, in {folder}"
        )
    return inside[0].as_posix().removesuffix(".json")
