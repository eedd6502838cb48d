"""Names in the cache folder: entries, documents and jobs, and the files of their locks."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

MANIFEST = "tenpak-manifest.json"
# Only names that the store gives are ever removed: the folder may be a user's own, and hold other things.
ENTRY = re.compile(r"[0-9a-f]{32}")
HALF_BUILT = re.compile(r"\.([0-9a-f]{32})\.[0-9a-f]{8}")
DOCUMENT = re.compile(r"[0-9a-f]{32}\.json")
JOB = re.compile(r"[a-z]+-[0-9a-f]{12}")


def lock_file(root: Path, name: str) -> Path:
    """The file of a named lock; whoever builds or removes an entry holds the one of its kind and key."""
    return root / "locks" / f"{name}.lock"


def use_file(root: Path, entry: Path) -> Path:
    """The file that every process which uses an entry holds a shared lock on."""
    return root / "locks" / f"{entry.parent.name}-{entry.name}.use"


def kinds(root: Path) -> Iterator[Path]:
    """The folder of each kind of entry."""
    if root.is_dir():
        yield from (path for path in root.iterdir() if path.is_dir() and path.name != "locks")


def temporary_name(entry: Path) -> Path:
    """A name beside an entry for what is not, or no longer, that entry."""
    return entry.parent / f".{entry.name}.{uuid.uuid4().hex[:8]}"
