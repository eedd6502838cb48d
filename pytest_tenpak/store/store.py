"""The content-addressed store: costly files, cached under a digest of everything they were made from.

A directory entry is built next to its place, gets its manifest last, and is renamed into place, so an
interrupted build never looks whole; a lock per entry makes two concurrent runs build it once. Above a limit
of bytes the least recently used directory entries are evicted, except those that a live process uses.
With a ``remote`` (:mod:`.remote`), what is missing here is fetched from there, under the same locks, and what
is missing there is pushed.

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
from .locks import hold, try_hold
from .remote import DOCUMENTS, Remote
from .remote_manifest import FileRecord, Manifest, describe


@dataclass(frozen=True)
class Stored:
    """A directory of the store, with the facts from its manifest; ``fresh`` if it was built just now."""

    path: Path
    facts: Mapping[str, Any]
    fresh: bool


class Store:
    """A cache folder with kinds of entries (``models``, ``checkpoints``, ``traces``, …)."""

    def __init__(
        self, root: Path, limit_bytes: int = 0, rehash: bool = False, remote: Remote | None = None
    ) -> None:
        """``limit_bytes`` bounds the directory entries together; 0 is no limit.

        With ``rehash`` the files are read whose digests earlier processes remembered.
        """
        self.root = root
        self.limit_bytes = limit_bytes
        self.remote = remote
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
            is_new = facts is None
            fetched = self._fetch(path, identity) if facts is None else None
            facts = fetched.facts if fetched else facts
            fresh = facts is None
            if facts is None:
                facts = self._build(path, identity, make)
        self.push(path)
        if is_new:
            self.tidy()
        return Stored(path, facts, fresh)

    def has(self, kind: str, identity: Mapping[str, Any]) -> bool:
        """Return whether there is a directory for ``identity``, here or in the remote, whole or not."""
        key = fingerprint(identity)[:32]
        if (self.root / kind / key / MANIFEST).is_file():
            return True
        return self.remote is not None and self.remote.has(kind, key)

    def growing(
        self, kind: str, identity: Mapping[str, Any], length: Callable[[Path], int] = lambda _folder: 0
    ) -> Path:
        """Return the folder for ``identity``, to which its users add files; empty at first.

        A process that adds files holds a lock of its own, and writes each file atomically. The folder counts
        as used now, and is not evicted, whatever the limit, until this process ends or drops the store.
        ``length(folder)`` says how far it has grown. A longer one of the remote takes its place, whole,
        unless a process uses it: files of two machines do not continue one another.
        """
        key = fingerprint(identity)[:32]
        path = self.root / kind / key
        with self.lock(f"{kind}-{key}"):
            self._fetch_longer(path, identity, length)
            self._use(path)
            path.mkdir(parents=True, exist_ok=True)
            if _manifest(path) is None:
                self._write_manifest(path, identity, {}, {})  # its files change, and are not in it
            with suppress(OSError):
                os.utime(path / MANIFEST)
        return path

    def tidy(self) -> None:
        """Bring the store back within its limit after a folder has grown."""
        tidy(self.root, self.limit_bytes)

    def push(self, path: Path, names: list[str] | None = None, count: int = 0) -> bool:
        """Push an entry to the remote, if there is one to write to; return whether it was not there yet.

        Of a growing one ``names`` are the files, which do not change any more, and ``count`` its length.
        """
        kind, key = path.parent.name, path.name
        if self.remote is None or not self.remote.wants(kind, key, count):
            return False
        if names is None and self._whole(path) is None:
            return False  # it was changed here, and is made anew where it is next asked for
        manifest = _manifest(path)
        if manifest is None:
            return False
        files = describe(path, list(manifest["files"]) if names is None else names, self.file_digest)
        return self.remote.push(
            kind, key, Manifest(manifest["identity"], manifest["facts"], files, count), path
        )

    def pull(self, kind: str, key: str, length: Callable[[Path], int] | None = None) -> bool:
        """Fetch an entry by its key, if it is not here or, with a ``length``, is longer in the remote.

        Return whether it was fetched.
        """
        path = self.root / kind / key
        with self.lock(f"{kind}-{key}"):
            if length is not None:
                return self._fetch_longer(path, None, length)
            if kind in DOCUMENTS:
                return not path.with_suffix(".json").is_file() and self._fetch_document(path) is not None
            return self._whole(path) is None and self._fetch(path, None) is not None

    def _fetch_longer(
        self, path: Path, identity: Mapping[str, Any] | None, length: Callable[[Path], int]
    ) -> bool:
        """Put the remote's entry in the place of a shorter one, unless a process uses that."""
        if self.remote is None or path in self._used:
            return False
        use = try_hold(use_file(self.root, path))
        if use is None:
            return False
        with use:
            return self._fetch(path, identity, length(path)) is not None

    def _fetch(
        self, path: Path, identity: Mapping[str, Any] | None, longer_than: int | None = None
    ) -> Manifest | None:
        """Fetch an entry next to its place and rename it; the caller holds its lock."""
        if self.remote is None:
            return None
        arriving = temporary_name(path)
        arriving.mkdir(parents=True)
        try:
            found = self.remote.fetch(path.parent.name, path.name, arriving, longer_than)
            if found is not None:
                # What a growing entry holds is not in its manifest, since it changes.
                files = {} if longer_than is not None else _digests(found.files)
                self._write_manifest(arriving, identity or found.identity, found.facts, files)
                if path.exists():
                    shutil.rmtree(path.rename(temporary_name(path)), ignore_errors=True)
                arriving.rename(path)
            return found
        finally:
            shutil.rmtree(arriving, ignore_errors=True)

    def _fetch_document(self, path: Path) -> Mapping[str, Any] | None:
        """Fetch a document, which its manifest carries, and write it; the caller holds its lock."""
        if self.remote is None:
            return None
        found = self.remote.fetch(path.parent.name, path.name, path.parent)
        if found is None:
            return None
        with suppress(OSError):
            write_atomically(path.with_suffix(".json"), json.dumps(found.facts))
        return found.facts

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
            found = None if anew else self._read_document(path)
            if found is None and not anew:
                found = self._fetch_document(path.with_suffix(""))
            if found is None:
                found = make()
                with suppress(OSError):  # where it cannot be written, it is made again next time
                    write_atomically(path, json.dumps(found))
        if self.remote is not None:
            self.remote.push(kind, key, Manifest(identity, found, {}), path.parent)
        return found

    @staticmethod
    def _read_document(path: Path) -> Mapping[str, Any] | None:
        with suppress(OSError, ValueError):
            stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return stored
        return None

    def file_digest(self, path: Path) -> str:
        """Return the SHA-256 of a file; remembered as :class:`FileDigests` says."""
        return self._digests.of(path, partial(self.document, "digests", anew=self._rehash))

    def _write_manifest(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        facts: Mapping[str, Any],
        files: Mapping[str, str] | None = None,
    ) -> None:
        if files is None:
            files = {
                str(path.relative_to(folder)): self.file_digest(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
        manifest = {"identity": identity, "facts": facts, "files": files}
        write_atomically(folder / MANIFEST, json.dumps(manifest, indent=2, sort_keys=True))

    def _whole(self, path: Path) -> Mapping[str, Any] | None:
        """Return the manifest's facts if every file it lists is as it was written, else None."""
        manifest = _manifest(path)
        if manifest is None:
            return None
        try:
            files = {name: self.file_digest(path / name) for name in manifest["files"]}
        except (OSError, ValueError):
            return None
        facts: Mapping[str, Any] = manifest["facts"]
        return facts if files == manifest["files"] else None


def _digests(files: Mapping[str, FileRecord]) -> dict[str, str]:
    return {name: record.sha256 for name, record in files.items()}


def _manifest(path: Path) -> dict[str, Any] | None:
    """Return the manifest of an entry; None where it is missing or was damaged."""
    try:
        found = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        fields = [found[name] for name in ("identity", "facts", "files")]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if all(isinstance(one, dict) for one in fields) else None
