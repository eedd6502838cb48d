"""Unused baselines: files that no test of the suite uses any more, as far as a collection shows."""

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
    """The tests that a collection without errors saw.

    ``claims`` are the names of the baselines that the tests use, deselected tests included; ``whole`` the
    test files, as node ids name them, that were collected completely. ``covers(path)`` says whether a test
    file at that path would have been collected, ``complete`` whether the whole suite was.
    """

    claims: Collection[str]
    whole: Collection[str]
    covers: Callable[[Path], bool]
    complete: bool


def find_unused(folder: Path, root: Path, collected: Collected) -> tuple[str, ...] | None:
    """List the unused baselines, as paths below ``root``; None for a folder outside it.

    A folder outside the rootdir may serve other suites, whose tests were not collected.
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
    """Return whether the test of an unclaimed baseline is gone, and not only left out of the collection."""
    if case is None:
        return False
    if name.partition("@")[0] != derived_name(case) and not collected.complete:
        # A name from a marker is independent of the test's file, so any test of the suite may claim it.
        return False
    file = case.partition("::")[0]
    return file in collected.whole or (not (root / file).exists() and collected.covers(root / file))


def _case_of(path: Path) -> str | None:
    """Return the id of the test that a baseline belongs to; None for a file that is not a readable baseline.

    Cheaper than ``Baseline.read``, which a run without gates should not pay for.
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
    """Remove a baseline, and the folders below ``folder`` that become empty."""
    path.unlink()
    for parent in path.parents:
        if parent == folder or not parent.is_relative_to(folder) or any(parent.iterdir()):
            return
        parent.rmdir()
