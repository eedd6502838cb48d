"""Names in the cache folder: entries, documents, jobs, and their locks."""

from __future__ import annotations

import os
import re
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MANIFEST = "tenpak-manifest.json"
# Only names that the store gives are ever removed: the folder may be a user's own, with other files in it.
ENTRY = re.compile(r"[0-9a-f]{32}")
HALF_BUILT = re.compile(r"\.([0-9a-f]{32})\.[0-9a-f]{8}")
DOCUMENT = re.compile(r"[0-9a-f]{32}\.json")
JOB = re.compile(r"[a-z]+(?:-[a-z]+)?-[0-9a-f]{12}")
#: The files of which a folder of a job has one: who waits for the job, as :func:`owner` says.
OWNED = ("job.json", "order.json", "owner.json")


def owner() -> dict[str, Any]:
    """Return what names this process on every machine that sees the cache's folder."""
    return {"parent": os.getpid(), "host": socket.gethostname()}


def lock_file(root: Path, name: str) -> Path:
    """Return the file of a named lock; building or removing an entry takes the lock of its kind and key."""
    return root / "locks" / f"{name}.lock"


def use_file(root: Path, entry: Path) -> Path:
    """Return the file on which every process that uses an entry holds a shared lock."""
    return root / "locks" / f"{entry.parent.name}-{entry.name}.use"


def kinds(root: Path) -> Iterator[Path]:
    """Yield the folder of each kind of entry."""
    if root.is_dir():
        yield from (path for path in root.iterdir() if path.is_dir() and path.name != "locks")


def temporary_name(entry: Path) -> Path:
    """Return a name next to an entry, for one that is being built or deleted."""
    return entry.parent / f".{entry.name}.{uuid.uuid4().hex[:8]}"
