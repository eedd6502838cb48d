"""What a baseline file may hold: text in, checked plain values out, and back; older versions are migrated."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ..errors import BaselineFileError
from ..store.digest import fingerprint, labelled
from ..store.strict_json import parse_json, schema_fault

SCHEMA_VERSION = 2
#: Decimals of every stored figure; identities keep theirs exactly.
DECIMALS = 6


# ---------------------------------------------------------------- reading


def load(text: str, path: Path) -> dict[str, Any]:
    """The plain values that a baseline file holds, of this schema version or of an older one.

    Raises BaselineFileError, naming ``path`` and the field, for what no such file can hold.
    """
    try:
        plain = parse_json(text)
        json.dumps(plain, ensure_ascii=False).encode()  # escapes can spell what is no Unicode text
    except (ValueError, RecursionError) as fault:
        conflict = "\n<<<<<<< " in f"\n{text}"
        refuse(path, "is not valid JSON", "it holds a merge conflict" if conflict else str(fault))
    departure = schema_fault(plain, __package__, f"baseline-{_version(plain, path)}")
    if departure is not None:
        refuse(path, f"has a fault in {departure[0]}", departure[1])
    loaded: dict[str, Any] = plain
    return loaded


def check_digests(plain: Mapping[str, Any], path: Path) -> None:
    """Refuse entries that are not as they were written; version 1 did not record how that was."""
    for name, entry in plain["entries"].items():
        if plain["schema_version"] >= 2 and entry["digest"] != _digest(name, entry):
            refuse(
                path, f"has a fault in entries.{name}.digest", "the entry was changed after it was written"
            )


def refuse(path: Path, problem: str, given: str) -> NoReturn:
    """Raise BaselineFileError: what is wrong with a baseline file."""
    raise BaselineFileError(
        path,
        problem,
        given=given,
        accepted=f"a pytest-tenpak baseline of schema version 1 to {SCHEMA_VERSION}, as it was written",
        remedy="restore it with git, or delete it and run again to create it",
    )


def _version(plain: Any, path: Path) -> int:
    version = plain.get("schema_version") if isinstance(plain, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        refuse(path, "has no schema_version that is known", f"schema_version {version!r}"[:100])
    if version > SCHEMA_VERSION:
        raise BaselineFileError(
            path,
            "was written by a newer pytest-tenpak",
            given=f"schema_version {version}"[:100],
            accepted=f"schema_version 1 to {SCHEMA_VERSION}",
            remedy="upgrade pytest-tenpak",
        )
    return version


# ---------------------------------------------------------------- migrating


def migrate(plain: dict[str, Any]) -> dict[str, Any]:
    """The values of :func:`load` as this schema version puts them."""
    for step in _MIGRATIONS[plain["schema_version"] - 1 :]:
        plain = step(plain)
    return plain


def _from_1(plain: dict[str, Any]) -> dict[str, Any]:
    """Version 2 says what a KLD is, and its anchors keep layers and a reason.

    The first files of version 1 have no divergence, no layers and no noise.
    """
    none: dict[str, Any] = {"gain": [], "error": []}
    entries = {}
    for name, old in plain["entries"].items():
        layers = old.get("layers", none)
        before, after = old["anchor"], old["figures"]
        entries[name] = {
            "noise": None,
            **old,
            "layers": layers,
            "figures": _with_divergence(old["figures"]),
            "history": [{**row, "figures": _with_divergence(row["figures"])} for row in old["history"]],
            "anchor": {
                "figures": _with_divergence(old["anchor"]),
                "layers": layers,  # the ones that are known
                "reason": "",
                "drift": round(_loss(after) - _loss(before), DECIMALS),
            },
        }
    return {**plain, "schema_version": 2, "entries": entries}


def _loss(figures: Mapping[str, Any]) -> float:
    loss: float = math.log(figures["perplexity"] / figures["reference_perplexity"])
    return loss


def _with_divergence(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {"kld": None, "top1": None, **figures, "divergence": None}


#: From each version to the next.
_MIGRATIONS: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (_from_1,)


# ---------------------------------------------------------------- writing


def render(case: str, entries: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of a baseline file: sorted keys, fixed digits, arrays of figures on one line."""
    signed = {}
    for name, entry in entries.items():
        stored = json.loads(_render(entry))
        signed[name] = {**entry, "digest": _digest(name, stored)}
    return _render({"schema_version": SCHEMA_VERSION, "case": case, "entries": signed}) + "\n"


def _digest(device_class: str, entry: Mapping[str, Any]) -> str:
    """Digest of an entry's stored values: edited, or put under another class, it has another."""
    rest = {name: value for name, value in entry.items() if name != "digest"}
    return labelled(fingerprint({"device_class": device_class, "entry": rest}))


def _render(plain: Any, indent: str = "", exact: bool = False) -> str:
    inner = indent + "  "
    if isinstance(plain, Mapping) and plain:
        rows = [
            f"{inner}{json.dumps(key)}: {_render(plain[key], inner, exact or key == 'identity')}"
            for key in sorted(plain)
        ]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(plain, (list, tuple)):
        if any(isinstance(item, (Mapping, list, tuple)) for item in plain):
            rows = [inner + _render(item, inner, exact) for item in plain]
            return "[\n" + ",\n".join(rows) + f"\n{indent}]"
        return "[" + ", ".join(_render(item, inner, exact) for item in plain) + "]"
    if isinstance(plain, float) and not exact:
        return f"{plain:.{DECIMALS}f}"
    return json.dumps(plain, ensure_ascii=False, allow_nan=False)
