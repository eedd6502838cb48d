"""The family of errors a user can meet, each saying who asked, what is wrong, and what to do."""

from __future__ import annotations

import errno
from typing import Any


class TenpakError(Exception):
    """Something a user can mend.

    ``problem`` is one sentence. ``given``, ``accepted`` and ``remedy`` follow on lines of their own
    where they are known; ``who`` names the test, file or quantizer on whose behalf the work was done
    and can be filled in later by a caller who knows it.
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
        """Name who asked, unless somebody closer to the fault already did; returns the error itself."""
        self.who = self.who or who
        return self

    def __str__(self) -> str:
        head = f"{self.who}: {self.problem}" if self.who else self.problem
        rows = (("given", self.given), ("accepted", self.accepted), ("what to do", self.remedy))
        return "\n".join([head, *(f"  {label + ':':<12}{text}" for label, text in rows if text)])

    def to_dict(self) -> dict[str, Any]:
        """A plain dict that :func:`error_from_dict` turns back into the same error in another process."""
        return {
            "kind": type(self).__name__,
            "problem": self.problem,
            "given": self.given,
            "accepted": self.accepted,
            "remedy": self.remedy,
            "who": self.who,
        }


class SpecError(TenpakError):
    """A marker or an option asks for something that does not exist or cannot be."""


class UnavailableError(TenpakError):
    """The case could not run here: a library or a device is missing."""


class ModelError(TenpakError):
    """The model under test cannot be found or read."""


class CorpusError(TenpakError):
    """The text to measure on, or to calibrate with, cannot be used."""


class OverlapError(TenpakError):
    """The calibration text stands in the corpus: the perplexity would measure memory, not quality."""


class CheckpointError(TenpakError):
    """A checkpoint on disk is missing, incomplete or damaged."""


class WorkerError(TenpakError):
    """A worker process crashed, was killed or ran out of time."""


class MeasurementError(TenpakError):
    """A measurement did not happen, or its figures are not finite."""


class BaselineError(TenpakError):
    """A baseline file cannot be read, or is not what it says it is."""


class BaselineFileError(BaselineError):
    """A baseline file is not what it should be: ``fault`` says how, without the file's name."""

    def __init__(self, path: object, fault: str, **rest: Any) -> None:
        super().__init__(f"the baseline {path} {fault}", **rest)
        self.fault = fault


class ReportError(TenpakError):
    """A report of a run cannot be read, or is not what it says it is."""


class GitError(TenpakError):
    """Git is missing, or does not know what it was asked for."""


_FAMILY: dict[str, type[TenpakError]] = {
    kind.__name__: kind
    for kind in (
        SpecError,
        UnavailableError,
        ModelError,
        CorpusError,
        OverlapError,
        CheckpointError,
        WorkerError,
        MeasurementError,
        BaselineError,
        ReportError,
        GitError,
    )
}


def error_from_dict(plain: dict[str, Any]) -> TenpakError:
    """The error that :meth:`TenpakError.to_dict` described."""
    kind = _FAMILY.get(plain["kind"], TenpakError)
    return kind(
        plain["problem"],
        given=plain["given"],
        accepted=plain["accepted"],
        remedy=plain["remedy"],
        who=plain["who"],
    )


def file_error(fault: OSError) -> TenpakError:
    """What the system says about a file, as an error with a way out."""
    if fault.errno in (errno.ENOSPC, errno.EDQUOT):
        return TenpakError(
            "there is no room left on the disk",
            given=str(fault),
            remedy="free room, or name a folder with room as --tenpak-cache-dir",
        )
    return TenpakError(
        "a file could not be read or written",
        given=str(fault),
        remedy="correct the path or its permissions; the cache's own folder is --tenpak-cache-dir",
    )
