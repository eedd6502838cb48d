"""Identities of measurements compared: whether figures are comparable, and which fields differ."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .entry import Entry

#: Fields of an identity that must be equal for perplexities to be comparable at all, whatever the recipe.
MEASURED_ON = ("model", "tokenizer", "corpus", "protocol")
#: Only where the corpus is the beginning of a longer text: how many characters it has.
PART = "corpus_part"


def identity_changes(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """List ``field: old → new`` for every field in which two identities differ, nested fields dotted.

    Texts that are equal are no difference where one of them is the beginning of a longer one.
    """
    rows = []
    if PART in {*old, *new}:
        old, new = _with_parts(old, new)
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        where = f"{path}{name}"
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            rows += identity_changes(before, after, f"{where}.")
        elif before != after:
            rows.append(f"{where}: {_short(before)} → {_short(after)}")
    return rows


def _with_parts(*identities: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return identities that say with the corpus which part of it that is, where the texts differ."""
    plain = [dict(identity) for identity in identities]
    parts = [identity.pop(PART, None) for identity in plain]
    if len({identity.get("corpus") for identity in plain}) > 1:
        for identity, part in zip(plain, parts, strict=True):
            identity["corpus"] = f"{identity.get('corpus')} ({_part(part)})"
    return plain


def _part(characters: int | None) -> str:
    return f"its first {characters:,} characters" if characters else "whole"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    if text.startswith("sha256:"):
        digest, space, more = text.partition(" ")
        return f"{digest[:19]}…{space}{more}"
    return repr(value) if isinstance(value, str) else text


def question_changes(
    entry: Entry,
    identity: Mapping[str, Any],
    entry_device: str = "",
    same_but: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """List how the identity of a run differs from an entry's, as :func:`identity_changes`.

    ``same_but`` explains digests of the entry.

    ``entry_device`` names the entry's device class where it is not the run's own: devices measure in
    different dtypes, whose figures are comparable where the noise of another dtype is recorded.
    """
    old, new = dict(entry.identity), dict(identity)
    if entry_device and entry.noise and "dtype" in entry.noise.runtime:
        old.pop("dtype", None), new.pop("dtype", None)
    explained = same_but.get(str(old.get("corpus")))
    if explained is None:
        return identity_changes(old, new)
    before, after = old.pop("corpus"), new.pop("corpus")
    return [f"corpus: {_short(before)}, {explained} → {_short(after)}", *identity_changes(old, new)]
