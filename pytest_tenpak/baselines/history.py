"""Accepted figures over time, from git: for trends in reports, and for ``tenpak history``."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import BaselineError, GitError
from .diff import reason_of
from .entry import Baseline, Entry, Figures, baseline_files
from .git import Repository, Version

#: How many versions of one baseline are read, newest first: reading a thousand would take seconds.
VERSIONS = 32


@dataclass(frozen=True)
class Past:
    """The figures that a commit accepted for one baseline on one device class; ``date`` is ISO 8601."""

    commit: str
    date: str
    device_class: str
    figures: Figures


@dataclass(frozen=True)
class Accepted:
    """Accepted figures and the reason; ``past.commit`` is empty while they are not committed."""

    past: Past
    reason: str


@dataclass(frozen=True)
class History:
    """Accepted figures by baseline, oldest first; ``unreadable`` counts versions that could not be read."""

    accepted: dict[str, list[Accepted]] = field(default_factory=dict)
    unreadable: int = 0


def trends(folder: Path, names: Collection[str] | None = None) -> dict[str, list[Past]]:
    """Return what commits accepted for baselines below ``folder`` (all, or those named), oldest first.

    Empty outside git.
    """
    try:
        known = read_history(folder, names)
    except GitError:
        return {}
    return {name: [row.past for row in rows] for name, rows in known.accepted.items()}


def read_history(folder: Path, names: Collection[str] | None = None, working_tree: bool = False) -> History:
    """Read every committed change of figures, and with ``working_tree`` the uncommitted ones.

    A renamed file includes its history under the old name. Raises GitError outside git.
    """
    repository = Repository(folder)
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
    """Group the readable versions by the current name of the file, newest first."""
    names: dict[str, str] = {}
    found: dict[str, list[Version]] = {}
    for version in versions:
        today = names.get(version.path, version.path)
        rows = found.setdefault(today, [])
        if version.blob and version.path.endswith(".json") and len(rows) < VERSIONS:
            rows.append(version)
        if version.old != version.path:
            names[version.old] = today  # in the commits before this one
    return {path.removesuffix(".json"): rows for path, rows in found.items() if rows}


def _changes(known: dict[str, Entry], baseline: Baseline, commit: str, date: str) -> Iterator[Accepted]:
    """Yield what a version accepted that the one before had not, and update ``known``."""
    for device_class, entry in sorted(baseline.entries.items()):
        old = known.get(device_class)
        known[device_class] = entry
        if old is None or (old.figures, old.nll) != (entry.figures, entry.nll):
            yield Accepted(Past(commit, date, device_class, entry.figures), reason_of(entry, old))
