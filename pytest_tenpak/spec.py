"""The quantization spec: a method with its options, and how each value is validated."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

from .errors import SpecError
from .store.digest import fingerprint

#: The method name of a checkpoint that was quantized elsewhere.
CHECKPOINT = "checkpoint"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``'; did you mean 'x'?'`` for the closest known word, or an empty string when none is close."""
    match = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {match[0]!r}?" if match else ""


def finite(value: Any) -> float | None:
    """Return a real number, numpy's too, as a float; None for a bool, and for what no float can be."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number may have any length
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class Option:
    """One named value that a method, a marker or an ini file accepts.

    ``kind`` is ``bool``, ``int``, ``float``, ``str`` or ``tuple`` (of strings). ``minimum``
    and ``maximum`` are inclusive, ``above`` and ``below`` are not. A default of None means that the value
    may be left out. With ``by_module`` a mapping from parts of module names to such values is accepted too:
    :func:`for_module` looks in it.
    """

    name: str
    kind: type
    default: Any
    help: str
    choices: tuple[Any, ...] | None = None
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None
    excluded: tuple[Any, ...] = ()
    by_module: bool = False

    def accepted(self) -> str:
        """Describe the accepted values, for an error message or a table."""
        if self.choices is not None:
            return "one of " + ", ".join(repr(choice) for choice in self.choices)
        words = {
            bool: "True or False",
            int: "a whole number",
            float: "a number",
            str: "a string",
            tuple: "a list of names",
        }
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (
                ("at least", self.minimum),
                ("above", self.above),
                ("at most", self.maximum),
                ("below", self.below),
            )
            if bound is not None
        ]
        bounds += [f"not {value!r}" for value in self.excluded]
        each = " ".join([words[self.kind], " and ".join(bounds)]).strip()
        return f"{each}; or a mapping from parts of module names to such" if self.by_module else each

    def validate(self, value: Any) -> Any:
        """Return the value in its own type; raise SpecError with what was given and what is accepted."""
        if value is None and self.default is None:
            return None
        if self.by_module and isinstance(value, Mapping):
            return self._each(value)
        typed = self._typed(value)
        within = (
            typed is not None
            and (self.choices is None or typed in self.choices)
            and (self.minimum is None or typed >= self.minimum)
            and (self.above is None or typed > self.above)
            and (self.maximum is None or typed <= self.maximum)
            and (self.below is None or typed < self.below)
            and typed not in self.excluded
        )
        if within:
            return typed
        hint = nearest(value, map(str, self.choices)) if isinstance(value, str) and self.choices else ""
        raise SpecError(
            f"{self.name}={value!r} is not accepted{hint}",
            given=f"{value!r} ({type(value).__name__})",
            accepted=self.accepted(),
            remedy=f"{self.name}: {self.help}",
        )

    def _each(self, values: Mapping[Any, Any]) -> dict[str, Any]:
        """Return a mapping from parts of module names, each value in the option's type."""
        if not values or not all(isinstance(part, str) and part for part in values):
            raise SpecError(
                f"{self.name}={values!r} is not accepted",
                given=repr(values),
                accepted=self.accepted(),
                remedy=f"for example {self.name}={{'attn': …, '*': …}}, where '*' is for all others",
            )
        return {
            part: replace(self, name=f"{self.name}[{part!r}]", by_module=False).validate(value)
            for part, value in sorted(values.items())
        }

    def _typed(self, value: Any) -> Any:
        """Return ``value`` if it has this option's type (an int may stand for a float), else None."""
        if self.kind is float:
            return finite(value)
        if self.kind is int:
            return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
        if self.kind is tuple:
            names = isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)
            return tuple(value) if names else None
        return value if isinstance(value, self.kind) else None


def for_module(option: str, value: Any, module: str) -> Any:
    """Return an option's value for a module: of the longest part of its name in a mapping, else of ``*``.

    Raises SpecError where the mapping has neither.
    """
    if not isinstance(value, Mapping):
        return value
    part = max((one for one in value if one in module), key=lambda one: (len(one), one), default="*")
    if part not in value:
        raise SpecError(
            f"{option} has no value for {module}",
            given=f"{option}={dict(value)!r}",
            accepted="parts of names for every module, or '*' for all others",
            remedy=f"add '*' to {option}, or the part that is missing",
        )
    return value[part]


@dataclass(frozen=True)
class QuantizeSpec:
    """A method and all of its options, defaults included; never adjusted after validation."""

    method: str
    options: Mapping[str, Any]

    @classmethod
    def build(cls, method: str, declared: Iterable[Option], given: Mapping[str, Any]) -> QuantizeSpec:
        """Validate ``given`` against the options that the method declares, and fill in defaults.

        Raises SpecError for an unknown option (with the nearest match) or a value not accepted.
        """
        options = {option.name: option for option in declared}
        for name in given:
            if name not in options:
                raise SpecError(
                    f"method {method!r} has no option {name!r}{nearest(name, options)}",
                    given=f"{name}={given[name]!r}",
                    accepted=", ".join(sorted(options)) or "no options",
                    remedy="remove it, or choose a method that has it",
                )
        values = {
            name: option.validate(given[name]) if name in given else option.default
            for name, option in options.items()
        }
        return cls(method, MappingProxyType(dict(sorted(values.items()))))

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form, which baselines store as identity and cache keys include."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in self.options.items()}
        return {"method": self.method, "options": plain}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> QuantizeSpec:
        """Return the spec that :meth:`to_dict` wrote (lists become tuples again)."""
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in plain["options"].items()}
        return cls(plain["method"], MappingProxyType(options))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the plain form: equal specs, equal fingerprints."""
        return fingerprint(self.to_dict())

    @property
    def title(self) -> str:
        """The method, and its backend where there is a choice of backends."""
        backend = self.options.get("backend")
        return f"{self.method} ({backend})" if backend else self.method

    def __str__(self) -> str:
        shown = ", ".join(f"{k}={v}" for k, v in self.options.items() if v not in (None, (), False))
        return f"{self.method}({shown})" if shown else self.method
