"""Two states of the baselines compared: what is new, gone, moved or changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .entry import Baseline, Entry


@dataclass(frozen=True)
class Change:
    """The change of one baseline on one device class; ``old`` or ``new`` is None where there is no entry.

    ``moved_from`` is the previous name of a baseline that was renamed with its entries unchanged.
    """

    name: str
    device_class: str
    old: Entry | None
    new: Entry | None
    moved_from: str = ""

    @property
    def kind(self) -> str:
        """``new``, ``gone``, ``moved`` or ``changed``."""
        if self.moved_from:
            return "moved"
        return "new" if self.old is None else "gone" if self.new is None else "changed"


def changes(old: Mapping[str, Baseline], new: Mapping[str, Baseline]) -> list[Change]:
    """List every entry that differs between two states, in the order of names."""
    rows = []
    moved = _moved(old, new)
    gone = set(moved.values())
    for name in sorted({*old, *new} - gone):
        before = old[moved.get(name, name)].entries if moved.get(name, name) in old else {}
        after = new[name].entries if name in new else {}
        for device_class in sorted({*before, *after}):
            one, other = before.get(device_class), after.get(device_class)
            if one != other or name in moved:
                rows.append(Change(name, device_class, one, other, moved.get(name, "")))
    return rows


def _moved(old: Mapping[str, Baseline], new: Mapping[str, Baseline]) -> dict[str, str]:
    """Return, by new name, the old name of baselines that were renamed with their entries unchanged."""
    gone = {name: baseline for name, baseline in old.items() if name not in new}
    moved: dict[str, str] = {}
    for name, baseline in new.items():
        same = (before for before, entry in gone.items() if entry.entries == baseline.entries)
        if name not in old and (before := next(same, None)) is not None:
            moved[name] = before
            del gone[before]
    return moved


def reason_of(entry: Entry, old: Entry | None) -> str:
    """Return the stored reason why an entry replaced ``old``; empty for a first entry."""
    if not entry.history or (old is not None and entry.history == old.history):
        return ""
    return entry.history[0].reason
