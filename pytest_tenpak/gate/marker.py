"""What a ``quantize`` marker may say, checked at collection, and the case it stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..baselines.names import derived_name, name_on
from ..errors import SpecError
from ..metrics.measurement import HEADLINE, RATIOS
from ..quantizers.base import Quantizer
from ..quantizers.presets import PRESETS
from ..quantizers.registry import Registry
from ..spec import CHECKPOINT, QuantizeSpec, nearest
from ..verdict.checks import Limits, Tolerances
from .arguments import ARGUMENTS
from .case import Case

_BASELINE_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")


def read_marker(
    args: Sequence[Any],
    given: Mapping[str, Any],
    *,
    registry: Registry,
    defaults: Mapping[str, Any],
    nodeid: str,
    file: str,
    line: int,
) -> Case:
    """The case that a marker's arguments stand for.

    ``defaults`` holds values from the command line or ini for arguments the marker leaves out. Raises
    SpecError naming the argument, what was given and accepted, and what to do.
    """
    if args:
        raise SpecError(
            "the marker takes keyword arguments only",
            given=", ".join(map(repr, args)),
            remedy=f"write @pytest.mark.quantize(method={args[0]!r}, …)",
        )
    quantizer, spec = _read_spec(given, registry)
    options = {option.name for option in quantizer.options} if quantizer else set()
    known = {option.name: option for option in ARGUMENTS}
    values = {name: defaults.get(name, option.default) for name, option in known.items()}
    for name, value in given.items():
        if name in known and name not in ("min_compression", "corpus"):
            values[name] = known[name].validate(value)
        elif name not in known and name not in options:
            names = [*known, *options]
            raise SpecError(
                f"the marker has no argument {name!r}{nearest(name, names)}",
                given=f"{name}={value!r}",
                accepted=", ".join(sorted(names)),
                remedy="correct the name, or remove it",
            )
    if quantizer is None or not quantizer.calibrates:
        values["calibration"] = None
    values["corpus"] = _read_corpora(given.get("corpus", values["corpus"]))
    return Case(
        nodeid=nodeid,
        file=file,
        line=line,
        name=_baseline_name(values["baseline"], nodeid),
        spec=spec,
        limits=Limits(
            min_compression=_read_compression(given.get("min_compression")),
            **{name: values[name] for name in ("max_ppl_delta", "max_kld", "min_top1", "max_rtn_factor")},
        ),
        tolerances=Tolerances(
            drift=values["drift_limit"],
            **{
                name: values[f"{name}_tolerance"] for name in ("ppl", "same_weights", "layers", "compression")
            },
        ),
        **{
            name: values[name]
            for name in (
                "model",
                "checkpoint",
                "corpus",
                "calibration",
                "protocol",
                "context",
                "stride",
                "max_tokens",
                "dtype",
                "may_skip",
            )
        },
    )


def methods_of(given: Mapping[str, Any]) -> set[str]:
    """The names that a marker's method goes by: what it says, and the method that a preset stands for."""
    said = str(given.get("method", CHECKPOINT))
    return {said, PRESETS.get(said, (said,))[0]}


def require_methods(names: Iterable[str], registry: Registry) -> None:
    """Raise SpecError where one of the names that ``--tenpak-methods`` gives is no method and no preset."""
    for name in names:
        if name not in PRESETS and name != CHECKPOINT:
            try:
                registry[name]
            except SpecError as error:
                raise error.asked_by("--tenpak-methods") from None


