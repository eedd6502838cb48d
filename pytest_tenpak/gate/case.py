"""A case: one test's whole question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..baselines.names import name_on
from ..spec import QuantizeSpec
from ..verdict.checks import Limits, Tolerances


@dataclass(frozen=True)
class Case:
    """What to quantize, what to measure it on, and what to hold it to.

    ``name`` is the baseline's path below the baseline folder, without ``.json``. ``model``,
    ``calibration``, ``checkpoint`` and each ``corpus`` are references as the user wrote them. ``max_tokens``
    caps the scored tokens of each corpus (0: the whole of it).
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
    protocol: str
    context: int | None
    stride: int | None
    max_tokens: int
    dtype: str
    limits: Limits
    tolerances: Tolerances
    may_skip: bool

    @property
    def baseline_names(self) -> list[str]:
        """The names of all its baselines, one for each corpus."""
        return [self.baseline_name(corpus) for corpus in self.corpus]

    def baseline_name(self, corpus: str) -> str:
        """The baseline's name for one corpus: the case's own for the first, with the text's for others."""
        return self.name if corpus == self.corpus[0] else name_on(self.name, corpus)

    def to_dict(self) -> dict[str, Any]:
        """Plain form."""
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
        """The case that :meth:`to_dict` wrote."""
        nested = {
            "spec": QuantizeSpec.from_dict(plain["spec"]),
            "limits": Limits(**plain["limits"]),
            "tolerances": Tolerances(**plain["tolerances"]),
            "corpus": tuple(plain["corpus"]),
        }
        return cls(**{**plain, **nested})
