"""The content-addressed store: what was costly to make, kept under a digest of everything that made it.

A directory entry is built beside its place, gets its manifest last, and is renamed into place, so an
interrupted build never looks whole; a lock per entry lets two runs at once make it once.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from .digest import file_digest, fingerprint
from .files import write_atomically

MANIFEST = "tenpak-manifest.json"


@dataclass(frozen=True)
class Stored:
    """A directory of the store, and the facts its maker left in the manifest."""

    path: Path
    facts: Mapping[str, Any]
    fresh: bool


class Store:
    """A cache folder with kinds of entries (``models``, ``checkpoints``, ``measurements``, …)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def lock(self, name: str) -> AbstractContextManager[Any]:
        """A lock between processes; the system frees it when its holder dies."""
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{name}.lock")

    def directory(
        self, kind: str, identity: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]
    ) -> Stored:
        """The whole directory for ``identity``, made by ``make(folder)`` if it is not there yet.

        ``make`` fills the folder and returns facts (plain values) for the manifest. An entry that is
        no longer whole (a file gone or cut short) is made again.
        """
        key = fingerprint(identity)[:32]
        path = self.root / kind / key
        with self.lock(f"{kind}-{key}"):
            facts = _whole(path)
            if facts is not None:
                return Stored(path, facts, fresh=False)
            shutil.rmtree(path, ignore_errors=True)
            for left_behind in path.parent.glob(f".{key}.*"):
                shutil.rmtree(left_behind, ignore_errors=True)
            building = path.parent / f".{key}.{uuid.uuid4().hex[:8]}"
            building.mkdir(parents=True)
            try:
                facts = dict(make(building))
                _write_manifest(building, identity, facts)
                building.rename(path)
            finally:
                shutil.rmtree(building, ignore_errors=True)
        return Stored(path, facts, fresh=True)

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
