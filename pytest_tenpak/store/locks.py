"""Locks between processes, on files that may be removed while somebody waits for them.

The system frees a lock when its holder closes the file or dies, however it dies. By hand, since lock
libraries have no shared locks, or let a lock file be removed under a waiter, who then guards nothing.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO


def hold(path: Path, *, shared: bool = False) -> IO[bytes]:
    """Wait for the lock on ``path``; it is held until the file that comes back is closed."""
    while True:
        stream = _open(path)
        try:
            fcntl.flock(stream, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            if _names(path, stream):
                return stream
        except BaseException:
            stream.close()
            raise
        stream.close()


def try_hold(path: Path) -> IO[bytes] | None:
    """The lock on ``path`` for this holder alone, or None when anybody else holds it."""
    stream = _open(path)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return None
    if _names(path, stream):
        return stream
    stream.close()
    return None


def _open(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+b")


def _names(path: Path, stream: IO[bytes]) -> bool:
    """Whether ``path`` still is the locked file: one that was removed meanwhile guards nothing."""
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False
