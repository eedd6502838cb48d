"""The content-addressed store: costly files, cached under a digest of everything they were made from.

A directory entry is built next to its place, gets its manifest last, and is renamed into place, so an
interrupted build never looks whole; a lock per entry makes two concurrent runs build it once. Above a limit
of bytes the least recently used directory entries are evicted, except those that a live process uses.

Written by hand because cache libraries (diskcache, joblib.Memory) store Python values, where checkpoints are
directories that another process fills, and may evict an entry while a process reads it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .atomic import write_atomically
from .digest import file_digest, fingerprint
from .eviction import tidy
from .layout import MANIFEST, lock_file, temporary_name, use_file
from .locks import hold


@dataclass(frozen=True)
class Stored:
    """A directory of the store, with the facts from its manifest; ``fresh`` if it was built just now."""

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
        """Hold a named lock between processes; the system frees it when its holder dies."""
        with hold(lock_file(self.root, name)):
            yield

    def directory(
        self, kind: str, identity: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]
    ) -> Stored:
        """Return the whole directory for ``identity``, made by ``make(folder)`` if it does not exist yet.

        ``make`` fills the folder and returns facts (plain values) for the manifest. An entry that is
        no longer whole (a file missing or cut short) is made again. The entry is not evicted, whatever the
        limit, until this process ends or drops the store.
        """
        key = fingerprint(identity)[:32]
        path = self.root / kind / key
        with self.lock(f"{kind}-{key}"):
            self._use(path)
            facts = _whole(path)
            if facts is not None:
                with suppress(OSError):  # a read-only cache can still be read
                    os.utime(path / MANIFEST)
                return Stored(path, facts, fresh=False)
            facts = self._build(path, identity, make)
        self.tidy()
        return Stored(path, facts, fresh=True)

    def growing(self, kind: str, identity: Mapping[str, Any]) -> Path:
        """Return the folder for ``identity``, to which its users add files; empty at first.

        A process that adds files holds a lock of its own, and writes each file atomically. The folder counts
        as used now, and is not evicted, whatever the limit, until this process ends or drops the store.
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
        """Bring the store back within its limit after a folder has grown."""
        tidy(self.root, self.limit_bytes)

    def _use(self, path: Path) -> None:
        """Prevent other processes from evicting an entry as long as this process lives."""
        if path not in self._used:
            self._used[path] = hold(use_file(self.root, path), shared=True)

    def _build(
        self, path: Path, identity: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Build an entry next to its place and rename it; the caller holds its lock."""
        shutil.rmtree(path, ignore_errors=True)
        for left_behind in path.parent.glob(f".{path.name}.*"):
            shutil.rmtree(left_behind, ignore_errors=True)
        building = temporary_name(path)
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
        """Return the JSON document for ``identity``, made by ``make()`` if it is missing or unreadable."""
        key = fingerprint(identity)[:32]
        path = self.root / kind / f"{key}.json"
        with self.lock(f"{kind}-{key}"):
            try:
                stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                return stored
            except (OSError, ValueError):
                made = make()
                with suppress(OSError):  # where it cannot be written, it is made again next time
                    write_atomically(path, json.dumps(made))
                return made

    def file_digest(self, path: Path) -> str:
        """Return the SHA-256 of a file, cached by its path, size and modification time.

        The hub's cache names its blobs by their SHA-256; those are not read.
        """
        real = path.resolve()
        if real.parent.name == "blobs" and len(real.name) == 64:
            return real.name
        stat = real.stat()
        seen = {"path": str(real), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        return str(self.document("digests", seen, lambda: {"sha256": file_digest(real)})["sha256"])


def _write_manifest(folder: Path, identity: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    files = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {"identity": identity, "facts": facts, "files": files}
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=2, sort_keys=True))


def _whole(path: Path) -> Mapping[str, Any] | None:
    """Return the manifest's facts if every file it lists has its full size, else None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        sizes = {name: (path / name).stat().st_size for name in manifest["files"]}
    except (OSError, ValueError, KeyError):
        return None
    facts: Mapping[str, Any] = manifest["facts"]
    return facts if sizes == manifest["files"] else None
