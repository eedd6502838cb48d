"""What was accepted over time, as git remembers it: for trends in reports, and for ``tenpak history``."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import BaselineError, GitError
from .diff import reason_of
from .entry import Baseline, Entry, Figures, baseline_files
from .git import Repository, Version

#: How many versions of one baseline are read, the newest ones: reading a thousand would take seconds.
VERSIONS = 32


@dataclass(frozen=True)
class Past:
    """What a commit accepted for one baseline on one device class; ``date`` is ISO 8601."""

    commit: str
    date: str
    device_class: str
    figures: Figures


@dataclass(frozen=True)
class Accepted:
    """Figures that were accepted for one device class, and why; no commit yet: they are not committed."""

    past: Past
    reason: str


@dataclass(frozen=True)
class History:
    """What was accepted, by baseline, oldest first; ``unreadable`` counts versions that could not be read."""

    accepted: dict[str, list[Accepted]] = field(default_factory=dict)
    unreadable: int = 0


def trends(root: Path, folder: Path, names: Collection[str] | None = None) -> dict[str, list[Past]]:
    """What commits accepted for baselines below ``folder`` (all, or those named), oldest first.

    Nothing outside git.
    """
    try:
        known = read_history(root, folder, names)
    except GitError:
        return {}
    return {name: [row.past for row in rows] for name, rows in known.accepted.items()}


def read_history(
    root: Path, folder: Path, names: Collection[str] | None = None, working_tree: bool = False
) -> History:
    """Every change of figures that git remembers, and the working tree's where that is asked for.

    A renamed file keeps its past. Raises GitError outside git.
    """
    repository = Repository(root, folder)
    versions = _by_name(repository.versions())
    versions = {name: rows for name, rows in versions.items() if names is None or name in names}
    contents = repository.read({version.blob for rows in versions.values() for version in rows})
    current = baseline_files(folder) if working_tree else {}
    accepted, unreadable = {}, 0
    for name in sorted({*versions, *current}):
        rows: list[Accepted] = []
        known: dict[str, Entry] = {}
        for version in reversed(versions.get(name, [])):
            try:
                text = contents.get(version.blob, b"").decode()
                baseline = Baseline.parse(text, folder / version.path)
            except (BaselineError, UnicodeDecodeError):
                unreadable += 1
                continue
            rows += _changes(known, baseline, version.commit, version.date)
        if name in current:
            baseline = Baseline.read(current[name]) or Baseline(name)
            rows += _changes(known, baseline, "", "")
        if rows:
            accepted[name] = rows
    return History(accepted, unreadable)


def _by_name(versions: Iterator[Version]) -> dict[str, list[Version]]:
    """The versions that can be read, by the name that the file has today, newest first."""
    names: dict[str, str] = {}
    found: dict[str, list[Version]] = {}
    for version in versions:
        today = names.get(version.path, version.path)
        rows = found.setdefault(today, [])
        if version.blob and version.path.endswith(".json") and len(rows) < VERSIONS:
            rows.append(version)
        if version.old != version.path:
            names[version.old] = today  # to the commits before this one
    return {path.removesuffix(".json"): rows for path, rows in found.items() if rows}


def _changes(known: dict[str, Entry], baseline: Baseline, commit: str, date: str) -> Iterator[Accepted]:
    """What a version accepted that the one before it had not; ``known`` is brought up to date."""
    for device_class, entry in sorted(baseline.entries.items()):
        old = known.get(device_class)
        known[device_class] = entry
        if old is None or (old.figures, old.nll) != (entry.figures, entry.nll):
            yield Accepted(Past(commit, date, device_class, entry.figures), reason_of(entry, old))
