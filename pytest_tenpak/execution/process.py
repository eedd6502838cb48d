"""The parent's side of a job in a worker process: start it, watch it, limit it, explain how it ended.

A crash, an out-of-memory kill or a leaked allocation of a backend ends one job, not pytest. The two
sides communicate by files in a job folder: ``job.json`` in, ``progress.jsonl`` and ``answer.json`` out,
``log.txt`` for all that the libraries print. No pickles. A process that stays finds its next job's folder in
a file of its home. The worker's side is ``main.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ..errors import TenpakError, WorkerError, error_from_dict
from ..progress import Progress
from ..quantizers.interpreters import environment, installed_in
from ..store.atomic import write_atomically
from ..store.layout import owner
from ..store.store import Store
from ..units import in_gib
from .job_folder import pass_on_progress, read_answer
from .jobs import ANSWER, NEXT, OUT_OF_DISK, OUT_OF_MEMORY, AnyJob, to_plain
from .template import ForkedProcess, fork_job

_POLL_SECONDS = 0.1
_MEMORY_POLL_SECONDS = 0.5
_LOG_LINES, _LOG_WIDTH, _LOG_BYTES = 12, 1000, 65536
# Another interpreter gets this one package, and none of the packages installed next to it.
_BOOTSTRAP = """
import importlib.util, pathlib, sys
package, folder = map(pathlib.Path, sys.argv[1:])
spec = importlib.util.spec_from_file_location(
    "pytest_tenpak", package / "__init__.py", submodule_search_locations=[str(package)]
)
sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[spec.name])
from pytest_tenpak.execution.main import main
main(folder)
"""

_Process: TypeAlias = "subprocess.Popen[bytes] | ForkedProcess"


@dataclass(frozen=True)
class Bounds:
    """Limits of one worker process and all it starts: seconds, and bytes of memory. 0 is no limit.

    ``counts_files``: pages of mapped files count too. Where layers are read from disk they do not: the kernel
    takes them back when it needs them.
    """

    timeout: float = 0
    memory: int = 0
    counts_files: bool = True


class _Ending(NamedTuple):
    """How a worker ended, and what the user can do about it."""

    what: str
    remedy: str | None = None


def run_job(
    store: Store,
    job: AnyJob,
    progress: Progress,
    bounds: Bounds = Bounds(),
    python: Path | None = None,
) -> Mapping[str, Any]:
    """Run one job in a worker process of its own, and return its answer.

    ``python`` is another interpreter to run it in, which has torch, transformers and the backend, and shares
    no packages with this one. Raises the worker's own TenpakError; WorkerError, which quotes and names the
    log; or what :func:`installed_in` raises for an interpreter.
    """
    return Worker(store, python).do(job, progress, bounds)


class NotTakenError(Exception):
    """A process that stays has ended between two jobs: nothing of the second was begun."""


class Worker:
    """A worker process, started by its first job; with ``stays`` it waits for others after that."""

    def __init__(self, store: Store, python: Path | None = None, stays: bool = False) -> None:
        self._store = store
        self._python = python
        self._home = store.root / "jobs" / f"stays-{uuid.uuid4().hex[:12]}" if stays else None
        self._process: _Process | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def do(self, job: AnyJob, progress: Progress, bounds: Bounds) -> Mapping[str, Any]:
        """Do one job and return its answer, as :func:`run_job` does.

        The process has ended after a failure, or where it does not stay; after an error that it explains
        itself it goes on. Raises NotTakenError where a process that stays had ended before it took the job.
        """
        if self._python is not None:
            installed_in(self._python)
        folder = _job_folder(self._store, job, self._python, self._home)
        killed_before = _oom_kills()
        stopped = None
        try:
            process = self._hand_over(job, folder)
            stopped = _watch(process, folder, progress, bounds, self._home is not None)
        finally:
            answer = read_answer(folder / ANSWER)
            is_waiting = self._home is not None and (self._home / NEXT).is_file()
            if answer is None or self._home is None:
                self.end()
        if is_waiting and not stopped:
            shutil.rmtree(folder, ignore_errors=True)
            raise NotTakenError
        if answer is None:
            kills = _since(killed_before)
            ending = stopped or _ending(process.returncode or 0, kills, self._store.root)
            raise _failure(job.kind, folder, ending, kills)
        shutil.rmtree(folder, ignore_errors=True)
        if "error" in answer:
            raise error_from_dict(answer["error"])
        reply: Mapping[str, Any] = answer["answer"]
        return reply

    def _hand_over(self, job: AnyJob, folder: Path) -> _Process:
        """Start the process with a job, or give it the next one."""
        if self._process is None:
            self._process = _start(job, folder, self._python)
        else:
            assert self._home is not None
            write_atomically(self._home / NEXT, str(folder))
        return self._process

    def end(self) -> None:
        """End the process and all that it started."""
        process, self._process = self._process, None
        if process is not None:  # once: another process may get its number
            _end(process)
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)


def _job_folder(store: Store, job: AnyJob, python: Path | None, home: Path | None) -> Path:
    """Make a new folder with the job in it."""
    folder = store.root / "jobs" / f"{job.kind}-{uuid.uuid4().hex[:12]}"
    order = {
        "kind": job.kind,
        "job": to_plain(job),
        "sys_path": sys.path if python is None else [],
        "elsewhere": python is not None,
        **owner(),
        "home": str(home) if home else "",
    }
    try:
        folder.mkdir(parents=True)
        if home and not home.is_dir():
            home.mkdir()
            (home / "owner.json").write_text(json.dumps(owner()), encoding="utf-8")
        (folder / "job.json").write_text(json.dumps(order), encoding="utf-8")
    except OSError as fault:
        shutil.rmtree(folder, ignore_errors=True)
        raise WorkerError(
            f"the job of the worker process that should {job.kind} cannot be written",
            given=f"{folder}: {fault}",
            remedy="free space there, or set --tenpak-cache-dir to a folder on another disk",
        ) from None
    return folder


def _start(job: AnyJob, folder: Path, python: Path | None) -> _Process:
    """Start a job's process: forked from the template where that is safe, else an interpreter of its own."""
    environment = _environment(python)
    if python is None and job.may_be_forked:
        forked = fork_job(folder, environment)
        if forked is not None:
            return forked
    with (folder / "log.txt").open("wb") as log:
        return subprocess.Popen(
            _command(folder, python),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def _command(folder: Path, python: Path | None) -> list[str]:
    if python is None:
        return [sys.executable, "-m", f"{__package__}.main", str(folder)]
    return [str(python), "-c", _BOOTSTRAP, str(Path(__file__).parents[1]), str(folder)]


def _environment(python: Path | None) -> dict[str, str]:
    """Return the user's environment, quieter and offline: all downloads are done by now.

    Without the name of the test that runs: it would be another environment for each.
    """
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    found = {**environment(python), **quiet, "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}
    found.pop("PYTEST_CURRENT_TEST", None)
    return found


def _watch(
    process: _Process, folder: Path, progress: Progress, bounds: Bounds, stays: bool
) -> _Ending | None:
    """Pass progress on until the job is done (None) or exceeds a limit (which one).

    It is done when the process ends; of one that stays, when there is an answer.
    """
    started = looked = time.monotonic()
    read = 0
    while True:
        ended = process.poll() is not None or (stays and (folder / ANSWER).is_file())
        read = pass_on_progress(folder, read, progress)
        if ended:
            return None
        now = time.monotonic()
        if bounds.timeout and now - started > bounds.timeout:
            what = f"ran longer than {bounds.timeout:g} s and was stopped"
            return _Ending(what, "raise --tenpak-timeout, or give it less to do")
        if bounds.memory and now - looked > _MEMORY_POLL_SECONDS:
            looked = now
            resident = _resident(process.pid, bounds.memory, bounds.counts_files)
            if resident > bounds.memory:
                what = (
                    f"took {in_gib(resident)} of memory, more than {in_gib(bounds.memory)}, and was stopped"
                )
                return _Ending(what, "raise --tenpak-memory, or give it less to do")
        time.sleep(_POLL_SECONDS)


def _resident(group: int, limit: int, counts_files: bool) -> int:
    """Return the resident bytes of a process group; above the limit, shared memory is counted once.

    Without ``counts_files`` only what the processes hold themselves.
    """
    import psutil

    members = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getpgid(pid) == group:
                members.append(psutil.Process(pid))
    whole = fair = 0
    for member in members:
        with contextlib.suppress(psutil.Error):
            info = member.memory_info()
            whole += info.rss if counts_files else info.rss - getattr(info, "shared", 0)
    if not counts_files or whole <= limit or len(members) == 1:
        return whole
    for member in members:
        with contextlib.suppress(psutil.Error):
            full = member.memory_full_info()
            fair += getattr(full, "pss", full.rss)
    return fair


def _end(process: _Process) -> None:
    """Kill what is left of the worker and of the processes it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _oom_kills() -> int | None:
    """Return how many processes the kernel has killed since boot as out of memory; None if unknown."""
    try:
        counted = re.search(
            r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(encoding="ascii"), re.MULTILINE
        )
    except OSError:
        return None
    return int(counted[1]) if counted else None


def _since(before: int | None) -> int | None:
    now = _oom_kills()
    return None if before is None or now is None else now - before


def _ending(code: int, kills: int | None, root: Path) -> _Ending:
    """Explain an exit code; ``kills`` counts processes that the kernel killed as out of memory meanwhile."""
    less = "use a smaller model or batch, fewer calibration texts, or a machine with more memory"
    if code == OUT_OF_MEMORY:
        return _Ending("ran out of memory", less)
    if code == OUT_OF_DISK:
        free = in_gib(shutil.disk_usage(root).free)
        place = f"free space in {root} ({free} free), or set --tenpak-cache-dir to a folder on another disk"
        return _Ending("ran out of disk space", place)
    if code == -signal.SIGKILL:
        if kills:
            return _Ending("was killed as out of memory (SIGKILL, and the kernel's OOM counter rose)", less)
        counter = "cannot be read" if kills is None else "did not move"
        what = f"was killed by SIGKILL from outside (the kernel's OOM counter {counter})"
        return _Ending(what, "look for a container's or scheduler's limit, or a process that sent the signal")
    if code < 0:
        return _Ending(f"was killed by {_signal_name(-code)}")
    return _Ending(f"ended with exit code {code}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _failure(kind: str, folder: Path, ending: _Ending, kills: int | None) -> TenpakError:
    log = folder / "log.txt"
    lines = _last_lines(log)
    if kills:
        lines.append(
            f"(processes that the kernel killed meanwhile on this machine as out of memory: {kills})"
        )
    quoted = "\n".join(f"    | {line}" for line in lines)
    return WorkerError(
        f"the worker process that should {kind} {ending.what}",
        given=f"last lines of {log}\n{quoted}" if lines else f"nothing in {log}",
        remedy=ending.remedy,
    )


def _last_lines(log: Path) -> list[str]:
    """Read the end of a log, which may be gigabytes long."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _LOG_BYTES))
        text = stream.read().decode("utf-8", errors="replace")
    return [line[-_LOG_WIDTH:] for line in text.splitlines()[-_LOG_LINES:]]
