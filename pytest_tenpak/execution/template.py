"""A process that has imported torch and transformers, and becomes each job's process by a fork.

Importing them takes some four seconds, and a case has up to four jobs. A forked process shares nothing that
it changes: a crash, a patch or a leak of one job stays there, as in a process of its own. Not on a GPU: a
driver that any library has asked for devices does not survive a fork. No library does this for us:
multiprocessing's fork server imports pytest's own main module in each child, and sends work by pickle.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

#: What imports take on the slowest machine seen, many times over.
_READY_SECONDS = 300


class ForkedProcess:
    """A job's process, as far as :mod:`.process` needs of ``subprocess.Popen``."""

    def __init__(self, template: Template, pid: int) -> None:
        self._template = template
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs."""
        if self.returncode is None:
            self.returncode = self._template.exit_code(self.pid)
        return self.returncode

    def wait(self) -> int:
        """Return the exit code once there is one."""
        while (code := self.poll()) is None:
            time.sleep(0.01)
        return code


class Template:
    """The parent's side of one template process."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self.environment,
            start_new_session=True,
        )
        self._changed = threading.Condition()
        self._is_ready = False
        self._started: list[int] = []
        self._codes: dict[int, int] = {}
        self._starting = threading.Lock()
        threading.Thread(target=self._listen, daemon=True, name="tenpak-template").start()

    def _listen(self) -> None:
        """Read replies until the template has ended."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, *numbers = line.split()
            with self._changed:
                if word == b"ready":
                    self._is_ready = True
                elif word == b"started":
                    self._started.append(int(numbers[0]))
                else:
                    self._codes[int(numbers[0])] = os.waitstatus_to_exitcode(int(numbers[1]))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def is_alive(self) -> bool:
        """Whether it can still start processes."""
        return self._process.poll() is None

    def start(self, folder: Path) -> ForkedProcess | None:
        """Start the job in ``folder``; None where the template could not import, or has ended."""
        with self._starting, self._changed:
            if not self._wait(lambda: self._is_ready):
                return None
            count = len(self._started)
            try:
                assert self._process.stdin is not None
                self._process.stdin.write(os.fsencode(folder) + b"\n")
                self._process.stdin.flush()
            except OSError:
                return None
            if not self._wait(lambda: len(self._started) > count):
                return None
            return ForkedProcess(self, self._started[count])

    def _wait(self, done: Callable[[], bool]) -> bool:
        """Wait until ``done()``; False where the template has ended before."""
        deadline = time.monotonic() + _READY_SECONDS
        while not done():
            if not self.is_alive or time.monotonic() > deadline:
                return done()
            self._changed.wait(0.2)
        return True

    def exit_code(self, pid: int) -> int | None:
        """Return the exit code of a process that it started, None while that runs."""
        with self._changed:
            if pid in self._codes:
                return self._codes[pid]
        if self.is_alive or _exists(pid):
            return None
        return self._codes.get(pid, -signal.SIGKILL)  # killed with the template, or by its own watch

    def close(self) -> None:
        """End the template and all that it started."""
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


_template: Template | None = None
_choosing = threading.Lock()


def fork_job(folder: Path, environment: Mapping[str, str]) -> ForkedProcess | None:
    """Start the job in ``folder`` from a template with this environment; None where there can be none."""
    global _template
    with _choosing:
        if _template is None or _template.environment != environment or not _template.is_alive:
            close_template()
            _template = Template(environment)
        template = _template
    return template.start(folder)


@atexit.register
def close_template() -> None:
    """End the template; the next job starts a new one."""
    global _template
    if _template is not None:
        _template.close()
        _template = None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
