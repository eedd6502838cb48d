"""Writing baselines: measurements become an entry, in a run or by ``tenpak accept``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..baselines.entry import Baseline, Entry
from ..errors import BaselineError
from ..gate.outcome import Outcome, Part
from ..store.atomic import sweep_temporaries
from ..store.digest import fingerprint
from ..store.store import Store


def baseline_path(folder: Path, name: str) -> Path:
    """Return the file of a baseline; raise BaselineError for a name that is not below the folder."""
    path = folder / f"{name}.json"
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BaselineError(
            f"the baseline {name!r} is not below {folder}",
            accepted="names that tests have, or a marker's baseline=",
        )
    return path


def write_baseline(outcome: Outcome, part: Part, folder: Path, store: Store, figures: bool = True) -> None:
    """Write what was measured on one corpus to its baseline: the figures, or only calibrated noise.

    ``outcome.update`` decides about reasons, anchors, and existing entries.
    """
    path = baseline_path(folder, part.name)
    with store.lock(f"baseline-{fingerprint(str(path))[:32]}"):
        baseline = Baseline.read(path) or Baseline(outcome.case.nodeid)
        old = baseline.entries.get(outcome.device_class)
        entry = _successor(old, outcome, part) if figures else None
        if entry is None and old is not None and part.noise is not None:
            entry = old.with_noise(part.noise)
        if entry is None:
            return
        changed = Baseline(outcome.case.nodeid, baseline.entries).with_entry(outcome.device_class, entry)
        try:
            changed.write(path)
        except OSError as fault:
            raise BaselineError(f"the baseline {path} cannot be written", given=str(fault)) from None
    sweep_temporaries(path.parent)


def _successor(old: Entry | None, outcome: Outcome, part: Part) -> Entry | None:
    """Return the entry that replaces ``old``; None where the update leaves that unchanged."""
    if old and outcome.update.only_new:
        return None
    entry = outcome.entry_of(part)
    if old:
        return entry.replacing(old, outcome.update.reason, outcome.update.reanchor)
    return replace(entry, anchor=replace(entry.anchor, reason=outcome.update.reason))
