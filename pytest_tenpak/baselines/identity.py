"""Which question a measurement answers: the fields of its identity, compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .entry import Entry

#: Fields of an identity that have to agree for perplexities to compare at all, whatever the recipe.
MEASURED_ON = ("model", "tokenizer", "corpus", "protocol")


def identity_changes(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """``field: old → new`` for every field in which two identities differ, nested fields dotted."""
    rows = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        where = f"{path}{name}"
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            rows += identity_changes(before, after, f"{where}.")
        elif before != after:
            rows.append(f"{where}: {_short(before)} → {_short(after)}")
    return rows


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text[:19] + "…" if text.startswith("sha256:") else repr(value) if isinstance(value, str) else text


def question_changes(entry: Entry, identity: Mapping[str, Any], elsewhere: str = "") -> list[str]:
    """How the question of a run differs from the one that an entry answers, as :func:`identity_changes`.

    ``elsewhere`` names the entry's device class where it is not the run's own: devices measure in types of
    their own, which compare where it is recorded how far another type moves the figures.
    """
    old, new = dict(entry.identity), dict(identity)
    if elsewhere and entry.noise and "dtype" in entry.noise.runtime:
        old.pop("dtype", None), new.pop("dtype", None)
    return identity_changes(old, new)
