"""The content-addressed store: what was costly to make, kept under a digest of everything that made it.

A directory entry is built beside its place, gets its manifest last, and is renamed into place, so an
interrupted build never looks whole; a lock per entry lets two runs at once make it once. Over a limit of
bytes the directory entries that were used least recently go, but none that a living process uses.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .digest import file_digest, fingerprint
from .files import write_atomically
from .locks import hold, try_hold

MANIFEST = "tenpak-manifest.json"
#: Logs of failed workers stay this long.
LOG_SECONDS = 7 * 24 * 3600
#: A job has its description by then, if its parent lives.
_STARTING_SECONDS = 60
# Only names that this module gives are ever removed: the folder may be a user's own, and hold other things.
_ENTRY = re.compile(r"[0-9a-f]{32}")
_HALF_BUILT = re.compile(r"\.([0-9a-f]{32})\.[0-9a-f]{8}")
_DOCUMENT = re.compile(r"[0-9a-f]{32}\.json")
_JOB = re.compile(r"[a-z]+-[0-9a-f]{12}")


@dataclass(frozen=True)
class Stored:
    """A directory of the store, and the facts its maker left in the manifest."""

    path: Path
    facts: Mapping[str, Any]
    fresh: bool


class Store:
    """A cache folder with kinds of entries (``models``, ``checkpoints``, ``traces``, …)."""

    def __init__(self, root: Path, limit_bytes: int = 0) -> None:
        """``limit_bytes`` bounds the directory entries together; 0 is no limit."""
        self.root = root
        self.limit_bytes = limit_bytes
        self._used: dict[Path, IO[bytes]] = {}

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """A lock between processes; the system frees it when its holder dies."""
        with hold(self._lock_file(f"{name}.lock")):
            yield

    def _lock_file(self, name: str) -> Path:
        return self.root / "locks" / name

    def directory(
        self, kind: str, identity: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]
    ) -> Stored:
        """The whole directory for ``identity``, made by ``make(folder)`` if it is not there yet.

        ``make`` fills the folder and returns facts (plain values) for the manifest. An entry that is
        no longer whole (a file gone or cut short) is made again. The entry stays, whatever the limit,
        until this process ends or forgets the store.
        """
        key = fingerprint(identity)[:32]
        path = self.root / kind / key
        with self.lock(f"{kind}-{key}"):
            self._use(path)
            facts = _whole(path)
            if facts is not None:
                with suppress(OSError):  # a cache that cannot be written is as good to read
                    os.utime(path / MANIFEST)
                return Stored(path, facts, fresh=False)
            facts = self._build(path, identity, make)
        self.tidy()
        return Stored(path, facts, fresh=True)

    def growing(self, kind: str, identity: Mapping[str, Any]) -> Path:
        """The folder for ``identity``, to which its users add files; empty at first.

        Whoever adds files holds a lock of their own, and writes each file atomically. The folder counts
        as used now and stays, whatever the limit, until this process ends or forgets the store.
        """
        key = fingerprint(identity)[:32]
        path = self.root / kind / key
        with self.lock(f"{kind}-{key}"):
            self._use(path)
            path.mkdir(parents=True, exist_ok=True)
            if not (path / MANIFEST).is_file():
                _write_manifest(path, identity, {})
            with suppress(OSError):
                os.utime(path / MANIFEST)
        return path

    def tidy(self) -> None:
        """Bring the store back within its limit, after a folder has grown."""
        with suppress(OSError):  # whoever owns what cannot be removed, it must not fail a gate
            self._tidy()

    def _use(self, path: Path) -> None:
        """Keep others from evicting an entry for as long as this process lives."""
        if path not in self._used:
            self._used[path] = hold(self._use_file(path), shared=True)

    def _use_file(self, path: Path) -> Path:
        return self._lock_file(f"{path.parent.name}-{path.name}.use")

    def _build(
        self, path: Path, identity: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Make an entry beside its place and rename it; its lock is held."""
        shutil.rmtree(path, ignore_errors=True)
        for left_behind in path.parent.glob(f".{path.name}.*"):
            shutil.rmtree(left_behind, ignore_errors=True)
        building = _beside(path)
        building.mkdir(parents=True)
        try:
            facts = dict(make(building))
            _write_manifest(building, identity, facts)
            building.rename(path)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return facts

    def document(
        self, kind: str, identity: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """The JSON document for ``identity``, made by ``make()`` if it is not there or unreadable."""
        key = fingerprint(identity)[:32]
        path = self.root / kind / f"{key}.json"
        with self.lock(f"{kind}-{key}"):
            try:
                kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                return kept
            except (OSError, ValueError):
                made = make()
                with suppress(OSError):  # without room to keep it, it is made again next time
                    write_atomically(path, json.dumps(made))
                return made

    def file_digest(self, path: Path) -> str:
        """SHA-256 of a file, remembered by its path, size and modification time.

        The hub's cache names its blobs by their SHA-256 already; those are not read again.
        """
        real = path.resolve()
        if real.parent.name == "blobs" and len(real.name) == 64:
            return real.name
        stat = real.stat()
        seen = {"path": str(real), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        return str(self.document("digests", seen, lambda: {"sha256": file_digest(real)})["sha256"])

    def sizes(self) -> dict[str, int]:
        """Bytes on disk by kind, logs of failed workers (``jobs``) included."""
        return {folder.name: _size(folder) for folder in sorted(self._folders())}

    def entries(self, kind: str) -> list[Path]:
        """What a kind holds that the store made: directories, documents, logs of jobs."""
        names = (_ENTRY, _HALF_BUILT, _DOCUMENT, _JOB)
        folder = self.root / kind
        paths = sorted(folder.iterdir()) if folder.is_dir() and kind != "locks" else []
        return [path for path in paths if any(name.fullmatch(path.name) for name in names)]

    def clear(self, kind: str) -> tuple[int, int]:
        """Remove a kind's entries, but none that a living process uses: the bytes freed, the entries kept."""
        freed = kept = 0
        with self.lock("tidy"):
            for path in self.entries(kind):
                size = _size(path) if path.is_dir() else path.stat().st_size
                if self._clear(path):
                    freed += size
                else:
                    kept += 1
        return freed, kept

    def _clear(self, path: Path) -> bool:
        """Remove one of :meth:`entries`, unless somebody uses it."""
        kind = path.parent.name
        if match := _HALF_BUILT.fullmatch(path.name):
            self._sweep(path, f"{kind}-{match[1]}")
        elif _ENTRY.fullmatch(path.name):
            return self._remove(path)
        elif _DOCUMENT.fullmatch(path.name):
            self._remove_document(path, f"{kind}-{path.stem}")
        elif not _is_running(path):
            shutil.rmtree(path, ignore_errors=True)
        return not path.exists()

    def _remove_document(self, path: Path, name: str) -> None:
        lock_file = self._lock_file(f"{name}.lock")
        lock = try_hold(lock_file)
        if lock is not None:
            with lock:
                path.unlink(missing_ok=True)
                lock_file.unlink()

    def _folders(self) -> Iterator[Path]:
        if self.root.is_dir():
            yield from (p for p in self.root.iterdir() if p.is_dir() and p.name != "locks")

    def _tidy(self) -> None:
        """Remove what killed runs left half-built, old logs, and entries over the limit; one at a time."""
        with self.lock("tidy"):
            for folder in self._folders():
                for path in folder.iterdir():
                    if match := _HALF_BUILT.fullmatch(path.name):
                        self._sweep(path, f"{folder.name}-{match[1]}")
            for path in (self.root / "jobs").glob("*"):
                if _JOB.fullmatch(path.name) and time.time() - _last_change(path) > LOG_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)
            if self.limit_bytes:
                self._evict()

    def _sweep(self, half_built: Path, name: str) -> None:
        """Remove a half-built folder unless its builder lives, and with it holds the entry's lock."""
        lock = try_hold(self._lock_file(f"{name}.lock"))
        if lock is not None:
            with lock:
                shutil.rmtree(half_built, ignore_errors=True)

    def _evict(self) -> None:
        """Remove the entries used longest ago until the rest is within the limit."""
        entries = [path for folder in self._folders() for path in folder.iterdir() if _is_entry(path)]
        sizes = {path: _size(path) for path in entries}
        total = sum(sizes.values())
        for path in sorted(entries, key=_last_use):
            if total <= self.limit_bytes:
                return
            if self._remove(path):
                total -= sizes[path]

    def _remove(self, path: Path) -> bool:
        """Remove an entry, its locks with it, unless somebody uses it or is about to."""
        name = self._lock_file(f"{path.parent.name}-{path.name}.lock")
        lock = try_hold(name)
        if lock is None:
            return False
        with lock:
            use = try_hold(self._use_file(path))
            if use is None:
                return False
            with use:
                doomed = path.rename(_beside(path))  # what is half deleted must not look whole
                # Safe while both are held: whoever waits for a removed lock file asks for the new one.
                self._use_file(path).unlink()
                name.unlink()
        shutil.rmtree(doomed, ignore_errors=True)
        return True


def _beside(path: Path) -> Path:
    """A name for what is not, or no longer, the entry ``path``."""
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"


def _is_entry(path: Path) -> bool:
    return _ENTRY.fullmatch(path.name) is not None and (path / MANIFEST).is_file()


def _is_running(job: Path) -> bool:
    """Whether the process that started a job lives: it may yet read what the worker writes."""
    import psutil  # here, since a run without gates should not pay for it

    try:
        return bool(psutil.pid_exists(json.loads((job / "job.json").read_text(encoding="utf-8"))["parent"]))
    except (OSError, ValueError, KeyError):
        return time.time() - job.stat().st_mtime < _STARTING_SECONDS


def _last_use(path: Path) -> int:
    """When an entry was used, by its manifest's time; what vanished meanwhile was used longest ago."""
    try:
        return (path / MANIFEST).stat().st_mtime_ns
    except OSError:
        return 0


def _files_below(folder: Path) -> Iterator[os.stat_result]:
    """Status of every file below a folder that others may be changing."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                yield Path(parent, name).lstat()


def _size(folder: Path) -> int:
    return sum(status.st_size for status in _files_below(folder))


def _last_change(folder: Path) -> float:
    return max((status.st_mtime for status in _files_below(folder)), default=time.time())


def _write_manifest(folder: Path, identity: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    files = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {"identity": identity, "facts": facts, "files": files}
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=2, sort_keys=True))


def _whole(path: Path) -> Mapping[str, Any] | None:
    """The manifest's facts if every file it lists is there at its full size, else None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        sizes = {name: (path / name).stat().st_size for name in manifest["files"]}
    except (OSError, ValueError, KeyError):
        return None
    facts: Mapping[str, Any] = manifest["facts"]
    return facts if sizes == manifest["files"] else None
