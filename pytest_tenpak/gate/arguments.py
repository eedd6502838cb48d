"""The arguments of the marker, stated once: type, default, bounds, help, and where each value goes.

The marker, and the settings that give defaults for its arguments, derive from this table. It imports little,
since every start of pytest reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from ..errors import SpecError
from ..evaluation.corpus import CALIBRATION, DEFAULT
from ..evaluation.protocol import PROTOCOLS
from ..metrics.measurement import HEADLINE, RATIOS
from ..metrics.speed import PHASES
from ..spec import Option, nearest
from ..verdict.checks import Limits, Tolerances

#: What an executor is asked for by other arguments, or always.
_OWN_RESOURCES = ("CPU", "GPU", "memory")


class Group(Enum):
    """What an argument's value belongs to."""

    #: The method or the checkpoint, and the baseline's name, which ``gate.marker`` reads itself.
    MARKER = "marker"
    CASE = "case"
    LIMIT = "limit"
    TOLERANCE = "tolerance"


@dataclass(frozen=True)
class Argument(Option):
    """An argument that every marker takes, whatever its method.

    ``group`` and ``field`` say where the value goes; the field has the argument's name unless another is
    given. ``metavar``: there is a setting ``--tenpak-NAME`` of the same name, whose value is called so in
    the help. ``read`` converts the given value, where it may have several forms.
    """

    group: Group = Group.CASE
    field: str = ""
    metavar: str = ""
    read: Callable[[Any], Any] | None = None

    def value(self, given: Any) -> Any:
        """Convert a given value; raise SpecError if it is not accepted."""
        return self.read(given) if self.read else self.validate(given)


def _read_corpora(given: Any) -> tuple[str, ...]:
    """Convert ``corpus``: one text, or several, each measured and checked by itself."""
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


