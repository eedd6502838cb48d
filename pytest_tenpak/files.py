"""Files: found inside installed packages, and written so that nobody ever reads half of one."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import re
import tempfile
import time
from contextlib import suppress
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

#: What a killed writer leaves behind, as mkstemp names it, and how old (seconds) no living one's is.
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")
_ABANDONED_AFTER = 60.0


def write_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text through a temporary file in the same folder, synced, then renamed over ``path``.

    A reader, or a run killed at any moment, finds the old file or the new one and nothing between.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:64]}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sweep_temporaries(folder: Path) -> None:
    """Remove the temporary files that killed writers left in a folder."""
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):  # another run may sweep the same folder
            if _TEMPORARY.fullmatch(path.name) and time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
                path.unlink()


def parse_json(text: str) -> Any:
    """What a JSON text says; raises ValueError too for figures that are not finite, and doubled fields."""
    return json.loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_once)


@cache
def published_schema(name: str) -> dict[str, Any]:
    """The JSON Schema ``schemas/NAME.json`` of this package."""
    source = resources.files(__package__).joinpath(f"schemas/{name}.json")
    schema: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    return schema


def schema_fault(plain: Any, name: str) -> tuple[str, str] | None:
    """Where ``plain`` departs from a published schema, dotted, and how; None where it does not."""
    import jsonschema  # here, since a run that reads no such file should not pay for it

    validator = jsonschema.Draft202012Validator(published_schema(name))
    fault = jsonschema.exceptions.best_match(validator.iter_errors(plain))
    if fault is None:
        return None
    return ".".join(str(step) for step in fault.absolute_path) or "top level", fault.message[:300]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a figure")


def _finite(digits: str) -> float:
    figure = float(digits)
    if not math.isfinite(figure):
        raise ValueError(f"{digits[:40]} is out of range")
    return figure


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, whose fields a careless merge may not have doubled."""
    plain = dict(pairs)
    if len(plain) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return plain


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def installed_file(reference: str) -> Path | None:
    """The file that ``package:NAME/FILE`` names, found without importing it; None for another form."""
    if not reference.startswith("package:"):
        return None
    package, _, inner = reference.removeprefix("package:").partition("/")
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        found = None
    if found is None or not found.submodule_search_locations:
        return Path(f"<package {package} is not installed>") / inner
    return Path(next(iter(found.submodule_search_locations))) / inner


def portable_name(text: str) -> str:
    """``text`` as a portable file name; what had to be changed or cut is told apart by a digest."""
    plain = re.sub(r"[^\w.=,+-]", "_", text, flags=re.ASCII)[:100].lstrip(".") or "_"
    return plain if plain == text else f"{plain}.{hashlib.sha256(text.encode()).hexdigest()[:8]}"
