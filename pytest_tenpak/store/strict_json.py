"""JSON from outside, read strictly: finite numbers, no duplicate fields, valid by its schema."""

from __future__ import annotations

import json
import math
from functools import cache
from importlib import resources
from typing import Any, NoReturn


def parse_json(text: str) -> Any:
    """Parse a JSON text; raise ValueError also for numbers that are not finite and for duplicate fields."""
    return json.loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_once)


@cache
def published_schema(package: str, name: str) -> dict[str, Any]:
    """Load the JSON Schema ``schemas/NAME.json`` of a package."""
    source = resources.files(package).joinpath(f"schemas/{name}.json")
    schema: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    return schema


def schema_fault(plain: Any, package: str, name: str) -> tuple[str, str] | None:
    """Return the dotted path and the message of the worst violation of a package's schema, None if valid."""
    import jsonschema  # here, since a run that reads no such file should not pay for the import

    validator = jsonschema.Draft202012Validator(published_schema(package, name))
    fault = jsonschema.exceptions.best_match(validator.iter_errors(plain))
    if fault is None:
        return None
    return ".".join(str(step) for step in fault.absolute_path) or "top level", fault.message[:300]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a finite number")


def _finite(digits: str) -> float:
    figure = float(digits)
    if not math.isfinite(figure):
        raise ValueError(f"{digits[:40]} is out of range")
    return figure


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; raise ValueError for a duplicate field, which a careless merge leaves."""
    plain = dict(pairs)
    if len(plain) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate field {next(name for name in names if names.count(name) > 1)!r}")
    return plain
