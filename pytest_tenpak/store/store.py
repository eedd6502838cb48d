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
from functools import partial
from pathlib import Path
from typing import IO, Any

from .atomic import write_atomically
from .digest import fingerprint
from .eviction import tidy
from .file_digests import FileDigests
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

    def __init__(self, root: Path, limit_bytes: int = 0, rehash: bool = False) -> None:
        """``limit_bytes`` bounds the directory entries together; 0 is no limit.

        With ``rehash`` the files are read whose digests earlier processes remembered.
        """
        self.root = root
        self.limit_bytes = limit_bytes
        self._digests = FileDigests()
        self._rehash = rehash
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
        no longer as it was made (a file missing, cut short or changed) is made again. The entry is not
        evicted, whatever the limit, until this process ends or drops the store.
        """
        key = fingerprint(identity)[:32]
        path = self.root / kind / key
        with self.lock(f"{kind}-{key}"):
            self._use(path)
            facts = self._whole(path)
            if facts is not None:
                with suppress(OSError):  # a read-only cache can still be read
                    os.utime(path / MANIFEST)
                return Stored(path, facts, fresh=False)
            facts = self._build(path, identity, make)
        self.tidy()
        return Stored(path, facts, fresh=True)

    def has(self, kind: str, identity: Mapping[str, Any]) -> bool:
        """Return whether there is a directory for ``identity``, whole or not."""
        return (self.root / kind / fingerprint(identity)[:32] / MANIFEST).is_file()

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
                self._write_manifest(path, identity, {})
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
            self._write_manifest(building, identity, facts)
            building.rename(path)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return facts

    def document(
        self,
        kind: str,
        identity: Mapping[str, Any],
        make: Callable[[], Mapping[str, Any]],
        anew: bool = False,
    ) -> Mapping[str, Any]:
        """Return the JSON document for ``identity``, made by ``make()`` if it is missing or unreadable.

        With ``anew`` it is made in any case, and replaces the one that is there.
        """
        key = fingerprint(identity)[:32]
        path = self.root / kind / f"{key}.json"
        with self.lock(f"{kind}-{key}"):
            if not anew:
                with suppress(OSError, ValueError):
                    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                    return stored
            made = make()
            with suppress(OSError):  # where it cannot be written, it is made again next time
                write_atomically(path, json.dumps(made))
            return made

    def file_digest(self, path: Path) -> str:
        """Return the SHA-256 of a file; remembered as :class:`FileDigests` says."""
        return self._digests.of(path, partial(self.document, "digests", anew=self._rehash))

    def _write_manifest(self, folder: Path, identity: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        files = {
            str(path.relative_to(folder)): self.file_digest(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        manifest = {"identity": identity, "facts": facts, "files": files}
        write_atomically(folder / MANIFEST, json.dumps(manifest, indent=2, sort_keys=True))

    def _whole(self, path: Path) -> Mapping[str, Any] | None:
        """Return the manifest's facts if every file it lists is as it was written, else None."""
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            files = {name: self.file_digest(path / name) for name in manifest["files"]}
        except (OSError, ValueError, KeyError):
            return None
        facts: Mapping[str, Any] = manifest["facts"]
        return facts if files == manifest["files"] else None
