"""Moving a baseline to the name of a renamed test, with all its entries."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

from ..errors import BaselineError
from .entry import Baseline, baseline_files
from .unused import remove


def move(folder: Path, old: str, new: str, case: str | None) -> list[tuple[Path, Path]]:
    """Move the baseline ``old``, and its siblings for further texts, to ``new``; return the paths.

    ``case`` is the id of the test that uses it now, or None to leave the old id. Every new file is whole
    before an old one is removed: an interrupted move leaves both, never neither.
    """
    files = baseline_files(folder)
    if old not in files:
        close = difflib.get_close_matches(old, files, n=3, cutoff=0.3)
        raise BaselineError(
            f"there is no baseline {old!r} in {folder}",
            given=old,
            accepted=", ".join(close or files) or None,
            remedy="name an existing one; tenpak show lists them",
        )
    if old == new:
        raise BaselineError(
            "a baseline cannot be moved to itself", given=old, remedy="give another name as NEW"
        )
    further = [name for name in files if name.startswith(f"{old}@")]
    moves = [(files[name], folder / f"{new}{name.removeprefix(old)}.json") for name in (*further, old)]
    for source, target in moves:
        _require_free(source, target)
    for source, target in moves:
        baseline = Baseline.read(source)
        if baseline is not None:
            replace(baseline, case=case or baseline.case).write(target)
    # The named baseline is removed last, so that after an interruption the same command finds it.
    for source, _ in moves:
        remove(source, folder)
    return moves


def _require_free(source: Path, target: Path) -> None:
    if not target.exists():
        return
    old, new = Baseline.read(source), Baseline.read(target)
    if old and new and old.entries == new.entries:
        remedy = f"an interrupted move left both, and they are equal: remove {source}"
    else:
        remedy = "remove one of the two, or give another name as NEW"
    raise BaselineError(f"the baseline {target} already exists", given=str(target), remedy=remedy)
