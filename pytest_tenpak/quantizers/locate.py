"""Where a quantizer's class is found again, by another process."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

from ..errors import SpecError
from .base import Quantizer


def locate(quantizer: Quantizer) -> dict[str, str]:
    """Where a worker process finds a quantizer's class again: module, file and qualified name."""
    kind = type(quantizer)
    return {
        "module": kind.__module__,
        "file": inspect.getsourcefile(kind) or "",
        "qualname": kind.__qualname__,
    }


def relocate(place: dict[str, str]) -> Quantizer:
    """The quantizer that :func:`locate` described, imported by name or, for a conftest, from its file."""
    module = _import(place["module"], place["file"])
    target: Any = module
    for name in place["qualname"].split("."):
        target = getattr(target, name)
    quantizer: Quantizer = target()
    return quantizer


def _import(name: str, file: str) -> Any:
    if name.startswith(f"{__package__}."):  # ours, from wherever this process imports the package
        return importlib.import_module(name)
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is not None and found.origin and file and Path(found.origin).samefile(file):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(f"tenpak_registered_{Path(file).stem}", file)
    if spec is None or spec.loader is None:
        raise SpecError(f"the worker cannot load {name} again", given=file, accepted="an importable module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