def _is_positive(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 < value < float("inf")


def _read_compression(given: Any) -> dict[str, float]:
    """Convert ``min_compression``: a number means the headline ratio, a mapping names its denominators."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        given = {HEADLINE: given}
    for name, value in given.items():
        if name not in RATIOS or not _is_positive(value):
            hint = "" if name in RATIOS else nearest(str(name), RATIOS)
            raise SpecError(
                f"min_compression={given!r} is not accepted{hint}",
                given=f"{name!r}: {value!r}",
                accepted=f"a number above 0 ({RATIOS[HEADLINE]}), or a mapping from {', '.join(RATIOS)}",
                remedy=f"for example min_compression=2.2, or min_compression={{'{HEADLINE}': 2.2}}",
            )
    return {name: float(value) for name, value in given.items()}


def _read_resources(given: Any) -> dict[str, float]:
    """Convert ``resources``: names that the cluster knows, each with a number."""
    if given is None:
        return {}
    numbers = isinstance(given, Mapping) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")
        for value in given.values()
    )
    if not numbers or not all(isinstance(name, str) and name not in _OWN_RESOURCES for name in given):
        raise SpecError(
            f"resources={given!r} is not accepted",
            given=repr(given),
            accepted="a mapping from names of resources to numbers above 0; not CPU, GPU, memory",
            remedy="for example resources={'fast_disk': 1}, gpus=2, memory=40",
        )
    return {name: float(value) for name, value in given.items()}


def _read_speedup(given: Any) -> dict[str, float]:
    """Convert ``min_speedup``: a number means both phases, a mapping names them."""
    if given is None:
        return {}
    least = given if isinstance(given, Mapping) else dict.fromkeys(PHASES, given)
    wrong = [(name, value) for name, value in least.items() if name not in PHASES or not _is_positive(value)]
    if wrong or not least:
        name, value = (wrong or [("", given)])[0]
        whole = least is not given or not name
        hint = "" if name in PHASES else nearest(str(name), PHASES)
        raise SpecError(
            f"min_speedup={given!r} is not accepted{hint}",
            given=f"{given!r} ({type(given).__name__})" if whole else f"{name!r}: {value!r}",
            accepted=f"a number above 0, for both phases, or a mapping from {', '.join(PHASES)}",
            remedy="for example min_speedup=1.2, or min_speedup={'prefill': 0.8, 'decode': 1.5}",
        )
    return {name: float(least[name]) for name in PHASES if name in least}


_MARKER = (
    Argument("method", str, None, "quantization method, or one that a plugin or conftest registered"),
    Argument("checkpoint", str, None, "instead of method: directory of a checkpoint quantized elsewhere"),
    Argument("baseline", str, None, "baseline name, when the test's id should not be it"),
)
_CASE = (
    Argument(
        "model",
        str,
        None,
        "unquantized model: directory, .gguf file, package:NAME/FILE.gguf, hub id",
        metavar="MODEL",
    ),
    Argument(
        "corpus",
        str,
        DEFAULT,
        "text to measure on: packaged name, file, package:NAME/FILE, hub:…",
        metavar="CORPUS",
        read=_read_corpora,
    ),
    Argument(
        "calibration",
        str,
        CALIBRATION,
        "text to calibrate on, for methods that do; never the corpus",
        metavar="CORPUS",
    ),
    Argument(
        "max_overlap",
        float,
        0.01,
        "share of calibration text or corpus that may be copied from the other, 0 to 1",
        minimum=0,
        maximum=1,
    ),
    Argument(
        "max_reference_nll",
        float,
        1.1,
        "NLL of the unquantized model at most, in multiples of that of guessing, ln(vocabulary); 0: no limit",
        minimum=0,
    ),
    Argument("protocol", str, "gptq", "evaluation protocol", choices=PROTOCOLS, metavar="PROTOCOL"),
    Argument(
        "context", int, None, "tokens per window; default by protocol and model", minimum=2, metavar="TOKENS"
    ),
    Argument("stride", int, None, "tokens between windows, for protocol='sliding'", minimum=1),
    Argument("max_tokens", int, 0, "scored tokens at most; 0: the whole corpus", minimum=0, metavar="TOKENS"),
    Argument(
        "dtype",
        str,
        "auto",
        "type to measure in; auto: float32 on CPU, the model's own 16-bit type on CUDA",
        choices=("auto", "float32", "bfloat16", "float16"),
        metavar="DTYPE",
    ),
    Argument("may_skip", bool, False, "skip, even in CI, when a library or device is missing"),
    Argument(
        "gpus",
        float,
        None,
        "GPUs that a job asks a cluster for; default: one where the device is one",
        minimum=0,
    ),
    Argument(
        "memory", float, 0.0, "GiB that a job asks a cluster for; 0: by the size of its model", minimum=0
    ),
    Argument(
        "resources",
        float,
        None,
        "more that a job asks a cluster for: a mapping from its names to numbers",
        read=_read_resources,
    ),
)
_LIMITS = (
    Argument("max_ppl_delta", float, None, "limit: perplexity over the reference, relative", above=-1),
    Argument(
        "max_rtn_factor",
        float,
        Limits.max_rtn_factor,
        "limit: nats per token lost, in multiples of what round-to-nearest at the same bits loses; 0: none",
        minimum=0,
    ),
    Argument(
        "max_kld", float, None, "limit: mean KL divergence from the reference, nats per token", minimum=0
    ),
    Argument(
        "min_top1",
        float,
        None,
        "limit: share of tokens with the reference's top token, 0 to 1",
        minimum=0,
        maximum=1,
    ),
    Argument(
        "min_compression",
        float,
        None,
        f"limit: least compression, {RATIOS[HEADLINE]}",
        above=0,
        read=_read_compression,
    ),
    Argument(
        "min_speedup",
        float,
        None,
        "limit: tokens per second over the reference's, timed beside it; by phase: prefill, decode",
        above=0,
        read=_read_speedup,
    ),
    Argument("max_memory_ratio", float, None, "limit: peak memory over the reference's", above=0),
    Argument(
        "min_quantized_share",
        float,
        None,
        "limit: share of the decoder's weights that is quantized, 0 to 1",
        minimum=0,
        maximum=1,
    ),
    Argument(
        "complete",
        bool,
        False,
        "limit: the checkpoint holds every tensor of the model's files, also of parts that are not measured",
    ),
    Argument(
        "max_weight_error",
        float,
        Limits.max_weight_error,
        "limit: error of a layer's weights, in multiples of that of rounding to nearest, where the method "
        "compensates (GPTQ); 0: none",
        minimum=0,
    ),
    Argument(
        "may_differ",
        tuple,
        (),
        "names or patterns of tensors and fields that may differ from the model's",
    ),
)
_TOLERANCES = (
    Argument(
        "ppl_tolerance",
        float,
        Tolerances.ppl,
        "perplexity over the baseline, relative",
        minimum=0,
        field="ppl",
        metavar="RELATIVE",
    ),
    Argument(
        "same_weights_tolerance",
        float,
        Tolerances.same_weights,
        "the same where the quantized weights are the baseline's, bit for bit",
        minimum=0,
        field="same_weights",
        metavar="RELATIVE",
    ),
    Argument(
        "layers_tolerance",
        float,
        Tolerances.layers,
        "movement of a decoder layer's gain or error, as a share of what it adds",
        minimum=0,
        field="layers",
        metavar="SHARE",
    ),
    Argument(
        "audit_tolerance",
        float,
        Tolerances.audit,
        "rise of the error of a layer's weights over the baseline, relative",
        minimum=0,
        field="audit",
        metavar="RELATIVE",
    ),
    Argument(
        "compression_tolerance",
        float,
        Tolerances.compression,
        "compression under the baseline, relative",
        minimum=0,
        field="compression",
        metavar="RELATIVE",
    ),
    Argument(
        "drift_limit",
        float,
        Tolerances.drift,
        "how many tolerances small accepted steps may add up to since the anchor; 0: any number",
        minimum=0,
        field="drift",
        metavar="TOLERANCES",
    ),
)


def _in(group: Group, *arguments: Argument) -> dict[str, Argument]:
    placed = (replace(one, group=group, field=one.field or one.name) for one in arguments)
    return {one.name: one for one in placed}


#: Every argument by its name, without the options that a marker's method declares.
ARGUMENTS: Mapping[str, Argument] = {
    **_in(Group.MARKER, *_MARKER),
    **_in(Group.CASE, *_CASE),
    **_in(Group.LIMIT, *_LIMITS),
    **_in(Group.TOLERANCE, *_TOLERANCES),
}


def fields_of(group: Group, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of one group's arguments, by the fields that they go to."""
    return {one.field: values[one.name] for one in ARGUMENTS.values() if one.group is group}
