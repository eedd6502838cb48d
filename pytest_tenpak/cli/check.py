"""Check that baseline files are whole and unedited, and do not contradict one another."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ..baselines.entry import Baseline, baseline_files
from ..baselines.file_format import SCHEMA_VERSION
from ..baselines.names import portable_name
from ..errors import BaselineError, BaselineFileError
from ..plugin import options
from ..store.atomic import sweep_temporaries

#: The environment of a hook has neither what a conftest imports nor the plugins that an ini file names.
PYTEST_OPTIONS = ("--noconftest", "-o", "addopts=", "-o", "required_plugins=")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``PATH…``: files, or folders of them."""
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="a baseline file, or a folder of them; default: all",
    )


def run(arguments: argparse.Namespace, config: pytest.Config) -> int:
    """Print a line for each fault, and notes; 1 where there is a fault."""
    folder = options.baseline_folder(config)
    everything = [_shown(path) for path in baseline_files(folder).values()]
    wanted = list(dict.fromkeys(_files(arguments.paths))) if arguments.paths else everything
    if not arguments.paths:
        for parent in {path.parent for path in wanted}:
            sweep_temporaries(parent)
    faults: list[str] = []
    notes: list[str] = []
    read: dict[Path, Baseline] = {}
    for path in wanted:
        faults += _name_faults(path, folder)
        try:
            baseline = _read(path)
        except BaselineFileError as error:
            faults.append(f"{path}: {error.fault}: {error.given}")
            continue
        read[path] = baseline
        version = json.loads(path.read_text(encoding="utf-8"))["schema_version"]
        if version < SCHEMA_VERSION:
            notes.append(f"{path}: note: schema version {version}; the next update writes {SCHEMA_VERSION}")
    faults += _shared(read, {path for path in everything if path.resolve() not in _resolved(wanted)})
    print(*faults, *notes, sep="\n", end="\n" if faults or notes else "")
    count = f"{len(wanted)} baseline{'' if len(wanted) == 1 else 's'}"
    print(f"{count}, {len(faults)} fault{'' if len(faults) == 1 else 's'}")
    return 1 if faults else 0


def _shown(path: Path) -> Path:
    """A path as short as it can be typed here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from baseline_files(path).values()
        elif path.exists():
            yield path
        else:
            raise BaselineError(
                f"there is no file {path}", remedy="name baseline files, or folders with them"
            )


def _read(path: Path) -> Baseline:
    baseline = Baseline.read(path)
    if baseline is None:
        raise BaselineFileError(path, "no longer exists", given="it was removed during this check")
    return baseline


def _resolved(paths: list[Path]) -> set[Path]:
    return {path.resolve() for path in paths}


def _name_faults(path: Path, folder: Path) -> Iterator[str]:
    """A name that another system cannot have, or that it takes for another file's."""
    whole = path.resolve()
    inside = (
        whole.relative_to(folder.resolve()) if whole.is_relative_to(folder.resolve()) else Path(path.name)
    )
    for part in inside.with_suffix("").parts:
        for piece in part.split("@"):
            if portable_name(piece) != piece:
                yield (
                    f"{path}: name: {part!r} is not portable (letters, digits and _ = . , + - are, "
                    "up to 100 of them)"
                )
    twins = [other.name for other in path.parent.iterdir() if other.name.lower() == path.name.lower()]
    if len(twins) > 1:
        yield f"{path}: name: differs only in case from {', '.join(sorted({*twins} - {path.name}))}"


def _shared(read: Mapping[Path, Baseline], others: set[Path]) -> Iterator[str]:
    """Files that claim the same test on the same corpus, at least one of them among those to check."""
    claims: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in (*read, *sorted(others)):
        try:
            baseline = read.get(path) or _read(path)
        except BaselineError:
            continue  # not among those to check, or reported already
        for corpus in {str(entry.identity.get("corpus")) for entry in baseline.entries.values()}:
            claims[baseline.case, corpus].append(path)
    for (case, corpus), paths in claims.items():
        if len(paths) > 1 and read.keys() & set(paths):
            rest = ", ".join(map(str, paths[1:]))
            yield f"{paths[0]}: case: {case!r} on corpus {corpus[:15]}… is claimed by {rest} too"
