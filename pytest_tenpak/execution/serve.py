"""The template's side of :mod:`.template`: import what every job needs once, then fork a process for each.

Requests come by stdin, a job's folder on each line; ``ready``, ``started PID`` and ``ended PID STATUS`` go
out by stdout. It ends with the pytest process that started it, whose end closes stdin, and takes what is left
of the jobs along.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import sys
import traceback
from pathlib import Path
from typing import TextIO

from ..quantizers.loading import import_transformers
from .main import enter, main


def serve() -> None:
    """Import, then answer requests until stdin is closed."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    import_transformers()
    gc.freeze()  # or each child's collections would copy the pages of all that was imported
    woken = _woken_by_children()
    print("ready", file=replies)
    _answer(replies, woken)


def _woken_by_children() -> int:
    """Return a descriptor that becomes readable whenever a child has ended."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.set_blocking(reading, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    return reading


def _answer(replies: TextIO, woken: int) -> None:
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    running: set[int] = set()
    pending = b""
    while True:
        for key, _ in selector.select():
            if key.fd == woken:
                os.read(woken, 4096)
                continue
            read = os.read(0, 65536)
            if not read:
                _kill(running)
                return
            *lines, pending = (pending + read).split(b"\n")
            for line in lines:
                running.add(_start(Path(os.fsdecode(line)), replies))
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                running.discard(pid)
                print("ended", pid, status, file=replies)


def _start(folder: Path, replies: TextIO) -> int:
    pid = os.fork()
    if not pid:
        _run(folder)
    # Here and in the child, so that the group exists whoever of both comes first.
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    print("started", pid, file=replies)
    return pid


def _run(folder: Path) -> None:
    """Do the job in ``folder`` and end this process; what is printed goes to the job's log."""
    code = 1
    try:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        enter(folder)
        main(folder, parent=os.getppid())
        code = 0
    except SystemExit as asked:
        code = asked.code if isinstance(asked.code, int) else int(asked.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _kill(running: set[int]) -> None:
    for pid in running:
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve()
