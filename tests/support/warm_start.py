"""Starting a Python process by a fork of one that has its imports: see :mod:`warm_host`.

Once :func:`install` was called, ``subprocess.Popen`` does so for the starts that tests make by the hundred: of a
pytest, of xdist's workers, and of the template that jobs are forked from. Where the environment is another one
than the tests' own, and for all other commands, it starts a process as ever.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

#: The variables that name the socket of a host: for templates, for jobs that are not forked from one (which the
#: same host may serve), and for pytest and xdist's workers.
JOBS, LONE_JOBS, PYTEST = "TENPAK_TEST_JOBS", "TENPAK_TEST_LONE_JOBS", "TENPAK_TEST_PYTEST"
#: What ends with the process that asked for it, by watching whose child it is.
WATCHES = "pytest_tenpak.execution.main"
#: The starts that are known, by the arguments of ``python``.
_KNOWN = {
    ("-m", "pytest_tenpak.execution.serve"): JOBS,
    ("-m", WATCHES): LONE_JOBS,
    ("-m", "pytest"): PYTEST,
    ("-c", "import sys;exec(eval(sys.stdin.readline()))"): PYTEST,
}
_OPTIONS = {"stdin", "stdout", "stderr", "env", "cwd", "close_fds", "start_new_session"}
_Python = subprocess.Popen


class Forked:
    """A forked process, as far as its callers need of ``Popen``."""

    def __init__(self, connection: socket.socket, pid: int, pipes: Mapping[str, Any]) -> None:
        self._connection = connection
        self.pid = pid
        self.returncode: int | None = None
        self.stdin, self.stdout, self.stderr = (pipes.get(name) for name in ("stdin", "stdout", "stderr"))

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code; raises TimeoutExpired."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self.returncode = _number(self._connection)
            except (BlockingIOError, TimeoutError):
                raise subprocess.TimeoutExpired("forked", timeout or 0) from None
            self._connection.close()
        return self.returncode

    def kill(self) -> None:
        """Kill it."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class Popen(_Python):  # type: ignore[type-arg]
    """Python's own, but for the starts that are known."""

    def __new__(cls, args: Any, *rest: Any, **named: Any) -> Any:
        """Start a process, or have one forked."""
        arguments = _arguments(args)
        kind = _KNOWN.get(tuple(arguments[:2]), "")
        host = (named.get("env") or os.environ).get(kind)
        if host and not rest and named.keys() <= _OPTIONS:
            forked = _fork(host, arguments, **named)
            if forked is not None:
                return forked
        return super().__new__(cls)


def install() -> None:
    """Make ``subprocess.Popen`` start what is known by a fork."""
    subprocess.Popen = Popen  # type: ignore[misc]


def cold(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which, and below which, everything is started as ever.

    For what is killed by its process group: a forked process belongs to the host's.
    """
    return {name: value for name, value in environment.items() if name not in (JOBS, LONE_JOBS, PYTEST)}


def _arguments(args: Any) -> list[str]:
    """Return the arguments of a Python like this one, none for another command."""
    if not isinstance(args, (list, tuple)) or not args or str(args[0]) != sys.executable:
        return []
    found = [str(arg) for arg in args[1 + (args[1:2] == ["-u"]) :]]
    if found and found[0].startswith("-m") and found[0] != "-m":
        found[:1] = ["-m", found[0][2:]]
    return found


def _fork(host: str, arguments: Sequence[str], **named: Any) -> Forked | None:
    """Ask the host for a process; None where it has none for such an environment, or has ended."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(f"\0{host}")
    except OSError:
        return None
    request = {
        "arguments": list(arguments),
        "environment": dict(named.get("env") or os.environ),
        "folder": str(named.get("cwd") or Path.cwd()),
        "session": bool(named.get("start_new_session")),
        "asker": os.getpid(),
    }
    pipes: dict[str, int] = {}
    with ExitStack() as stack:
        files = [_file(name, named.get(name), pipes, stack) for name in ("stdin", "stdout")]
        same = named.get("stderr") == subprocess.STDOUT
        files.append(files[1] if same else _file("stderr", named.get("stderr"), pipes, stack))
        socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], files)
    pid = _number(connection)
    if pid > 0:
        modes = {"stdin": "wb"}
        opened = {name: os.fdopen(pipe, modes.get(name, "rb")) for name, pipe in pipes.items()}
        return Forked(connection, pid, opened)
    for pipe in pipes.values():
        os.close(pipe)
    return None


def _file(name: str, given: Any, pipes: dict[str, int], stack: ExitStack) -> int:
    """Return the descriptor that a process gets as its ``name``, as ``Popen`` makes it."""
    if given is None:
        return ["stdin", "stdout", "stderr"].index(name)
    if given == subprocess.PIPE:
        ends = os.pipe()
        pipes[name] = ends[name == "stdin"]
        file = ends[name != "stdin"]
    elif given == subprocess.DEVNULL:
        file = os.open(os.devnull, os.O_RDWR)
    else:
        return given if isinstance(given, int) else int(given.fileno())
    stack.callback(os.close, file)
    return file


def _number(connection: socket.socket) -> int:
    """Read one number and no more; where the host has ended, what a killed process returns."""
    said = b""
    while not said.endswith(b"\n"):
        read = connection.recv(1)
        if not read:
            return -signal.SIGKILL
        said += read
    return int(said)


@contextmanager
def host(kind: str, environment: Mapping[str, str], *arguments: str) -> Iterator[str]:
    """Start a host with an environment; give what the variable :data:`JOBS` or :data:`PYTEST` is set to.

    ``arguments`` are those of the run that a host for pytest makes to import what runs import.
    """
    name, support = f"tenpak-{uuid.uuid4().hex}", Path(__file__).parent
    path = os.pathsep.join(filter(None, [str(support), environment.get("PYTHONPATH")]))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen(16)
        started = _Python(
            [sys.executable, str(support / "warm_host.py"), str(listener.fileno()), kind, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            env={**environment, "PYTHONPATH": path},
        )
    with started:  # which ends once its stdin is closed
        yield name
