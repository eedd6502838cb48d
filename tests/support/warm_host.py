"""A process that has imported what others start with, and of which they are forked in place of started.

A run in a test starts a pytest, under xdist two workers of it, and a template for jobs: imports of half a second
each, of four for the template, in many hundred runs. :mod:`warm_start` asks a host for such a process by a
socket. It has the environment, the folder, the files and the code that it would have had, a process of its own,
and ends as it would have; only its imports are made already. A host ends with the tests: when its stdin is closed.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import warm_start

#: What may differ between a host and what it becomes: nothing that it has imported has read these.
_FREE = {
    *("HOME", "USERPROFILE", "PWD", "OLDPWD", "PYTHONPATH"),
    *("COLUMNS", "LINES", "PY_COLORS", "CI", "BUILD_NUMBER"),
}
_FREE_PREFIXES = ("PYTEST_", "TENPAK_", "GITHUB_", "GIT_", "TORCHINDUCTOR_")


def _import_for_jobs() -> None:
    from pytest_tenpak.execution import main  # noqa: F401
    from pytest_tenpak.quantizers.loading import import_transformers

    import_transformers()


def _import_for_pytest() -> None:
    """Collect a gate, which imports what a run starts with, in pytest's own way: asserts are rewritten."""
    import pytest

    path = [*sys.path]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "test_warm_host.py")
        file.write_text("import pytest\n@pytest.mark.quantize(method='fp16')\ndef test_it(): pass\n")
        Path(folder, "pytest.ini").write_text(f"[pytest]\ntenpak_cache_dir = {folder}\n")
        os.chdir(folder)
        code = pytest.main(["-qq", "--collect-only", *sys.argv[3:]])
        os.chdir("/")
    assert code == 0
    # Not before: what is imported already cannot be rewritten, of which pytest warns.
    import xdist.dsession
    import xdist.remote
    import xdist.workermanage  # noqa: F401

    # What that run knew of marks, which a run of others must not.
    vars(pytest.mark).update(_config=None, _markers=set())
    sys.path[:] = path
    sys.modules.pop("test_warm_host", None)


class _Host:
    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        #: By process: where its end is to be told.
        self._asked: dict[int, socket.socket] = {}
        ours = {*_entries(os.environ), str(Path(__file__).parent)}
        self._own_path = [entry for entry in sys.path if entry not in ours]
        self._constant = _constant(os.environ)

    def serve(self) -> Callable[[], None] | None:
        """Answer requests until stdin is closed; in a process that was asked for, return what it is to do."""
        woken, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            for source in (0, woken, self._listener.fileno()):
                selector.register(source, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if 0 in ready:
                    return None
                if woken in ready:
                    os.read(woken, 4096)
                    self._tell_ends()
                if self._listener.fileno() in ready:
                    with contextlib.suppress(OSError, ValueError):
                        work = self._accept()
                        if work is not None:
                            os.close(woken)
                            os.close(writing)
                            return work

    def _accept(self) -> Callable[[], None] | None:
        connection, _ = self._listener.accept()
        data, files, _, _ = socket.recv_fds(connection, 1 << 16, 3)
        while not data.endswith(b"\n"):
            data += connection.recv(1 << 16)
        request = json.loads(data)
        if _constant(request["environment"]) != self._constant:
            connection.sendall(b"0\n")
            connection.close()
        elif pid := os.fork():
            self._asked[pid] = connection
        else:
            return self._become(request, files, connection)
        for file in files:
            os.close(file)
        return None

    def _become(
        self, request: Mapping[str, Any], files: list[int], connection: socket.socket
    ) -> Callable[[], None]:
        """Take on what was asked for, tell that it is there, and return what it does."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if request["session"]:
            os.setsid()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        connection.sendall(b"%d\n" % os.getpid())
        for open_one in (connection, self._listener, *self._asked.values()):
            open_one.close()
        if request["arguments"][1] == warm_start.WATCHES:
            os.getppid = lambda: _while_it_lives(request["asker"])
        return lambda: _run(request["arguments"], self._own_path)

    def _tell_ends(self) -> None:
        for pid in list(self._asked):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with contextlib.suppress(OSError), self._asked.pop(pid) as connection:
                    connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _while_it_lives(asker: int) -> int:
    """Return the process that asked, whose child this would be, or what a parent is once it has ended."""
    try:
        state = Path(f"/proc/{asker}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return 1
    return 1 if state == "Z" else asker


def _run(arguments: list[str], own_path: list[str]) -> None:
    """Do what ``python ARGUMENTS`` does."""
    kind, what, *rest = arguments
    first = [] if os.environ.get("PYTHONSAFEPATH") else [str(Path.cwd()) if kind == "-m" else ""]
    sys.path[:] = [*first, *_entries(os.environ), *own_path]
    if "xdist.plugin" in sys.modules:  # which keeps a copy for its workers when it is imported
        sys.modules["xdist.plugin"]._sys_path[:] = sys.path
    sys.argv[:] = [kind, *rest]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(what, main.__dict__)


def _constant(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name not in _FREE and not name.startswith(_FREE_PREFIXES)
    }


def _entries(environment: Mapping[str, str]) -> list[str]:
    return [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]


def main() -> None:
    """Import, then serve on the socket whose number is given."""
    host = _Host(socket.socket(fileno=int(sys.argv[1])))
    warm_start.install()
    {warm_start.JOBS: _import_for_jobs, warm_start.PYTEST: _import_for_pytest}[sys.argv[2]]()
    gc.collect()
    gc.freeze()
    work = host.serve()
    if work is not None:
        work()


if __name__ == "__main__":
    main()
