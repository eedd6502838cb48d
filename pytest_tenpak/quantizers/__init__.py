"""The registry of quantizers: ours, and those that plugins and conftests register by hook."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import SpecError
from ..spec import CHECKPOINT, nearest
from .base import Job, Quantizer
from .bitsandbytes import Int8, Nf4

__all__ = ["Job", "Quantizer", "Registry", "locate", "relocate"]

_OURS: tuple[type[Quantizer], ...] = (Nf4, Int8)


class Registry:
    """Methods by name."""

    def __init__(self, quantizers: Iterable[type[Quantizer]] = _OURS) -> None:
        self._quantizers: dict[str, type[Quantizer]] = {}
        for quantizer in quantizers:
            self.register(quantizer)

    def register(self, quantizer: type[Quantizer]) -> None:
        """Add a Quantizer class under its ``method``; raises SpecError if it is none or the name is taken."""
        if not (inspect.isclass(quantizer) and issubclass(quantizer, Quantizer)):
            raise SpecError(
                "only a subclass of pytest_tenpak.quantizers.Quantizer can be registered",
                given=repr(quantizer),
                remedy="derive from Quantizer and pass the class, not an instance",
            )
        method = getattr(quantizer, "method", None)
        if not isinstance(method, str) or not method or inspect.isabstract(quantizer):
            raise SpecError(
                f"{quantizer.__qualname__} is not a whole quantizer",
                accepted="a class with a text `method` and a `quantize(job)`",
            )
        known = self._quantizers.setdefault(method, quantizer)
        if method == CHECKPOINT or known is not quantizer:
            raise SpecError(
                f"the method name {method!r} is taken",
                given=quantizer.__qualname__,
                remedy="give your quantizer's `method` another name",
            )

    def __getitem__(self, method: str) -> Quantizer:
        """The quantizer of a method, or SpecError with the nearest match."""
        try:
            return self._quantizers[method]()
        except KeyError:
            raise SpecError(
                f"there is no method {method!r}{nearest(method, self._quantizers)}",
                given=f"method={method!r}",
                accepted=", ".join(sorted(self._quantizers)),
                remedy="use one of these, or register it with pytest_tenpak_register_quantizers",
            ) from None

    def __iter__(self) -> Any:
        return iter(sorted(self._quantizers))


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
