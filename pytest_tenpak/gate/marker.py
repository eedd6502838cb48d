"""What a ``quantize`` marker may say, checked at collection, and the case it stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..baselines.names import derived_name, name_on
from ..errors import SpecError
from ..quantizers.base import Quantizer
from ..quantizers.presets import PRESETS
from ..quantizers.registry import Registry
from ..spec import CHECKPOINT, QuantizeSpec, nearest
from ..verdict.checks import Limits, Tolerances
from .arguments import ARGUMENTS, Group, fields_of
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
    _require_known(given, quantizer)
    values = {
        name: argument.value(given.get(name, defaults.get(name, argument.default)))
        for name, argument in ARGUMENTS.items()
    }
    if quantizer is None or not quantizer.calibrates:
        values["calibration"] = None
    return Case(
        nodeid=nodeid,
        file=file,
        line=line,
        name=_baseline_name(values["baseline"], nodeid),
        checkpoint=values["checkpoint"],
        spec=spec,
        limits=Limits(**fields_of(Group.LIMIT, values)),
        tolerances=Tolerances(**fields_of(Group.TOLERANCE, values)),
        **fields_of(Group.CASE, values),
    )


def _require_known(given: Mapping[str, Any], quantizer: Quantizer | None) -> None:
    """Refuse an argument that neither every marker nor the method has."""
    names = [*ARGUMENTS, *(option.name for option in (quantizer.options if quantizer else ()))]
    for name, value in given.items():
        if name not in names:
            raise SpecError(
                f"the marker has no argument {name!r}{nearest(name, names)}",
                given=f"{name}={value!r}",
                accepted=", ".join(sorted(names)),
                remedy="correct the name, or remove it",
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
    """The names of all baselines that a marked test uses, one for each corpus.

    Only what bears on names is read, so that no method has to be known. Raises SpecError where that is wrong.
    """
    name = _baseline_name(ARGUMENTS["baseline"].value(given.get("baseline")), nodeid)
    further = ARGUMENTS["corpus"].value(given["corpus"])[1:] if "corpus" in given else ()
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