def _read_spec(given: Mapping[str, Any], registry: Registry) -> tuple[Quantizer | None, QuantizeSpec]:
    """The spec, and the quantizer of its method; none for a checkpoint that somebody else made."""
    method, checkpoint = given.get("method"), given.get("checkpoint")
    if (method is None) == (checkpoint is None):
        raise SpecError(
            "the marker needs one of method and checkpoint" + ("" if method is None else ", not both"),
            given=", ".join(f"{k}={v!r}" for k, v in given.items()) or "no arguments",
            accepted=f"method= one of {', '.join(registry)}; or checkpoint= a directory",
            remedy="say what to quantize with, or which checkpoint to gate",
        )
    if checkpoint is not None:
        return None, QuantizeSpec.build(CHECKPOINT, (), {})
    if not isinstance(method, str):
        raise SpecError(
            f"method={method!r} is not accepted",
            given=f"{method!r} ({type(method).__name__})",
            accepted=", ".join(registry),
        )
    quantizer, options = registry.expand(method, given)
    if given.get("calibration") is not None and not quantizer.calibrates:
        raise SpecError(
            f"method {method!r} does not calibrate",
            given=f"calibration={given['calibration']!r}",
            remedy="leave calibration out",
        )
    names = {option.name for option in quantizer.options}
    declared = {name: value for name, value in options.items() if name in names}
    return quantizer, QuantizeSpec.build(quantizer.method, quantizer.options, declared)


def _read_corpora(given: Any) -> tuple[str, ...]:
    """``corpus``: one text, or several, each measured and checked by itself."""
    corpora = tuple(given) if isinstance(given, (list, tuple)) else (given,)
    fine = all(isinstance(name, str) and name for name in corpora)
    if not corpora or not fine or len(set(corpora)) != len(corpora):
        raise SpecError(
            f"corpus={given!r} is not accepted",
            given=repr(given),
            accepted="one text, or a list of different ones",
            remedy="for example corpus='shakespeare', or corpus=['shakespeare', 'docs/manual.txt']",
        )
    return corpora


def _read_compression(given: Any) -> dict[str, float]:
    """``min_compression``: a number means the headline ratio, a mapping names its denominators."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        given = {HEADLINE: given}
    for name, value in given.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name not in RATIOS or not number or not 0 < value < float("inf"):
            raise SpecError(
                f"min_compression={given!r} is not accepted{nearest(str(name), RATIOS)}",
                given=f"{name!r}: {value!r}",
                accepted=f"a number above 0 ({RATIOS[HEADLINE]}), or a mapping from {', '.join(RATIOS)}",
                remedy=f"for example min_compression=2.2, or min_compression={{'{HEADLINE}': 2.2}}",
            )
    return {name: float(value) for name, value in given.items()}


def _baseline_name(wanted: str | None, nodeid: str) -> str:
    """The baseline's path without ``.json``: the marker's own, or one made from the test's id."""
    if wanted is not None:
        if not _BASELINE_NAME.fullmatch(wanted):
            raise SpecError(
                f"baseline={wanted!r} is not a name",
                given=wanted,
                accepted="letters, digits, '_', '-' and '.', in folders separated by '/'",
            )
        return wanted
    return derived_name(nodeid)


def claimed_names(given: Mapping[str, Any], nodeid: str) -> list[str]:
    """The names of all baselines that a marked test answers to, one for each corpus.

    Only what bears on names is read, so that no method has to be known. Raises SpecError where that is wrong.
    """
    wanted = next(option for option in ARGUMENTS if option.name == "baseline").validate(given.get("baseline"))
    name = _baseline_name(wanted, nodeid)
    further = _read_corpora(given["corpus"])[1:] if "corpus" in given else ()
    return [name, *(name_on(name, corpus) for corpus in further)]


def marker_ids(markers: Sequence[Mapping[str, Any]]) -> list[str]:
    """A readable id for each of several markers on one test: the method, then what tells it apart."""
    heads = [str(given.get("method") or given.get("checkpoint") or "?") for given in markers]
    ids = []
    for head, given in zip(heads, markers, strict=True):
        same = [other for name, other in zip(heads, markers, strict=True) if name == head]
        told = [
            f"{name}={value}"
            for name, value in given.items()
            if any(other.get(name) != value for other in same)
        ]
        ids.append("-".join([head.rstrip("/").rpartition("/")[2], *told]))
    return ids
