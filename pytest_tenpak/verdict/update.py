"""What a run may do to a baseline: no update turns a red test green, or accepts worse figures, unasked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any, TypeAlias

from ..baselines.entry import Entry
from ..baselines.identity import MEASURED_ON
from .against_baseline import is_beyond_anchor
from .checks import Status, Tolerances, Verdict
from .kinds import Question

#: Entries before and after, one pair for each corpus; None where there is none.
Changes: TypeAlias = Sequence[tuple["Entry | None", "Entry | None"]]
#: The values of ``--tenpak-update``, and which cases each updates.
UPDATES = {
    "new": ("new",),
    "failing": ("new", "failing"),
    "improved": ("improved",),
    "all": ("new", "failing", "improved", "passing"),
}
#: Relative differences below this are the rounding of stored figures.
_ROUNDING = 1e-7


class Lack(str, Enum):
    """What a request lacks to accept the new figures."""

    #: They are worse, which needs a reason that is stored.
    REASON = "reason"
    #: The drift since the anchor exceeds its limit, which needs a new anchor.
    REANCHOR = "reanchor"
    #: The run measured fewer windows than the baseline has.
    WINDOWS = "windows"


class Decided(str, Enum):
    """A decision about a baseline that reports mention."""

    CREATED = "created"
    #: The same, where the baseline has entries of other device classes.
    CREATED_FOR_DEVICE = "created-for-device"
    CREATED_FOR_DEVICE_AS_WORSE = "created-for-device-as-worse"
    UPDATED = "updated"
    UPDATED_AS_WORSE = "updated-as-worse"
    REANCHORED = "reanchored"
    #: The identity of the case changed.
    REPLACED = "replaced"
    REPLACED_AS_WORSE = "replaced-as-worse"
    #: The request lacks something. The test stays red; or it passes, and its baseline stays (kept).
    NOT_CREATED = "not-created"
    NOT_UPDATED = "not-updated"
    KEPT = "kept"
    #: There is no baseline, and the request creates none, or CI does not.
    MISSING = "missing"
    MISSING_IN_CI = "missing-in-ci"
    EXPECTED_TO_FAIL = "expected-to-fail"


@dataclass(frozen=True)
class Note:
    """A decision about a baseline, as a value that each front end puts into words.

    ``detail`` is the reason that was given, the mode of the request, or why a test is expected to fail.
    ``move``: an unused baseline matches the case, and may be moved; its path, and the new name.
    """

    decided: Decided
    detail: str = ""
    lack: Lack | None = None
    move: tuple[str, str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain form."""
        return {
            "decided": self.decided.value,
            "detail": self.detail,
            "lack": self.lack.value if self.lack else None,
            "move": list(self.move) if self.move else None,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Note:
        """The note that :meth:`to_dict` wrote."""
        return cls(
            Decided(plain["decided"]),
            plain["detail"],
            Lack(plain["lack"]) if plain["lack"] else None,
            (plain["move"][0], plain["move"][1]) if plain["move"] else None,
        )


@dataclass(frozen=True)
class Update:
    """Whether the baseline is written, whether the test passes, and a note on that decision.

    ``reason`` goes into the baseline's history with the figures it replaces. ``only_new``: of a case with
    several corpora, the baselines that are there stay as they are. ``reanchor``: the figures become the
    anchor. ``exceeds_drift_limit``: accepting them takes that, since they are past the drift limit.
    """

    write: bool
    passes: bool
    reason: str = ""
    note: Note | None = None
    only_new: bool = False
    reanchor: bool = False
    exceeds_drift_limit: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain form."""
        return {**asdict(self), "note": self.note.to_dict() if self.note else None}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Update:
        """The update that :meth:`to_dict` wrote."""
        return cls(**{**plain, "note": Note.from_dict(plain["note"]) if plain["note"] else None})


@dataclass(frozen=True)
class Request:
    """What the user requested for baselines.

    ``mode`` is a key of UPDATES, or None without a request. ``reason`` is why worse figures are accepted,
    ``reanchor`` whether they become the anchor. ``fewer_windows``: a smaller run may replace a larger one.
    """

    mode: str | None = None
    reason: str | None = None
    reanchor: bool = False
    fewer_windows: bool = False

    def takes(self, kind: str) -> bool:
        """Whether cases of a kind (``new``, ``failing``, ``improved``, ``passing``) are to be updated."""
        return self.mode is not None and kind in UPDATES[self.mode]


def decide(
    verdict: Verdict,
    request: Request,
    in_ci: bool,
    changes: Changes = (),
    tolerances: Tolerances = Tolerances(),  # noqa: B008 - frozen
) -> Update:
    """What to do with one case's baseline.

    ``changes`` are the entries before and after, a pair for each corpus; a case with several is updated as
    a whole or not at all.
    Only checks against the baseline can be cleared by an update: a broken limit or a failed measurement
    stays red and writes nothing.
    """
    status = verdict.status
    if status is Status.ERROR or any(not check.kind.is_cleared_by_update for check in verdict.failing):
        return Update(False, False)
    if status is Status.NEW:
        return _decide_new(request, in_ci)
    exceeds_drift_limit = any(is_beyond_anchor(old, new, tolerances) for old, new in changes if old and new)
    if changes and status.failing and all(old is None for old, _ in changes):
        return _decide_across_devices(verdict, request)
    if status in (Status.REGRESSED, Status.INVALID):
        return replace(
            _decide_red(verdict, request, exceeds_drift_limit, changes),
            exceeds_drift_limit=exceeds_drift_limit,
        )
    return _decide_green(verdict, request, exceeds_drift_limit, changes)


def _decide_red(verdict: Verdict, request: Request, exceeds_drift_limit: bool, changes: Changes) -> Update:
    """A case that fails against its baseline: an update clears that, if worse with a reason."""
    if not request.takes("failing"):
        return Update(False, False)
    lack = _lack(verdict, request, exceeds_drift_limit, changes)
    if lack:
        return Update(False, False, note=Note(Decided.NOT_UPDATED, lack=lack))
    reason = request.reason or "identity changed"
    note = Note(Decided.UPDATED_AS_WORSE, reason)
    if verdict.status is Status.INVALID:
        regressed = any(check.status is Status.REGRESSED for check in verdict.failing)
        note = Note(Decided.REPLACED_AS_WORSE, reason) if regressed else Note(Decided.REPLACED)
    return Update(True, True, reason, note, reanchor=request.reanchor)


def _decide_across_devices(verdict: Verdict, request: Request) -> Update:
    """A case that fails against another device's entry: its own is created, if it is worse with a reason."""
    if verdict.status is Status.INVALID and request.takes("new"):
        note = Note(Decided.CREATED_FOR_DEVICE)
        return Update(True, True, request.reason or "", note, only_new=True)
    if not request.takes("failing"):
        return Update(False, False)
    if not request.reason:
        return Update(False, False, note=Note(Decided.NOT_CREATED, lack=Lack.REASON))
    note = Note(Decided.CREATED_FOR_DEVICE_AS_WORSE, request.reason)
    return Update(True, True, request.reason, note, only_new=True)


def _decide_new(request: Request, in_ci: bool) -> Update:
    if request.takes("new") or (request.mode is None and not in_ci):
        return Update(True, True, note=Note(Decided.CREATED), only_new=True)
    if not in_ci:
        return Update(False, True, note=Note(Decided.MISSING, request.mode or ""))
    return Update(False, False, note=Note(Decided.MISSING_IN_CI))


def _decide_green(verdict: Verdict, request: Request, exceeds_drift_limit: bool, changes: Changes) -> Update:
    """A passing case: rewritten where that was asked, and even then not for the worse unasked."""
    if any(old is None for old, _ in changes) and request.takes("new"):
        # It passed against another device's entry; its own is created, and that one left alone.
        return Update(True, True, note=Note(Decided.CREATED_FOR_DEVICE), only_new=True)
    if not request.takes("improved" if verdict.status is Status.IMPROVED else "passing"):
        return Update(False, True)
    if not request.reanchor and all(_is_same(old, new) for old, new in changes):
        return Update(False, True)
    lack = _lack(verdict, request, exceeds_drift_limit, changes)
    if lack:
        return Update(False, True, note=Note(Decided.KEPT, lack=lack))
    note = Note(Decided.REANCHORED if request.reanchor else Decided.UPDATED)
    return Update(True, True, request.reason or "updated on request", note, reanchor=request.reanchor)


def _lack(verdict: Verdict, request: Request, exceeds_drift_limit: bool, changes: Changes) -> Lack | None:
    """What an update that was asked for lacks; None where it is made."""
    if _is_worse(verdict, changes) and not request.reason:
        return Lack.REASON
    if exceeds_drift_limit and not request.reanchor:
        return Lack.REANCHOR
    return Lack.WINDOWS if _is_shorter(changes) and not request.fewer_windows else None


def _is_same(old: Entry | None, new: Entry | None) -> bool:
    if old is None or new is None:
        return True
    return old.figures == new.figures and old.nll == new.nll and new.audit in (None, old.audit)


def _is_shorter(changes: Changes) -> bool:
    """Whether an update would forget windows: a smaller run may be compared, but not accepted."""
    return any(
        old and new and old.identity == new.identity and len(new.nll) < len(old.nll) for old, new in changes
    )


def _is_worse(verdict: Verdict, changes: Changes) -> bool:
    """Worse than what was accepted: by the paired checks, or by the figures where nothing could be paired."""
    tolerances = verdict.answering(Question.TOLERANCE)
    if any(check.status is Status.REGRESSED for check in tolerances):
        return True
    invalid = any(check.status is Status.INVALID for check in tolerances)
    if invalid and any(_has_worse_figures(old, new) for old, new in changes if old and new):
        return True
    worse = {"ppl_tolerance": 1, "layers": 1, "compression_tolerance": -1}
    moved = [worse.get(check.name, 0) * (check.difference or 0.0) for check in tolerances]
    return max(moved, default=0.0) > _ROUNDING


def _has_worse_figures(old: Entry, new: Entry) -> bool:
    before, after = old.figures, new.figures
    # Where another thing was measured, only the loss against the reference compares.
    same = all(old.identity.get(name) == new.identity.get(name) for name in MEASURED_ON)
    return (
        (same and after.perplexity > before.perplexity)
        or after.loss > before.loss + _ROUNDING
        or after.compression < before.compression
    )
