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
from .int4.method import Int4
from .interpreters import Interpreters
from .presets import PRESETS

_OURS: tuple[type[Quantizer], ...] = (Gptq, Awq, Nf4, Int8, Int4, Fp16)


class Registry:
    """Methods by name, and the interpreters of their backends."""

    def __init__(
        self, quantizers: Iterable[type[Quantizer]] = _OURS, interpreters: Interpreters | None = None
    ) -> None:
        self._quantizers: dict[str, type[Quantizer]] = {}
        #: Where their backends are installed.
        self.interpreters = interpreters or Interpreters({})
        for quantizer in quantizers:
            self.register(quantizer)

    def register(self, quantizer: type[Quantizer]) -> None:
        """Add a Quantizer class under its ``method``; raise SpecError for another value or a taken name."""
        if not (inspect.isclass(quantizer) and issubclass(quantizer, Quantizer)):
            raise SpecError(
                "only a subclass of pytest_tenpak.Quantizer can be registered",
                given=repr(quantizer),
                remedy="derive from Quantizer and pass the class, not an instance",
            )
        method = getattr(quantizer, "method", None)
        if not isinstance(method, str) or not method or inspect.isabstract(quantizer):
            raise SpecError(
                f"{quantizer.__qualname__} is not a complete quantizer",
                accepted="a class with a string `method` and a `quantize(job)`",
            )
        known = self._quantizers.setdefault(method, quantizer)
        if method == CHECKPOINT or method in PRESETS or known is not quantizer:
            raise SpecError(
                f"the method name {method!r} is taken",
                given=quantizer.__qualname__,
                remedy="give your quantizer's `method` another name",
            )

    def __getitem__(self, method: str) -> Quantizer:
        """Return the quantizer of a method; raise SpecError with the nearest match for an unknown one."""
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
        """Raise SpecError where an interpreter was named for an unknown backend."""
        known = {backend.name for method in self for backend in self[method].choices()}
        for name in self.interpreters.unknown_backends(known):
            raise SpecError(
                f"an interpreter is named for {name!r}, which no method uses{nearest(name, known)}",
                accepted=", ".join(sorted(known)),
                remedy="correct the name in --tenpak-python, or in the ini's tenpak_python",
            )

    def expand(self, method: str, given: Mapping[str, Any]) -> tuple[Quantizer, dict[str, Any]]:
        """Return the quantizer of a method or preset, and its options: given, fixed by the preset, or chosen.

        A backend that is not given is the first of the method's that is installed, so that the spec
        records it. Raises SpecError where a preset and an option contradict each other.
        """
        base, fixed = PRESETS.get(method, (method, {}))
        clash = {name: value for name, value in fixed.items() if given.get(name, value) != value}
        for name, value in clash.items():
            raise SpecError(
                f"preset {method!r} and {name}={given[name]!r} contradict each other",
                given=f"method={method!r}, {name}={given[name]!r}",
                accepted=f"{name}={value!r}, as fixed by the preset",
                remedy=f"leave {name} out, or use method={base!r}",
            )
        quantizer = self[base]
        options = {**given, **fixed}
        if quantizer.backends and options.get("backend") is None:
            options["backend"] = self._installed_backend(quantizer)
        return quantizer, options

    def _installed_backend(self, quantizer: Quantizer) -> str:
        """Return the first backend whose libraries are installed; the preferred one when none is."""
        for backend in quantizer.backends:
            with suppress(UnavailableError):  # the interpreter that was named does not exist
                if self.interpreters.versions(backend.name, *backend.requires).keys() >= {*backend.requires}:
                    return backend.name
        return quantizer.backends[0].name


#: By ``quant_method`` in a checkpoint's config.json, the library with which transformers loads it.
_LOADERS = {
    "gptq": Gptq.backends[0],
    "awq": Awq.backends[0],
    "bitsandbytes": Nf4().choices()[0],
    "tenpak-int4": Int4().choices()[0],
}


def loading_backend(checkpoint: Path) -> Backend | None:
    """Return the library that transformers needs to load a checkpoint that was quantized elsewhere.

    None where transformers needs no other, or where the format is not known here.
    """
    try:
        plain = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        return _LOADERS.get(plain["quantization_config"]["quant_method"])
    except (ValueError, LookupError, TypeError):
        return None
