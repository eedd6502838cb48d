"""The baseline file format: text is parsed and validated, older versions are migrated, entries rendered."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ..errors import BaselineFileError
from ..store.digest import fingerprint, labelled
from ..store.git_lfs import POINTER
from ..store.strict_json import parse_json, schema_fault

SCHEMA_VERSION = 2
#: Decimals of every stored figure; identities are stored exactly.
DECIMALS = 6


# ---------------------------------------------------------------- reading


def load(text: str, path: Path) -> dict[str, Any]:
    """Parse and validate a baseline file of this schema version or of an older one.

    Raises BaselineFileError, naming ``path`` and the field, for text that is not a valid file.
    """
    try:
        plain = parse_json(text)
        json.dumps(plain, ensure_ascii=False).encode()  # escapes can encode lone surrogates
    except (ValueError, RecursionError) as fault:
        if text.startswith(POINTER.decode()):
            refuse(path, "is a pointer of git-lfs, not the file itself", "run: git lfs pull")
        conflict = "\n<<<<<<< " in f"\n{text}"
        refuse(path, "is not valid JSON", "it contains a merge conflict" if conflict else str(fault))
    departure = schema_fault(plain, __package__, f"baseline-{_version(plain, path)}")
    if departure is not None:
        refuse(path, f"has a fault in {departure[0]}", departure[1])
    loaded: dict[str, Any] = plain
    return loaded


def check_digests(plain: Mapping[str, Any], path: Path) -> None:
    """Refuse entries that were edited after they were written; version 1 has no digests to check."""
    for name, entry in plain["entries"].items():
        if plain["schema_version"] >= 2 and entry["digest"] != _digest(name, entry):
            refuse(
                path, f"has a fault in entries.{name}.digest", "the entry was changed after it was written"
            )


def refuse(path: Path, problem: str, given: str) -> NoReturn:
    """Raise BaselineFileError for a file that is not a valid baseline."""
    raise BaselineFileError(
        path,
        problem,
        given=given,
        accepted=f"an unedited pytest-tenpak baseline of schema version 1 to {SCHEMA_VERSION}",
        remedy="restore it with git, or delete it and run again to create it",
    )


def _version(plain: Any, path: Path) -> int:
    version = plain.get("schema_version") if isinstance(plain, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        refuse(path, "has no known schema_version", f"schema_version {version!r}"[:100])
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
    """Convert the values of :func:`load` to this schema version."""
    for step in _MIGRATIONS[plain["schema_version"] - 1 :]:
        plain = step(plain)
    return plain


def _from_1(plain: dict[str, Any]) -> dict[str, Any]:
    """Convert version 1 to version 2, which adds the kind of KLD, and layers and a reason to anchors.

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
                "layers": layers,  # version 1 did not store the anchor's own
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


#: Each converts from one version to the next.
_MIGRATIONS: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (_from_1,)


# ---------------------------------------------------------------- writing


def render(case: str, entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Render the text of a baseline file: sorted keys, fixed digits, arrays of figures on one line."""
    signed = {}
    for name, entry in entries.items():
        stored = json.loads(_render(entry))
        signed[name] = {**entry, "digest": _digest(name, stored)}
    return _render({"schema_version": SCHEMA_VERSION, "case": case, "entries": signed}) + "\n"


def _digest(device_class: str, entry: Mapping[str, Any]) -> str:
    """Digest an entry's stored values with its device class: an edit, or another class, changes it."""
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
