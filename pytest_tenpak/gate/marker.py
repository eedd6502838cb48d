"""Reading ``quantize`` markers at collection: arguments are checked, and make a case."""

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
    """Make the case that a marker's arguments describe.

    ``defaults`` holds values from the command line or ini for arguments that the marker leaves out. Raises
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
    if quantizer is None or not quantizer.needs_calibration(spec):
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
    """Raise SpecError for an argument that is neither one of the marker nor an option of the method."""
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
    """Return the names of a marker's method: as given, and the method of a preset."""
    name = str(given.get("method", CHECKPOINT))
    return {name, PRESETS.get(name, (name,))[0]}


def require_methods(names: Iterable[str], registry: Registry) -> None:
    """Raise SpecError for a name in ``--tenpak-methods`` that is neither a method nor a preset."""
    for name in names:
        if name not in PRESETS and name != CHECKPOINT:
            try:
                registry[name]
            except SpecError as error:
                raise error.asked_by("--tenpak-methods") from None


def _read_spec(given: Mapping[str, Any], registry: Registry) -> tuple[Quantizer | None, QuantizeSpec]:
    """Return the spec, and the quantizer of its method; None for a checkpoint that was made elsewhere."""
    method, checkpoint = given.get("method"), given.get("checkpoint")
    if (method is None) == (checkpoint is None):
        raise SpecError(
            "the marker needs one of method and checkpoint" + ("" if method is None else ", not both"),
            given=", ".join(f"{k}={v!r}" for k, v in given.items()) or "no arguments",
            accepted=f"method= one of {', '.join(registry)}; or checkpoint= a directory",
            remedy="name the method to quantize with, or the checkpoint to gate",
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
    names = {option.name for option in quantizer.options}
    declared = {name: value for name, value in options.items() if name in names}
    spec = QuantizeSpec.build(quantizer.method, quantizer.options, declared)
    if given.get("calibration") is not None and not quantizer.needs_calibration(spec):
        raise SpecError(
            f"method {method!r} does not calibrate" + (" with these options" if quantizer.calibrates else ""),
            given=f"calibration={given['calibration']!r}",
            remedy="leave calibration out",
        )
    return quantizer, spec


def _baseline_name(wanted: str | None, nodeid: str) -> str:
    """Return the baseline's path without ``.json``: from the marker, or derived from the test's id."""
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
    """Return the names of all baselines that a marked test uses, one for each corpus.

    Only the arguments that determine names are read, so the method need not be known. Raises SpecError where
    one of these is wrong.
    """
    name = _baseline_name(ARGUMENTS["baseline"].value(given.get("baseline")), nodeid)
    further = ARGUMENTS["corpus"].value(given["corpus"])[1:] if "corpus" in given else ()
    return [name, *(name_on(name, corpus) for corpus in further)]


def marker_ids(markers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a readable id for each of several markers on one test: the method, then what differs."""
    heads = [str(given.get("method") or given.get("checkpoint") or "?") for given in markers]
    ids = []
    for head, given in zip(heads, markers, strict=True):
        same = [other for name, other in zip(heads, markers, strict=True) if name == head]
        differing = [
            f"{name}={value}"
            for name, value in given.items()
            if any(other.get(name) != value for other in same)
        ]
        ids.append("-".join([head.rstrip("/").rpartition("/")[2], *differing]))
    return ids
