"""The recipes that ``tenpak recommend`` tries: what the registered methods declare, cheapest first.

Nothing here names a method: the defaults, the presets, and values of the options that trade size for quality.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from math import gcd
from typing import Any

from ..errors import SpecError, TenpakError, UnavailableError
from ..gate.case import Case
from ..gate.experiment import Experiment
from ..gate.inputs import find_source, set_up
from ..gate.marker import methods_of, read_marker
from ..models.model import Model
from ..models.safetensors_files import read_tensors
from ..quantizers.base import Quantizer
from ..quantizers.presets import PRESETS
from ..quantizers.registry import Registry
from ..spec import Option, QuantizeSpec
from ..verdict.advice import LeftOut

#: Options that say how many weights share a scale, and the sizes to try: below 32 a scale costs half a bit a
#: weight and more, above 128 presets say where it pays. Of those that divide the model's widths the largest
#: two, since these are compared at every width, and each costs a quantization.
_SHARING, _SIZES, _MOST = ("group_size", "blocksize"), (128, 64, 32), 2
#: Further values to try, of options that make a checkpoint smaller.
_SMALLER: Mapping[str, Any] = {"double_quant": True}
#: Searches that cost time and hardly a bit, all of them at once.
_SEARCHED: Mapping[str, Any] = {"activation_scaling": True, "clip": True}


class Cost(IntEnum):
    """What quantizing costs, by what a method declares: it is the order in which recipes are tried."""

    #: Weights alone are read: seconds.
    ROUNDS = 0
    #: Text runs through the model, layer by layer: minutes.
    CALIBRATES = 1
    #: And many scales are tried on it: many minutes.
    SEARCHES = 2

    @classmethod
    def of(cls, quantizer: Quantizer, spec: QuantizeSpec) -> Cost:
        """Return the cost of a method with its options."""
        if not quantizer.needs_calibration(spec):
            return cls.ROUNDS
        return cls.SEARCHES if quantizer.moves_scales else cls.CALIBRATES


#: Seconds for each million weights before anything was quantized here, from docs/methods.md (two CPU cores);
#: the first recipe of a method replaces it. A GPU takes about a tenth.
_SECONDS: Mapping[Cost, float] = {Cost.ROUNDS: 0.4, Cost.CALIBRATES: 2.0, Cost.SEARCHES: 6.0}
_GPU = 0.1
#: Seconds that a process takes to start and to import its libraries.
STARTING = 8.0


@dataclass(frozen=True)
class Question:
    """What recipes are to meet, and on what they are measured.

    ``common`` has the arguments that all markers share: the bounds, and the model where it is named.
    ``defaults`` are those of the suite. ``methods`` restricts the methods or presets, where there are any.
    """

    common: Mapping[str, Any]
    defaults: Mapping[str, Any]
    methods: frozenset[str] = frozenset()

    def case(self, given: Mapping[str, Any], registry: Registry) -> Case:
        """Make the case of a marker; raises SpecError."""
        arguments = {**given, **self.common}
        return read_marker(
            (),
            arguments,
            registry=registry,
            defaults=self.defaults,
            nodeid="recommend.py::test_recipe",
            file="recommend.py",
            line=1,
        )


@dataclass(frozen=True)
class Candidate:
    """A recipe that can run here: ``given`` are the arguments of its marker but for the bounds."""

    given: Mapping[str, Any]
    experiment: Experiment
    quantizer: Quantizer

    @property
    def name(self) -> str:
        """The method or preset, and the options that are not the default."""
        return recipe_name(self.given)

    @property
    def cost(self) -> Cost:
        """What quantizing costs."""
        return Cost.of(self.quantizer, self.experiment.case.spec)

    @property
    def expected_seconds(self) -> float:
        """How long quantizing may take, before anything is known."""
        weights = sum(tensor.numel for tensor in read_tensors(self.experiment.model.path).values())
        factor = _GPU if self.experiment.device.family == "cuda" else 1.0
        return STARTING + factor * _SECONDS[self.cost] * weights / 1e6


def recipe_name(given: Mapping[str, Any]) -> str:
    """Return a recipe's name: ``nf4, blocksize=32``."""
    options = (f"{name}={value!r}" for name, value in given.items() if name != "method")
    return ", ".join([str(given["method"]), *options])


def find_candidates(question: Question, base: Experiment) -> tuple[list[Candidate], list[LeftOut]]:
    """Return the recipes that can run here, cheapest first, and those that cannot, with why.

    ``base`` has the model and the text, which all share. Raises what :func:`set_up` raises for a calibration
    text that cannot be used, UnavailableError where no recipe can run.
    """
    found: dict[str, Candidate] = {}
    left_out: dict[str, list[str]] = {}
    run, texts = base.run, None
    for given in recipes(run.registry, base.model, question.methods):
        try:
            case = question.case(given, run.registry)
            if case.spec.fingerprint in found:
                continue  # a preset's options may be what is tried anyway
            if case.calibration and texts is None:
                texts = set_up(case, run, base.device)[0].calibration
            experiment = replace(base, case=case, calibration=texts if case.calibration else None)
            source = find_source(experiment)
        except (SpecError, UnavailableError) as error:
            left_out.setdefault(_reason(error), []).append(recipe_name(given))
            continue
        assert isinstance(source, Quantizer)
        found[case.spec.fingerprint] = Candidate(given, experiment, source)
    missing = [LeftOut(tuple(names), reason) for reason, names in left_out.items()]
    if not found:
        raise UnavailableError(
            "no recipe can run here",
            given="; ".join(f"{', '.join(one.names)}: {one.problem}" for one in missing) or None,
            remedy="install a library that quantizes (tenpak doctor lists them), or name other --methods",
        )
    return sorted(found.values(), key=lambda one: one.cost), missing


def _reason(error: TenpakError) -> str:
    is_missing = isinstance(error, UnavailableError) and error.remedy
    return f"{error.problem} ({error.remedy})" if is_missing else error.problem


def recipes(registry: Registry, model: Model, methods: Collection[str] = ()) -> Iterator[Mapping[str, Any]]:
    """Yield the arguments of each recipe's marker: defaults and variations of all methods, then presets.

    ``methods`` names methods, with which their presets go, or single presets; empty: all.
    """
    every = [given for method in registry for given in _variations(registry[method], model)]
    every += [{"method": preset} for preset in PRESETS]
    for given in every:
        if not methods or methods_of(given) & set(methods):
            yield given


def _variations(quantizer: Quantizer, model: Model) -> Iterator[Mapping[str, Any]]:
    """Yield a method as it is, with one option changed, and with its searches."""
    plain = {"method": quantizer.method}
    yield plain
    common = gcd(*model.widths.values())
    divisors = [size for size in _SIZES if common % size == 0][:_MOST]
    for option in quantizer.options:
        sizes = divisors if option.name in _SHARING else []
        further = [_SMALLER[option.name]] if option.name in _SMALLER else []
        for value in (*sizes, *further):
            if value != option.default and _accepts(option, value):
                yield {**plain, option.name: value}
    defaults = {option.name: option.default for option in quantizer.options}
    searched = {name: value for name, value in _SEARCHED.items() if defaults.get(name, value) != value}
    if searched:
        yield {**plain, **searched}


def _accepts(option: Option, value: Any) -> bool:
    """Whether a method's option of that name takes such a value."""
    try:
        option.validate(value)
    except SpecError:
        return False
    return True
