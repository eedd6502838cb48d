"""An executor that starts each job by a command: ``srun --gres=gpu:{gpus} {argv}``, ``ssh node {argv}``.

The command has to stay until the job has ended, as ``srun``, ``ssh`` and ``kubectl run --attach`` do.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import string
import subprocess
import sys
from collections.abc import Mapping
from typing import IO, NamedTuple

from ..errors import SpecError, WorkerError
from ..units import GIB
from .executor import Needs, Standing, State
from .submission import Submission

_FIELDS = ("argv", "gpus", "memory_gib", "name")
_LAST = 600
_MUST = (
    "it has to run {argv} to its end, on a machine with the interpreter, and with the cache's folder "
    "or --tenpak-transport=store"
)


class _Ticket(NamedTuple):
    process: subprocess.Popen[bytes]
    job: Submission
    log: IO[bytes]


class CommandExecutor:
    """Runs each job by one command, made from a template in which ``{argv}`` is what has to be run."""

    def __init__(self, template: str, entry: str) -> None:
        """``entry`` is the module that does the job of a folder. Raises SpecError for another template."""
        self._words = parse_template(template)
        self._argv = [sys.executable, "-m", entry]

    def submit(self, job: Submission, needs: Needs) -> _Ticket:
        """Start the command for a job."""
        values = {
            "gpus": f"{needs.gpus:g}",
            "memory_gib": f"{max(1, -(-needs.memory // GIB))}",
            "name": job.name,
        }
        command: list[str] = []
        for word in self._words:
            command += [*self._argv, job.argument] if word == "{argv}" else [word.format(**values)]
        log = (job.folder / "command.txt").open("w+b")
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as fault:
            log.close()
            raise WorkerError(
                "the command that should run a job could not be started",
                given=f"{shlex.join(command)}: {fault.strerror}",
                remedy="correct --tenpak-command",
            ) from None
        return _Ticket(process, job, log)

    def poll(self, ticket: _Ticket, seconds: float) -> Standing:
        """Return where the job stands; a command that ends without a reply has lost it."""
        try:
            code = ticket.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return Standing(State.RUNNING if ticket.job.has_begun() else State.QUEUED)
        with ticket.log as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LAST))
            said = log.read().decode("utf-8", errors="replace").strip()
        if ticket.job.has_reply():
            return Standing(State.DONE)
        said = f": {said}" if said else ""
        if ticket.job.has_begun():
            return Standing(State.LOST, f"the command ended with exit code {code}{said}")
        # A command that never came to the job is wrong itself: trying again would not help.
        never = f"the command ended with exit code {code} before the job had begun{said}"
        return Standing(State.FAILED, f"{never} ({_MUST})")

    def cancel(self, ticket: _Ticket) -> None:
        """Ask the command to end, as Ctrl-C would, and kill it where it does not."""
        for number, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            if ticket.process.poll() is None:
                with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                    os.killpg(ticket.process.pid, number)
                    ticket.process.wait(seconds)
        ticket.log.close()

    def nodes(self) -> Mapping[str, float]:
        """Return none: the command chooses."""
        return {}

    def close(self) -> None:
        """Do nothing: each job has been waited for or cancelled."""


def parse_template(template: str) -> list[str]:
    """Split a template into words; raise SpecError unless one is ``{argv}`` and others have known fields."""
    try:
        words = shlex.split(template)
        parsed = [part for word in words for part in string.Formatter().parse(word)]
    except ValueError:
        words, parsed = [], []
    if "{argv}" in words and {name for _, name, _, _ in parsed if name is not None} <= set(_FIELDS):
        return words
    others = ", ".join(f"{{{name}}}" for name in _FIELDS[1:])
    raise SpecError(
        "the command to run jobs by is not accepted",
        given=repr(template),
        accepted=f"a command line with the word {{argv}}; it may have {others}",
        remedy="for example --tenpak-command='srun --gres=gpu:{gpus} {argv}'",
        who="--tenpak-command",
    )
