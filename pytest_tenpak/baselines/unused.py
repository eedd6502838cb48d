"""Unused baselines: files that no test of the suite uses, as far as a collection can tell."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from .entry import baseline_files
from .file_format import SCHEMA_VERSION
from .names import derived_name


@dataclass(frozen=True)
class Collected:
    """What a collection without errors saw of a suite.

    ``claims`` are the names of the baselines that its tests use, deselected tests' among them,
    ``whole`` the test files, as ids name them, of which every test was seen. ``covers(path)`` says whether
    a test file there would have been found, ``complete`` whether the whole suite was seen.
    """

    claims: Collection[str]
    whole: Collection[str]
    covers: Callable[[Path], bool]
    complete: bool


def find_unused(folder: Path, root: Path, collected: Collected) -> tuple[str, ...] | None:
    """The unused baselines, as paths below ``root``; None where a folder elsewhere cannot be judged.

    A folder outside the rootdir may serve other suites, whose tests this one does not know.
    """
    folder, root = folder.resolve(), root.resolve()
    if not folder.is_relative_to(root):
        return None
    return tuple(
        str(path.relative_to(root))
        for name, path in baseline_files(folder).items()
        if name not in collected.claims and _is_unused(name, _case_of(path), root, collected)
    )


def _is_unused(name: str, case: str | None, root: Path, collected: Collected) -> bool:
    """Whether the test of a baseline that nobody claims is gone, and not only out of sight."""
    if case is None:
        return False
    if name.partition("@")[0] != derived_name(case) and not collected.complete:
        # A name that a marker gave stays when its test moves to another file: any test may claim it.
        return False
    file = case.partition("::")[0]
    return file in collected.whole or (not (root / file).exists() and collected.covers(root / file))


def _case_of(path: Path) -> str | None:
    """The id of the test that a baseline was accepted for; None for what is no baseline that we can read.

    Not the whole check of ``Baseline.read``, which a run without gates should not pay for.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(plain, dict) or not isinstance(plain.get("entries"), dict):
        return None
    case, version = plain.get("case"), plain.get("schema_version")
    known = isinstance(version, int) and version <= SCHEMA_VERSION
    return case if known and isinstance(case, str) else None


def remove(path: Path, folder: Path) -> None:
    """Remove a baseline, and the folders below ``folder`` that this leaves empty."""
    path.unlink()
    for parent in path.parents:
        if parent == folder or not parent.is_relative_to(folder) or any(parent.iterdir()):
            return
        parent.rmdir()
