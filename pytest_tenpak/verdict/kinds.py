"""The kinds of checks, stated once: what each compares, in which unit, and what its bound applies to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType


class Question(str, Enum):
    """Which of a verdict's questions a check answers."""

    #: Is it good enough? Against the reference; no update of a baseline clears a broken limit.
    LIMIT = "limit"
    #: Did it get worse than the accepted figures? Against the baseline; an update clears it.
    TOLERANCE = "tolerance"
    #: Could it be measured, and can its tolerances be met at all?
    SANITY = "sanity"

    def __str__(self) -> str:
        return self.value


class Unit(Enum):
    """The unit of a check's figures, for reports."""

    PERPLEXITY = "perplexity"
    RATIO = "times"
    SHARE = "share of one"
    NATS = "nats per token"
    NONE = "no figure"


@dataclass(frozen=True)
class CheckKind:
    """What all checks of one name have in common.

    ``subject`` is what is measured, ``comparison`` what it is compared with. ``unit`` is that of ``value``
    and ``before``. ``at_least``: the bound is a minimum instead of a maximum. ``relative``: it bounds the
    relative difference instead of the value itself. ``names_evidence``: the evidence names what was measured,
    and is part of the title. ``from_zero``: zero is the best possible value. ``failure`` says in a headline
    what is wrong, where no figure does; ``advice`` what to do, where quantizing better is no answer.
    """

    name: str
    question: Question
    subject: str
    comparison: str = ""
    unit: Unit = Unit.NONE
    at_least: bool = False
    relative: bool = False
    names_evidence: bool = False
    from_zero: bool = False
    failure: str = ""
    advice: str = ""

    @property
    def title(self) -> str:
        """What is compared with what."""
        return f"{self.subject} {self.comparison}".strip()

    @property
    def is_cleared_by_update(self) -> bool:
        """Whether accepting the new figures turns the check green."""
        return self.question is Question.TOLERANCE

    @property
    def is_about_tolerance(self) -> bool:
        """Whether the check is about a tolerance that was set, and not about anything measured."""
        return self.name == "noise_floor"


_P, _R = Unit.PERPLEXITY, Unit.RATIO
_LIMIT, _TOLERANCE, _SANITY = Question
_SLOW = (
    "see through which kernel the quantized layers ran, and whether the library has a faster one for this "
    "device, type and group size; or change min_speedup= in the marker"
)
_KINDS = (
    CheckKind("max_ppl_delta", _LIMIT, "perplexity", "vs reference", _P, relative=True),
    CheckKind("max_rtn_factor", _LIMIT, "perplexity", "vs round-to-nearest", _P, relative=True),
    CheckKind("max_kld", _LIMIT, "KL divergence", "from reference", Unit.NATS, from_zero=True),
    CheckKind("min_top1", _LIMIT, "top-1 agreement", "with reference", Unit.SHARE, at_least=True),
    CheckKind("min_compression", _LIMIT, "compression", unit=_R, at_least=True, names_evidence=True),
    CheckKind(
        "min_quantized_share",
        _LIMIT,
        "quantized share",
        "of the decoder's weights",
        Unit.SHARE,
        at_least=True,
    ),
    CheckKind("complete", _LIMIT, "tensors", "of the model's files", failure="tensors were left out"),
    CheckKind(
        "audit",
        _LIMIT,
        "weights",
        "vs the model's",
        failure="weights are not the model's",
        advice="quantize or copy the checkpoint again; name what is meant to differ in the marker, "
        "by may_differ=",
    ),
    CheckKind(
        "files",
        _LIMIT,
        "files",
        "vs the model's",
        failure="files beside the weights say otherwise than the model's",
        advice="restore the fields from the model's files; name what is meant to differ in the marker, "
        "by may_differ=",
    ),
    CheckKind("prefill_speedup", _LIMIT, "prefill speed", "vs reference", _R, at_least=True, advice=_SLOW),
    CheckKind("decode_speedup", _LIMIT, "decode speed", "vs reference", _R, at_least=True, advice=_SLOW),
    CheckKind(
        "max_memory_ratio",
        _LIMIT,
        "peak memory",
        "vs reference",
        _R,
        from_zero=True,
        advice="see that weights stay packed when they are loaded, or change max_memory_ratio= in the marker",
    ),
    CheckKind("baseline", _TOLERANCE, "baseline"),
    CheckKind("ppl_tolerance", _TOLERANCE, "perplexity", "vs baseline", _P, relative=True),
    CheckKind("drift", _TOLERANCE, "perplexity", "vs anchor", _P, relative=True),
    CheckKind("layers", _TOLERANCE, "decoder layers", "vs baseline", relative=True),
    CheckKind("layers_drift", _TOLERANCE, "decoder layers", "vs anchor", relative=True),
    CheckKind(
        "compression_tolerance", _TOLERANCE, "compression", "vs baseline", _R, at_least=True, relative=True
    ),
    CheckKind("compression_drift", _TOLERANCE, "compression", "vs anchor", _R, at_least=True, relative=True),
    CheckKind(
        "audit_tolerance", _TOLERANCE, "weights", "vs baseline", failure="weights moved from the baseline's"
    ),
    CheckKind(
        "files_tolerance", _TOLERANCE, "files", "vs baseline", failure="files beside the weights have changed"
    ),
    CheckKind("measured", _SANITY, "measured"),
    CheckKind(
        "finite",
        _SANITY,
        "finite figures",
        failure="figures are not finite",
        advice="where a tensor is named, quantize or copy the weights again; where none is, a layer "
        "overflows: set dtype='float32' or 'bfloat16' in the marker",
    ),
    CheckKind(
        "tokenizer",
        _SANITY,
        "tokenizer",
        failure="the tokenizer gives other tokens",
        advice="put the model's own tokenizer files into the checkpoint, or restore them",
    ),
    CheckKind("noise_floor", _SANITY, "tolerance", "vs noise", Unit.SHARE, at_least=True, from_zero=True),
)
#: Every kind by its name, which is that of the marker's argument where there is one.
KINDS: Mapping[str, CheckKind] = MappingProxyType({kind.name: kind for kind in _KINDS})
#: The two kinds whose figures every report shows, whether or not a run has such a check.
VS_REFERENCE, VS_BASELINE = KINDS["max_ppl_delta"], KINDS["ppl_tolerance"]
