"""A case is one test's whole question; an outcome is the case with its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .measurement import Measurement
from .spec import QuantizeSpec
from .update import Update
from .verdict import Limits, Status, Tolerances, Verdict


@dataclass(frozen=True)
class Case:
    """What to quantize, what to measure it on, and what to hold it to.

    ``name`` is the baseline's path below the baseline folder, without ``.json``. ``model``, ``corpus``,
    ``calibration`` and ``checkpoint`` are references as the user wrote them. ``max_tokens`` caps the
    scored tokens (0: the whole corpus).
    """

    nodeid: str
    file: str
    line: int
    name: str
    spec: QuantizeSpec
    model: str | None
    checkpoint: str | None
    corpus: str
    calibration: str | None
    protocol: str
    context: int | None
    stride: int | None
    max_tokens: int
    dtype: str
    limits: Limits
    tolerances: Tolerances
    may_skip: bool

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
        }
        return cls(**{**plain, **nested})


@dataclass(frozen=True)
class Outcome:
    """What became of one case.

    ``measurement`` and ``reference`` are None when the case could not be measured; ``problem`` then
    says why, and ``skipped`` whether that was allowed to pass as a skip. ``baseline`` is the file's
    path as shown to the user, ``device_class`` the entry in it, ``changes`` what differs in
    provenance since it was accepted, ``quantizing`` what making the checkpoint cost (``seconds``,
    ``peak_bytes``, ``threads``).
    """

    case: Case
    verdict: Verdict
    update: Update
    device_class: str = ""
    baseline: str = ""
    checkpoint: str = ""
    measurement: Measurement | None = None
    reference: Measurement | None = None
    changes: tuple[str, ...] = ()
    quantizing: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    skipped: bool = False

    @property
    def passes(self) -> bool:
        """Whether the test passes as far as the gate is concerned."""
        return self.update.passes

    @property
    def status(self) -> Status:
        """The verdict's status."""
        return self.verdict.status

    def to_dict(self) -> dict[str, Any]:
        """Plain form: crosses process borders and fills ``--tenpak-json``."""
        return {
            "case": self.case.to_dict(),
            "verdict": self.verdict.to_dict(),
            "update": self.update.to_dict(),
            "device_class": self.device_class,
            "baseline": self.baseline,
            "checkpoint": self.checkpoint,
            "measurement": self.measurement.to_dict() if self.measurement else None,
            "reference": self.reference.to_dict() if self.reference else None,
            "changes": list(self.changes),
            "quantizing": dict(self.quantizing),
            "problem": self.problem,
            "skipped": self.skipped,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Outcome:
        """The outcome that :meth:`to_dict` wrote."""
        measured = {
            name: Measurement.from_dict(plain[name]) if plain[name] else None
            for name in ("measurement", "reference")
        }
        return cls(
            **{
                **plain,
                **measured,
                "case": Case.from_dict(plain["case"]),
                "verdict": Verdict.from_dict(plain["verdict"]),
                "update": Update.from_dict(plain["update"]),
                "changes": tuple(plain["changes"]),
            }
        )
