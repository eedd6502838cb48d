"""Atomic file writes: a reader finds the old file or the new one, never half of one."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

#: A temporary file as mkstemp names it, and the age (seconds) from which its writer must have been killed.
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")
_ABANDONED_AFTER = 60.0


def write_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text as :func:`open_atomically` does."""
    with open_atomically(path) as stream:
        stream.write(text.encode())


@contextmanager
def open_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file in the folder of ``path``, which at the end is synced and renamed over it.

    A reader finds the old file or the new one, also where the writer was killed at any moment.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:64]}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sweep_temporaries(folder: Path) -> None:
    """Remove the temporary files that killed writers left in a folder."""
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):  # another run may sweep the same folder
            if _TEMPORARY.fullmatch(path.name) and time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
                path.unlink()


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
