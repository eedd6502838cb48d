"""A case: what one marked test quantizes, measures and requires."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..baselines.names import name_on
from ..spec import QuantizeSpec
from ..verdict.checks import Limits, Tolerances


@dataclass(frozen=True)
class Case:
    """What to quantize, what to measure it on, and which bounds it has to meet.

    ``name`` is the baseline's path below the baseline folder, without ``.json``. ``model``,
    ``calibration``, ``checkpoint`` and each ``corpus`` are references as the user wrote them. ``max_tokens``
    caps the scored tokens of each corpus (0: the whole of it). ``gpus``, ``memory`` (GiB) and ``resources``
    are what a job of the case asks a cluster for; None and 0 leave it to what its device and its model need.
    """

    nodeid: str
    file: str
    line: int
    name: str
    spec: QuantizeSpec
    model: str | None
    checkpoint: str | None
    corpus: tuple[str, ...]
    calibration: str | None
    max_overlap: float
    max_reference_nll: float
    protocol: str
    context: int | None
    stride: int | None
    max_tokens: int
    dtype: str
    limits: Limits
    tolerances: Tolerances
    may_skip: bool
    gpus: float | None = None
    memory: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)

    @property
    def baseline_names(self) -> list[str]:
        """The names of all baselines of the case, one for each corpus."""
        return [self.baseline_name(corpus) for corpus in self.corpus]

    def baseline_name(self, corpus: str) -> str:
        """Return the baseline's name for a corpus: the case's own, with the text's for all but the first."""
        return self.name if corpus == self.corpus[0] else name_on(self.name, corpus)

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form."""
        spec = self.spec.to_dict()
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            **fields,
            "spec": spec,
            "limits": asdict(self.limits),
            "tolerances": asdict(self.tolerances),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Case:
        """Return the case that :meth:`to_dict` wrote."""
        nested = {
            "spec": QuantizeSpec.from_dict(plain["spec"]),
            "limits": Limits(**{**plain["limits"], "may_differ": tuple(plain["limits"]["may_differ"])}),
            "tolerances": Tolerances(**plain["tolerances"]),
            "corpus": tuple(plain["corpus"]),
        }
        return cls(**{**plain, **nested})
