"""What an audit finds: a checkpoint's tensors and files beside the model's. Pure records.

Errors are relative: the size of the difference over the size of what is compared, as root of summed squares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

#: Increased whenever a change of this package changes a figure of the audit; part of cache keys.
#: 2: layers of our own INT4 are held to their own rounding.
AUDIT_VERSION = 2
#: How a format's codes are chosen, and so how far from rounding to nearest healthy layers are: each weight to
#: its nearest; the same with scales that are quantized too; the same after clipping; or so that later weights
#: compensate for the errors of earlier ones.
NEAREST, ROUNDED_SCALES, CLIPPED, COMPENSATED = "nearest", "rounded scales", "clipped", "compensated"


@dataclass(frozen=True)
class LayerAudit:
    """One quantized layer, dequantized, beside the model's weights.

    ``error`` and ``gain``: relative error, and size along the model's weights (1: the same).
    ``rounded_error``, ``rounded_gain``: those of the model's weights rounded to nearest on the same grid.
    ``offset``: the part of the error that is the same for all inputs of an output. ``rounding``: how the
    codes were chosen. ``dead``: the outputs and inputs that are all zero here, and not in the model.
    ``worst_output`` is the one with the largest error, ``output_error`` its error, ``output_rounded`` that of
    rounding it to nearest.
    """

    name: str
    error: float
    gain: float
    rounded_error: float
    rounded_gain: float
    offset: float
    rounding: str
    dead: tuple[str, ...] = ()
    worst_output: int = 0
    output_error: float = 0.0
    output_rounded: float = 0.0

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> LayerAudit:
        """Return the layer of an audit's plain form."""
        return cls(**{**_with_nan(plain), "dead": tuple(plain["dead"])})

    @property
    def factor(self) -> float:
        """The error in multiples of that of rounding to nearest; 1 where both have none."""
        return (self.error + _TINY) / (self.rounded_error + _TINY)


#: Relative errors below this are those of the arithmetic.
_TINY = 1e-7


@dataclass(frozen=True)
class ChangedTensor:
    """A tensor that is kept unquantized, and differs from the model's by more than its stored type explains.

    ``error``: relative error. ``what`` says in words how it differs.
    """

    name: str
    error: float
    what: str


@dataclass(frozen=True)
class WeightAudit:
    """The weights of a checkpoint beside the model's.

    ``kept``: the number of tensors that equal the model's up to their stored type; ``rounded``: those that
    went through a coarser type; ``changed``: the others. ``allowed``: tensors that differ and that the
    method may change. ``not_compared``: layers that could not
    be dequantized or undone, with why.
    """

    layers: tuple[LayerAudit, ...] = ()
    kept: int = 0
    rounded: tuple[str, ...] = ()
    changed: tuple[ChangedTensor, ...] = ()
    allowed: tuple[str, ...] = ()
    not_compared: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> WeightAudit:
        """Return the audit that ``asdict`` wrote, from JSON."""
        return cls(
            layers=tuple(map(LayerAudit.from_dict, plain["layers"])),
            kept=plain["kept"],
            rounded=tuple(plain["rounded"]),
            changed=tuple(ChangedTensor(**_with_nan(row)) for row in plain["changed"]),
            allowed=tuple(plain["allowed"]),
            not_compared=dict(plain["not_compared"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form, in which None stands for a figure that is not finite."""
        rows = {
            name: [_without_nan(asdict(one)) for one in getattr(self, name)] for name in ("layers", "changed")
        }
        return {**asdict(self), **rows}


def _without_nan(plain: dict[str, Any]) -> dict[str, Any]:
    return {n: None if isinstance(x, float) and not math.isfinite(x) else x for n, x in plain.items()}


def _with_nan(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in plain.items()}


@dataclass(frozen=True)
class ChangedField:
    """A field of the files beside the weights: what the model's say, and the checkpoint's."""

    name: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.name} {self.old} → {self.new}"


@dataclass(frozen=True)
class FilesAudit:
    """The files beside a checkpoint's weights, compared with the model's by meaning.

    ``behaviour``: fields that change what is computed, generated or tokenized; ``cosmetic``: the others.
    ``recipe`` is the checkpoint's own quantization config, ``contradictions`` say where its weights
    contradict that.
    """

    behaviour: tuple[ChangedField, ...] = ()
    cosmetic: tuple[ChangedField, ...] = ()
    recipe: Mapping[str, str] = field(default_factory=dict)
    contradictions: tuple[str, ...] = ()

    @property
    def own_fields(self) -> dict[str, str]:
        """What the checkpoint's files say otherwise than the model's, which the baseline stores."""
        return {**self.recipe, **{one.name: one.new for one in (*self.behaviour, *self.cosmetic)}}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> FilesAudit:
        """Return the audit that ``asdict`` wrote, from JSON."""
        return cls(
            behaviour=tuple(ChangedField(**row) for row in plain["behaviour"]),
            cosmetic=tuple(ChangedField(**row) for row in plain["cosmetic"]),
            recipe=dict(plain["recipe"]),
            contradictions=tuple(plain["contradictions"]),
        )


@dataclass(frozen=True)
class Audit:
    """What the audit of one checkpoint found; ``why`` its weights were not compared, where they were not."""

    files: FilesAudit | None = None
    weights: WeightAudit | None = None
    why: str = ""
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form, which is sent between processes and written by ``--tenpak-json``."""
        return {**asdict(self), "weights": self.weights.to_dict() if self.weights else None}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Audit:
        """Return the audit that :meth:`to_dict` wrote."""
        files, weights = plain["files"], plain["weights"]
        nested = {
            "files": FilesAudit.from_dict(files) if files else None,
            "weights": WeightAudit.from_dict(weights) if weights else None,
        }
        return cls(**{**plain, **nested})
