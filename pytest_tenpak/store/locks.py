"""Locks between processes, on files that may be removed while another process waits for them.

The system frees a lock when its holder closes the file or dies, however it dies.

Written by hand because no library combines shared locks with removal: filelock leaves its lock files in
place, and a process that waits with portalocker or fasteners for a file that is then removed gets a lock
that protects nothing.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO


def hold(path: Path, *, shared: bool = False) -> IO[bytes]:
    """Wait for the lock on ``path`` and return the locked file; closing it releases the lock."""
    while True:
        stream = _open(path)
        try:
            fcntl.flock(stream, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            if _is_current(path, stream):
                return stream
        except BaseException:
            stream.close()
            raise
        stream.close()


def try_hold(path: Path) -> IO[bytes] | None:
    """Take the exclusive lock on ``path``, or return None when another process holds it."""
    stream = _open(path)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return None
    if _is_current(path, stream):
        return stream
    stream.close()
    return None


def _open(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+b")


def _is_current(path: Path, stream: IO[bytes]) -> bool:
    """Return whether ``path`` still is the locked file: a lock on a removed file protects nothing."""
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False
