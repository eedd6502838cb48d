"""Removing from the cache: leftovers of killed runs, the least recently used entries, what a user clears.

An entry that a live process uses is never removed: each user holds a shared lock on it, and removing takes
that lock exclusively.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .layout import (
    DOCUMENT,
    ENTRY,
    HALF_BUILT,
    JOB,
    MANIFEST,
    OWNED,
    kinds,
    lock_file,
    temporary_name,
    use_file,
)
from .locks import hold, try_hold

#: Logs of failed workers are removed after this time.
LOG_SECONDS = 7 * 24 * 3600
#: Folders of jobs that a user is never told to look into: processes that stay, orders to other machines, and
#: what came to this one.
_NO_LOGS = ("stays", "order", "carried")
#: A job has its description within this time, if its parent is alive.
_STARTING_SECONDS = 60


def sizes(root: Path) -> dict[str, int]:
    """Return the bytes on disk by kind, logs of failed workers (``jobs``) included."""
    return {folder.name: _size(folder) for folder in sorted(kinds(root))}


def entries(root: Path, kind: str) -> list[Path]:
    """List the paths of a kind that the store made: directories, documents, logs of jobs."""
    names = (ENTRY, HALF_BUILT, DOCUMENT, JOB)
    folder = root / kind
    paths = sorted(folder.iterdir()) if folder.is_dir() and kind != "locks" else []
    return [path for path in paths if any(name.fullmatch(path.name) for name in names)]


def clear(root: Path, kind: str) -> tuple[int, int]:
    """Remove a kind's entries, except those in use; return the bytes freed and the number of entries left."""
    freed = left = 0
    with hold(lock_file(root, "tidy")):
        for path in entries(root, kind):
            with suppress(FileNotFoundError):  # a job that ends well removes its folder itself
                size = _size(path) if path.is_dir() else path.stat().st_size
                if _clear(root, path):
                    freed += size
                else:
                    left += 1
    return freed, left


def tidy(root: Path, limit_bytes: int) -> None:
    """Remove half-built entries of killed runs, old logs, and entries over the limit (0: no limit).

    One process does so at a time. Files that another user owns cannot be removed and are left.
    """
    with suppress(OSError), hold(lock_file(root, "tidy")):
        for folder in kinds(root):
            for path in folder.iterdir():
                if match := HALF_BUILT.fullmatch(path.name):
                    _sweep(root, path, f"{folder.name}-{match[1]}")
        for path in (root / "jobs").glob("*"):
            if JOB.fullmatch(path.name) and _is_abandoned(path):
                shutil.rmtree(path, ignore_errors=True)
        if limit_bytes:
            _evict(root, limit_bytes)


def _clear(root: Path, path: Path) -> bool:
    """Remove one of :func:`entries` unless it is in use; return whether it is gone."""
    kind = path.parent.name
    if match := HALF_BUILT.fullmatch(path.name):
        _sweep(root, path, f"{kind}-{match[1]}")
    elif ENTRY.fullmatch(path.name):
        return _remove(root, path)
    elif DOCUMENT.fullmatch(path.name):
        _remove_document(root, path, f"{kind}-{path.stem}")
    elif not _is_running(path):
        shutil.rmtree(path, ignore_errors=True)
    return not path.exists()


def _remove_document(root: Path, path: Path, name: str) -> None:
    file = lock_file(root, name)
    lock = try_hold(file)
    if lock is not None:
        with lock:
            path.unlink(missing_ok=True)
            file.unlink()


def _sweep(root: Path, half_built: Path, name: str) -> None:
    """Remove a half-built folder unless its builder is alive, and so holds the entry's lock."""
    lock = try_hold(lock_file(root, name))
    if lock is not None:
        with lock:
            shutil.rmtree(half_built, ignore_errors=True)


def _evict(root: Path, limit_bytes: int) -> None:
    """Remove the least recently used entries until the rest is within the limit."""
    whole = [path for folder in kinds(root) for path in folder.iterdir() if _is_entry(path)]
    size = {path: _size(path) for path in whole}
    total = sum(size.values())
    for path in sorted(whole, key=_last_use):
        if total <= limit_bytes:
            return
        if _remove(root, path):
            total -= size[path]


def _remove(root: Path, path: Path) -> bool:
    """Remove an entry and its locks, unless a process uses it or is about to."""
    file, in_use = lock_file(root, f"{path.parent.name}-{path.name}"), use_file(root, path)
    lock = try_hold(file)
    if lock is None:
        return False
    with lock:
        use = try_hold(in_use)
        if use is None:
            return False
        with use:
            doomed = path.rename(temporary_name(path))  # a half-deleted entry must not look whole
            # Safe while both are held: a process that waits for a removed lock file takes the new one.
            in_use.unlink()
            file.unlink()
    shutil.rmtree(doomed, ignore_errors=True)
    return True


def _is_entry(path: Path) -> bool:
    return ENTRY.fullmatch(path.name) is not None and (path / MANIFEST).is_file()


def _is_abandoned(job: Path) -> bool:
    """Return whether a folder is a log that is old, or was only of use to a process that is gone."""
    is_log = job.name.split("-")[0] not in _NO_LOGS
    return time.time() - _last_change(job) > LOG_SECONDS or not (is_log or _is_running(job))


def _is_running(job: Path) -> bool:
    """Return whether the process that started a job is alive, and may still read the worker's answer.

    That of another machine counts as alive: what it leaves behind is removed as old logs are.
    """
    import psutil  # here, since a run without gates should not pay for the import

    here = socket.gethostname()
    for name in OWNED:
        with suppress(OSError, ValueError, KeyError):
            found = json.loads((job / name).read_text(encoding="utf-8"))
            return found.get("host", here) != here or bool(psutil.pid_exists(found["parent"]))
    return time.time() - job.stat().st_mtime < _STARTING_SECONDS


def _last_use(path: Path) -> int:
    """Return when an entry was last used, by its manifest's time; 0 for one that has vanished."""
    try:
        return (path / MANIFEST).stat().st_mtime_ns
    except OSError:
        return 0


def _files_below(folder: Path) -> Iterator[os.stat_result]:
    """Yield the status of every file below a folder that other processes may be changing."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                yield Path(parent, name).lstat()


def _size(folder: Path) -> int:
    return sum(status.st_size for status in _files_below(folder))


def _last_change(folder: Path) -> float:
    """Return when a folder or a file below it was last changed; now, where it has vanished."""
    with suppress(OSError):
        return max((status.st_mtime for status in _files_below(folder)), default=folder.stat().st_mtime)
    return time.time()
