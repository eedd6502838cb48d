"""Where a quantizer's class is defined, so that another process can load it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SpecError
from .base import Quantizer


@dataclass(frozen=True)
class Place:
    """Where a class is defined: dotted module, source file, qualified name."""

    module: str
    file: str
    qualname: str

    @property
    def is_installed(self) -> bool:
        """Whether the file belongs to the packages of this interpreter."""
        folders = {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")}
        return any(Path(self.file).is_relative_to(folder) for folder in folders)

    @property
    def is_ours(self) -> bool:
        """Whether the class belongs to this package, wherever that is imported from."""
        return self.module.startswith(f"{__package__}.")


def locate(quantizer: Quantizer) -> Place:
    """Return where a worker process finds a quantizer's class."""
    kind = type(quantizer)
    return Place(kind.__module__, inspect.getsourcefile(kind) or "", kind.__qualname__)


def relocate(place: Place) -> Quantizer:
    """Load the quantizer that :func:`locate` found, by name or, for a conftest, from its file."""
    target: Any = _import(place)
    for name in place.qualname.split("."):
        target = getattr(target, name)
    quantizer: Quantizer = target()
    return quantizer


def _import(place: Place) -> Any:
    name, file = place.module, place.file
    if place.is_ours:
        return importlib.import_module(name)
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    # Where another machine has no such file, it may have the package that the file belongs to.
    is_there = bool(file) and Path(file).is_file()
    if found is not None and found.origin and file and (not is_there or Path(found.origin).samefile(file)):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(f"tenpak_registered_{Path(file).stem}", file)
    if not is_there or spec is None or spec.loader is None:
        raise SpecError(
            f"the worker process cannot import {name}", given=file, accepted="an importable module"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
