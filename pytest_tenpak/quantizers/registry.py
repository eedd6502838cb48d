"""The registry of quantizers: ours, and those that plugins and conftests register by hook."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import SpecError, UnavailableError
from ..spec import CHECKPOINT, nearest
from .awq import Awq
from .base import Backend, Quantizer
from .bitsandbytes import Int8, Nf4
from .fp16 import Fp16
from .gptq import Gptq
from .interpreters import Interpreters
from .presets import PRESETS

_OURS: tuple[type[Quantizer], ...] = (Gptq, Awq, Nf4, Int8, Fp16)


class Registry:
    """Methods by name, and where their backends are installed."""

    def __init__(
        self, quantizers: Iterable[type[Quantizer]] = _OURS, interpreters: Interpreters | None = None
    ) -> None:
        self._quantizers: dict[str, type[Quantizer]] = {}
        self._interpreters = interpreters or Interpreters({})
        for quantizer in quantizers:
            self.register(quantizer)

    def register(self, quantizer: type[Quantizer]) -> None:
        """Add a Quantizer class under its ``method``; raises SpecError if it is none or the name is taken."""
        if not (inspect.isclass(quantizer) and issubclass(quantizer, Quantizer)):
            raise SpecError(
                "only a subclass of pytest_tenpak.Quantizer can be registered",
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
        if method == CHECKPOINT or method in PRESETS or known is not quantizer:
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
                f"there is no method {method!r}{nearest(method, [*self._quantizers, *PRESETS])}",
                given=f"method={method!r}",
                accepted=f"{', '.join(self)}; or a preset: {', '.join(PRESETS)}",
                remedy="use one of these, or register it with pytest_tenpak_register_quantizers",
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._quantizers))

    def require_interpreters_known(self) -> None:
        """Raise SpecError where an interpreter was named for a backend that no method has."""
        known = {backend.name for method in self for backend in self[method].choices()}
        for name in self._interpreters.unknown_backends(known):
            raise SpecError(
                f"an interpreter is named for {name!r}, which no method uses{nearest(name, known)}",
                accepted=", ".join(sorted(known)),
                remedy="correct the name in --tenpak-python, or in the ini's tenpak_python",
            )

    def expand(self, method: str, given: Mapping[str, Any]) -> tuple[Quantizer, dict[str, Any]]:
        """The quantizer of a method or preset, and the options in force: given, fixed, or found out.

        A backend that is not named is the first of the method's that is installed, so that the spec
        says which one it was. Raises SpecError where a preset and an option contradict each other.
        """
        base, fixed = PRESETS.get(method, (method, {}))
        clash = {name: value for name, value in fixed.items() if given.get(name, value) != value}
        for name, value in clash.items():
            raise SpecError(
                f"preset {method!r} and {name}={given[name]!r} contradict each other",
                given=f"method={method!r}, {name}={given[name]!r}",
                accepted=f"{name}={value!r}, which the preset stands for",
                remedy=f"leave {name} out, or use method={base!r}",
            )
        quantizer = self[base]
        options = {**given, **fixed}
        if quantizer.backends and options.get("backend") is None:
            options["backend"] = self._installed_backend(quantizer)
        return quantizer, options

    def _installed_backend(self, quantizer: Quantizer) -> str:
        """The first backend whose libraries are there; the preferred one when none is."""
        for backend in quantizer.backends:
            with suppress(UnavailableError):  # an interpreter that was named and is not there
                if self._interpreters.versions(backend.name, *backend.requires).keys() >= {*backend.requires}:
                    return backend.name
        return quantizer.backends[0].name


#: By ``quant_method`` in a checkpoint's config.json: the library that transformers loads it with.
_LOADERS = {
    "gptq": Gptq.backends[0],
    "awq": Awq.backends[0],
    "bitsandbytes": Nf4().choices()[0],
}


def loading_backend(checkpoint: Path) -> Backend | None:
    """The library without which transformers cannot load a checkpoint that somebody else quantized.

    None where transformers does it alone, or where the format is not known here.
    """
    try:
        plain = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        return _LOADERS.get(plain["quantization_config"]["quant_method"])
    except (ValueError, LookupError, TypeError):
        return None
