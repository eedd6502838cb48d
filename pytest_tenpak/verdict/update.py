"""What a run may do to a baseline: the rule that keeps an update from turning red into green unasked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
_NEEDS_REASON = 'the new figures are worse, which needs --tenpak-accept "reason"'
_FIRST = "baseline created for this device class"
#: Relative differences below this are the rounding of stored figures.
_ROUNDING = 1e-7


@dataclass(frozen=True)
class Update:
    """Whether the baseline is written, whether the test passes, and what the user is told.

    ``reason`` goes into the baseline's history beside the figures it replaces. ``only_new``: of a case with
    several corpora, the baselines that are there stay as they are. ``reanchor``: the figures become the
    anchor. ``exceeds_drift_limit``: accepting them takes that, since they are past the drift limit.
    """

    write: bool
    passes: bool
    reason: str = ""
    note: str = ""
    only_new: bool = False
    reanchor: bool = False
    exceeds_drift_limit: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Update:
        """The update that :meth:`to_dict` wrote."""
        return cls(**plain)


@dataclass(frozen=True)
class Request:
    """What the user asked to be done to baselines.

    ``mode`` is a key of UPDATES, or None: nobody asked. ``reason`` is why worse figures are accepted,
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
    Only checks against the baseline can be settled by an update: a broken limit or a failed measurement
    stays red and writes nothing.
    """
    status = verdict.status
    if status is Status.ERROR or any(not check.kind.is_settled_by_update for check in verdict.failing):
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
    """A case that fails against its baseline: settled by an update, if worse with a reason."""
    if not request.takes("failing"):
        return Update(False, False)
    refusal = _refusal(verdict, request, exceeds_drift_limit, changes)
    if refusal:
        return Update(False, False, note=f"not updated: {refusal}")
    reason = request.reason or "identity changed"
    note = f"baseline updated, accepted as worse: {reason}"
    if verdict.status is Status.INVALID:
        regressed = any(check.status is Status.REGRESSED for check in verdict.failing)
        note = "baseline replaced: its identity changed" + (
            f"; accepted as worse: {reason}" if regressed else ""
        )
    return Update(True, True, reason, note, reanchor=request.reanchor)


def _decide_across_devices(verdict: Verdict, request: Request) -> Update:
    """A case that fails beside another device's entry: its own is created, if it is worse with a reason."""
    if verdict.status is Status.INVALID and request.takes("new"):
        return Update(True, True, request.reason or "", _FIRST, only_new=True)
    if not request.takes("failing"):
        return Update(False, False)
    if not request.reason:
        return Update(False, False, note=f"not created: {_NEEDS_REASON}")
    note = f"{_FIRST}, accepted as worse than the nearest: {request.reason}"
    return Update(True, True, request.reason, note, only_new=True)


def _decide_new(request: Request, in_ci: bool) -> Update:
    if request.takes("new") or (request.mode is None and not in_ci):
        return Update(True, True, note="baseline created: review and commit it", only_new=True)
    if not in_ci:
        return Update(False, True, note=f"no baseline: --tenpak-update={request.mode} creates none")
    return Update(
        False,
        False,
        note="no baseline, and in CI none is written: create it where you can review it "
        "(run without CI set), or name --tenpak-update=new",
    )


def _decide_green(verdict: Verdict, request: Request, exceeds_drift_limit: bool, changes: Changes) -> Update:
    """A passing case: rewritten where that was asked, and even then not for the worse unasked."""
    if any(old is None for old, _ in changes) and request.takes("new"):
        # It passed beside another device's entry; its own is created, and that one left alone.
        return Update(True, True, note=_FIRST, only_new=True)
    if not request.takes("improved" if verdict.status is Status.IMPROVED else "passing"):
        return Update(False, True)
    if not request.reanchor and all(_is_same(old, new) for old, new in changes):
        return Update(False, True)
    refusal = _refusal(verdict, request, exceeds_drift_limit, changes)
    if refusal:
        return Update(False, True, note=f"baseline kept: {refusal}")
    note = "baseline updated" + (", and made the anchor" if request.reanchor else "")
    return Update(True, True, request.reason or "updated on request", note, reanchor=request.reanchor)


def _refusal(verdict: Verdict, request: Request, exceeds_drift_limit: bool, changes: Changes) -> str:
    """Why an update that was asked for is not made; empty when it is."""
    if _is_worse(verdict, changes) and not request.reason:
        return _NEEDS_REASON
    if exceeds_drift_limit and not request.reanchor:
        return "the drift since its anchor is past the drift limit, which needs --tenpak-reanchor too"
    if _is_shorter(changes) and not request.fewer_windows:
        return (
            "this run measured fewer windows than the baseline has; to measure them all, run it with as many "
            "tokens, and with --tenpak-update=failing (in CI too) or --tenpak-fixed"
        )
    return ""


def _is_same(old: Entry | None, new: Entry | None) -> bool:
    return old is None or new is None or (old.figures == new.figures and old.nll == new.nll)


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
