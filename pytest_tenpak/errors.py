"""The errors that a user can meet: where they occurred, what is wrong, and how to fix it."""

from __future__ import annotations

import errno
from collections.abc import Collection
from typing import Any


class TenpakError(Exception):
    """An error that a user can fix.

    ``problem`` is one sentence. ``given``, ``accepted`` and ``remedy`` follow on lines of their own
    where they are known. ``who`` names the test, option, file or quantizer that the error concerns; a
    caller that knows it may add it later.
    """

    def __init__(
        self,
        problem: str,
        *,
        given: object = None,
        accepted: str | None = None,
        remedy: str | None = None,
        who: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.given = None if given is None else str(given)
        self.accepted = accepted
        self.remedy = remedy
        self.who = who

    def asked_by(self, who: str) -> TenpakError:
        """Set what the error concerns, unless that is known already; return the error itself."""
        self.who = self.who or who
        return self

    def __str__(self) -> str:
        head = f"{self.who}: {self.problem}" if self.who else self.problem
        rows = (("given", self.given), ("accepted", self.accepted), ("what to do", self.remedy))
        return "\n".join([head, *(f"  {label + ':':<12}{text}" for label, text in rows if text)])

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dict, from which :func:`error_from_dict` makes the same error in another process."""
        return {
            "kind": type(self).__name__,
            "problem": self.problem,
            "given": self.given,
            "accepted": self.accepted,
            "remedy": self.remedy,
            "who": self.who,
        }


class SpecError(TenpakError):
    """A marker or an option asks for something that does not exist or is impossible."""


class UnavailableError(TenpakError):
    """The case cannot run here: a library or a device is missing."""


class ModelError(TenpakError):
    """The model under test cannot be found or read."""


class CorpusError(TenpakError):
    """The text to measure on, or to calibrate with, cannot be used."""


class InvalidError(TenpakError):
    """The question itself is wrong: figures would mean nothing, or something else."""


class OverlapError(InvalidError):
    """The calibration text overlaps the evaluation corpus, so the perplexity would look better than it is."""


class GuessingError(InvalidError):
    """The unquantized model cannot predict the text, so no difference from it means anything."""


class CheckpointError(TenpakError):
    """A checkpoint on disk is missing, incomplete or damaged."""


class WorkerError(TenpakError):
    """A worker process crashed, was killed or ran out of time."""


class MeasurementError(TenpakError):
    """A measurement failed, or its figures are not finite."""


class BaselineError(TenpakError):
    """A baseline file cannot be read or written, or is not valid."""


class BaselineFileError(BaselineError):
    """A baseline file is not valid: ``fault`` says why, without the file's name."""

    def __init__(self, path: object, fault: str, **rest: Any) -> None:
        super().__init__(f"the baseline {path} {fault}", **rest)
        self.fault = fault


class ReportError(TenpakError):
    """A report of a run cannot be read, or is not valid."""


class GitError(TenpakError):
    """Git is not installed, or a git command failed."""


_KINDS: dict[str, type[TenpakError]] = {
    kind.__name__: kind
    for kind in (
        SpecError,
        UnavailableError,
        ModelError,
        CorpusError,
        OverlapError,
        GuessingError,
        CheckpointError,
        WorkerError,
        MeasurementError,
        BaselineError,
        ReportError,
        GitError,
    )
}


def error_from_dict(plain: dict[str, Any]) -> TenpakError:
    """Return the error that :meth:`TenpakError.to_dict` described."""
    kind = _KINDS.get(plain["kind"], TenpakError)
    return kind(
        plain["problem"],
        given=plain["given"],
        accepted=plain["accepted"],
        remedy=plain["remedy"],
        who=plain["who"],
    )


def file_error(fault: OSError) -> TenpakError:
    """Turn the system's error about a file into one that says what to do."""
    if fault.errno in (errno.ENOSPC, errno.EDQUOT):
        return TenpakError(
            "no space is left on the disk",
            given=str(fault),
            remedy="free space, or set --tenpak-cache-dir to a folder on another disk",
        )
    return TenpakError(
        "a file could not be read or written",
        given=str(fault),
        remedy="correct the path or its permissions; --tenpak-cache-dir sets the folder of the cache",
    )


def named(names: Collection[str], most: int = 4) -> str:
    """Return some of many names, and how many more there are, for a message."""
    first = [*names][:most]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more:,} more" if more else "")
