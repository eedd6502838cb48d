"""What a run may do to a baseline: the rule that keeps an update from turning red into green unasked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from .baseline import Entry
from .checks import Status, Verdict

#: Entries before and after, one pair for each corpus; None where there is none.
Changes: TypeAlias = Sequence[tuple["Entry | None", "Entry | None"]]
#: Relative differences below this are the rounding of stored figures.
_ROUNDING = 1e-7
_SHORTER = "baseline kept: this run measured fewer windows; run with as many tokens as the baseline has"


@dataclass(frozen=True)
class Update:
    """Whether the baseline is written, whether the test passes, and what the user is told.

    ``reason`` goes into the baseline's history beside the figures it replaces. ``only_new``: of a case with
    several corpora, the baselines that are there stay as they are.
    """

    write: bool
    passes: bool
    reason: str = ""
    note: str = ""
    only_new: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Update:
        """The update that :meth:`to_dict` wrote."""
        return cls(**plain)


def decide(
    verdict: Verdict,
    mode: str | None,
    reason: str | None,
    in_ci: bool,
    changes: Changes = (),
) -> Update:
    """What to do with one case's baseline.

    ``mode`` is ``new``, ``failing`` or ``all``, each including the ones before it, or None: nobody asked.
    ``reason`` is the text of ``--tenpak-accept``. ``changes`` are the entries before and after, a pair for
    each corpus; a case with several is updated as a whole or not at all.
    Only checks against the baseline can be settled by an update: a broken limit or a failed measurement
    stays red and writes nothing.
    """
    status = verdict.status
    if status is Status.ERROR or any(check.kind != "tolerance" for check in verdict.failing):
        return Update(False, False)
    if status is Status.NEW:
        return _decide_new(mode, in_ci)
    if status in (Status.REGRESSED, Status.INVALID):
        return _decide_red(verdict, mode, reason, changes)
    return _decide_green(verdict, mode, reason, changes)


def _decide_red(verdict: Verdict, mode: str | None, reason: str | None, changes: Changes) -> Update:
    """A case that fails against its baseline: settled by an update, if worse with a reason."""
    if mode not in ("failing", "all"):
        return Update(False, False)
    if _is_worse(verdict, changes) and not reason:
        return Update(False, False, note='not updated: it is worse, which needs --tenpak-accept "reason"')
    if _is_shorter(changes):
        return Update(False, False, note=_SHORTER)
    if verdict.status is Status.INVALID:
        return Update(True, True, reason or "identity changed", "baseline replaced: its identity changed")
    return Update(True, True, reason or "", f"baseline updated, accepted as worse: {reason}")


def _decide_new(mode: str | None, in_ci: bool) -> Update:
    if in_ci and mode is None:
        return Update(
            False,
            False,
            note="no baseline, and in CI none is written: create it where you can review it "
            "(run without CI set), or name --tenpak-update=new",
        )
    return Update(True, True, note="baseline created: review and commit it", only_new=True)


def _decide_green(verdict: Verdict, mode: str | None, reason: str | None, changes: Changes) -> Update:
    """A passing case: only ``all`` rewrites its baseline, and even then not for the worse unasked."""
    if mode != "all" or all(_is_same(old, new) for old, new in changes):
        return Update(False, True)
    if _is_shorter(changes):
        return Update(False, True, note=_SHORTER)
    if _is_worse(verdict, changes) and not reason:
        note = 'baseline kept: the new figures are worse, which needs --tenpak-accept "reason"'
        return Update(False, True, note=note)
    return Update(True, True, reason or "updated on request", "baseline updated")


def _is_same(old: Entry | None, new: Entry | None) -> bool:
    return old is None or new is None or (old.figures == new.figures and old.nll == new.nll)


def _is_shorter(changes: Changes) -> bool:
    """Whether an update would forget windows: a smaller run may be compared, but not accepted."""
    return any(
        old and new and old.identity == new.identity and len(new.nll) < len(old.nll) for old, new in changes
    )


def _is_worse(verdict: Verdict, changes: Changes) -> bool:
    """Worse than what was accepted: by the paired checks, or by the figures where nothing could be paired."""
    tolerances = verdict.of_kind("tolerance")
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
    return after.perplexity > before.perplexity or after.compression < before.compression
