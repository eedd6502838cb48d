"""A job that was handed to an executor, as the machine that waits for it sees it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ..progress import Progress
from .job_folder import pass_on_progress, read_answer
from .order import REPLY, STARTED, Order


class Submission(Protocol):
    """One attempt at a job.

    ``argument`` is what ``python -m pytest_tenpak.machines.on_node`` is given on the machine that runs it,
    ``name`` names it among others, and ``folder`` is on this machine, for logs.
    """

    name: str
    argument: str
    folder: Path

    def has_begun(self) -> bool:
        """Return whether a machine has begun it."""

    def has_reply(self) -> bool:
        """Return whether there is a reply."""

    def pass_on(self, progress: Progress) -> None:
        """Pass on what came of its progress since the last time."""

    def reply(self, progress: Progress) -> dict[str, Any] | None:
        """Return ``answer`` or ``error``, once what the job made is here; None where there is no reply."""

    def discard(self) -> None:
        """Remove what is left of it."""


#: Puts an order where other machines find it; shows how far that has come.
Post: TypeAlias = Callable[[Order, Progress], Submission]


class SubmittedFolder:
    """A job in a folder of the cache, which machines see under the same path, with all that it names."""

    def __init__(self, order: Order, progress: Progress) -> None:  # noqa: ARG002
        self.folder = order.write()
        self.name = self.folder.name
        self.argument = str(self.folder)
        self._read = 0

    def has_begun(self) -> bool:
        """Return whether a machine has begun it."""
        return (self.folder / STARTED).exists()

    def has_reply(self) -> bool:
        """Return whether there is a reply."""
        return (self.folder / REPLY).is_file()

    def pass_on(self, progress: Progress) -> None:
        """Pass on what came of its progress since the last time."""
        self._read = pass_on_progress(self.folder, self._read, progress)

    def reply(self, progress: Progress) -> dict[str, Any] | None:  # noqa: ARG002
        """Return ``answer`` or ``error``; None where there is no whole reply."""
        return read_answer(self.folder / REPLY)

    def discard(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
