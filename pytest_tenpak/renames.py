"""Tests that were renamed: whose baseline a new one could have, and moving it there with all it holds."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .baseline import Baseline, baseline_files
from .checks import Status
from .drift import identity_changes
from .errors import BaselineError
from .marker import derived_name
from .outcome import Outcome
from .stale import remove


def propose(outcome: Outcome, baselines: Path, root: Path, stale: Sequence[str]) -> Outcome:
    """The outcome of a case without a baseline, told to move a stale one that answers the same question.

    It passes or fails as before, but no baseline is created: history and anchor of the old one would be lost.
    ``stale`` are paths below ``root``.
    """
    case = outcome.case
    if outcome.status is not Status.NEW or (baselines / f"{case.name}.json").exists():
        return outcome
    same = [path for path in stale if _answers(root / path, outcome)]
    if not same:
        return outcome
    old = max(same, key=lambda path: difflib.SequenceMatcher(None, path, outcome.baseline).ratio())
    new = case.nodeid if derived_name(case.nodeid) == case.name else case.name
    told = (
        f"that of a test that is gone answers the same question: {shlex.join(['tenpak', 'move', old, new])}"
    )
    if outcome.passes:
        note = f"no baseline, but {told}; or --tenpak-update=new to start afresh"
    else:
        note = f"{outcome.update.note}; {told}"
    return replace(outcome, update=replace(outcome.update, write=False, note=note))


def _answers(path: Path, outcome: Outcome) -> bool:
    """Whether a baseline has figures for the question that was measured first, on the same device class."""
    try:
        baseline = Baseline.read(path)
    except BaselineError:
        return False
    entry = baseline.entries.get(outcome.device_class) if baseline else None
    measured = outcome.measurement
    return (
        entry is not None and measured is not None and not identity_changes(entry.identity, measured.identity)
    )


def move(folder: Path, old: str, new: str, case: str | None) -> list[tuple[Path, Path]]:
    """Move the baseline ``old``, and what it has for further texts, to ``new``; gives the paths.

    ``case`` is the id of the test that answers to it now, or None to keep the old one's. Every new file is
    whole before an old one goes: whoever is killed between leaves both, never neither.
    """
    files = baseline_files(folder)
    if old not in files:
        close = difflib.get_close_matches(old, files, n=3, cutoff=0.3)
        raise BaselineError(
            f"there is no baseline {old!r} in {folder}",
            given=old,
            accepted=", ".join(close or files) or None,
            remedy="name one that is there; tenpak show lists them",
        )
    if old == new:
        raise BaselineError("a baseline cannot be moved to itself", given=old, remedy="name another as NEW")
    further = [name for name in files if name.startswith(f"{old}@")]
    moves = [(files[name], folder / f"{new}{name.removeprefix(old)}.json") for name in (*further, old)]
    for source, target in moves:
        _require_free(source, target)
    for source, target in moves:
        baseline = Baseline.read(source)
        if baseline is not None:
            replace(baseline, case=case or baseline.case).write(target)
    # The one that was named goes last: as long as anything is left, the same command finds it.
    for source, _ in moves:
        remove(source, folder)
    return moves


def _require_free(source: Path, target: Path) -> None:
    if not target.exists():
        return
    old, new = Baseline.read(source), Baseline.read(target)
    if old and new and old.entries == new.entries:
        remedy = f"a move that was interrupted left both, and they are equal: remove {source}"
    else:
        remedy = "remove one of the two, or name another as NEW"
    raise BaselineError(f"there is a baseline {target} already", given=str(target), remedy=remedy)
