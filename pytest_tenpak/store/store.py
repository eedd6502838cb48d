"""The content-addressed store: what was costly to make, kept under a digest of everything that made it.

A directory entry is built beside its place, gets its manifest last, and is renamed into place, so an
interrupted build never looks whole; a lock per entry lets two runs at once make it once. Over a limit of
bytes the directory entries that were used least recently go, but none that a living process uses.

By hand, since cache libraries hold values, and not folders of gigabytes that several processes build, read
and evict at once.
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
        with hold(lock_file(self.root, name)):
            yield

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
        tidy(self.root, self.limit_bytes)

    def _use(self, path: Path) -> None:
        """Keep others from evicting an entry for as long as this process lives."""
        if path not in self._used:
            self._used[path] = hold(use_file(self.root, path), shared=True)

    def _build(
        self, path: Path, identity: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Make an entry beside its place and rename it; its lock is held."""
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
