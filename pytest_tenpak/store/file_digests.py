"""Digests of files, remembered for as long as the file system shows that a file has not changed.

Size and modification time do not show it: requantized files have equal sizes, and archives, images and stores
set all times to one moment. The change time (ctime) cannot be set by a program, and with device, inode, size
and modification time it tells a file from every other, where the file system keeps all of these.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from .digest import file_digest

#: File systems of a machine's own disks and memory. Network and user-space file systems may hand out inodes
#: and times of their own making, or from a cache.
_KEEP_CHANGE_TIMES = frozenset(
    ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "tmpfs", "overlay", "apfs")
)
#: Times have the resolution of the kernel's clock tick, at most 10 ms; on old file systems, of a second.
_TICK_NS, _SECOND_NS = 50_000_000, 1_000_000_000


#: Returns a document of a lasting cache, made by the function if it is not there yet.
Recall = Callable[[Mapping[str, int], Callable[[], Mapping[str, str]]], Mapping[str, str]]


class FileDigests:
    """Digests of files that this process has hashed or recalled."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, ...], str] = {}

    def of(self, path: Path, recall: Recall) -> str:
        """Return the SHA-256 (64 hex digits) of a file's bytes, hashed now where ``recall`` has it not."""
        real = path.resolve()
        state = _state(real)
        key = tuple(state.values())
        if key not in self._seen:

            def make() -> dict[str, str]:
                return {"sha256": file_digest(real)}

            lasting = _keeps_change_times(real) and _is_settled(state)
            found = recall(state, make) if lasting else make()
            self._seen[key] = found["sha256"]
        return self._seen[key]


def _state(real: Path) -> dict[str, int]:
    found = real.stat()
    return {
        "device": found.st_dev,
        "inode": found.st_ino,
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
    }


def _is_settled(state: Mapping[str, int]) -> bool:
    """Return whether a later change would show: not where it may fall into the same tick of the clock."""
    whole_seconds = state["ctime_ns"] % _SECOND_NS == 0
    return time.time_ns() - state["ctime_ns"] > (2 * _SECOND_NS if whole_seconds else _TICK_NS)


def _keeps_change_times(real: Path) -> bool:
    return os.name == "posix" and _file_system(real.parent) in _KEEP_CHANGE_TIMES


@cache
def _file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on; empty where that cannot be found out."""
    import psutil  # here, since other interpreters, which run jobs, may not have it

    try:
        mounted = psutil.disk_partitions(all=True)
    except (OSError, psutil.Error):
        return ""
    # Of several on one mount point, the last one covers the others.
    around = [part for part in mounted if folder.is_relative_to(part.mountpoint)]
    return max(reversed(around), key=lambda part: len(part.mountpoint)).fstype if around else ""
