"""The answer of ``tenpak recommend``: what became of each recipe, which to take, what comes nearest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from ..baselines.entry import Figures
from ..metrics.intervals import Estimate
from .frontier import Out

#: Increased whenever a field of the JSON form changes its meaning.
DOCUMENT_VERSION = 1


class Place(Enum):
    """Where a recipe stands."""

    FRONTIER = "frontier"
    BEATEN = "beaten, not significantly"
    OUT = "out"
    FAILED = "failed"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Row:
    """One recipe: the arguments of its marker, and what was found.

    ``compression`` is None where it was not quantized, ``figures`` where it was not measured. ``delta`` is
    the difference of perplexity from the unquantized model's, relative, with its interval. ``tokens`` were
    scored, of ``budget``. ``seconds`` is what quantizing took, now or earlier. ``problem`` says why it
    failed, or was not run, and ``details`` what else is known, such as the end of a worker's log. ``meets``:
    whether it meets the bounds, as far as it was measured, and ``surely``, whether the interval says so.
    """

    name: str
    marker: Mapping[str, Any]
    place: Place
    compression: float | None = None
    figures: Figures | None = None
    delta: Estimate | None = None
    tokens: int = 0
    budget: int = 0
    seconds: float = 0.0
    out: Out | None = None
    problem: str = ""
    details: str = ""
    meets: bool = False
    surely: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form; figures that are not finite become None."""
        figures, delta, out = self.figures, self.delta, self.out
        shown = {**_finite(asdict(figures)), "ppl_delta": _number(figures.ppl_delta)} if figures else None
        return {
            "name": self.name,
            "marker": dict(self.marker),
            "place": self.place.value,
            "compression": self.compression,
            "figures": shown,
            "interval": [_number(delta.low), _number(delta.high)] if delta else None,
            "tokens": self.tokens,
            "budget": self.budget,
            "quantizing_seconds": self.seconds,
            "out": {"why": out.why.value, "tokens": out.tokens, "by": out.by} if out else None,
            "problem": self.problem,
            "details": self.details,
            "meets": self.meets,
            "surely": self.surely,
        }


@dataclass(frozen=True)
class Near:
    """A recipe that would meet the bounds if one of them, an argument of the marker, were this."""

    name: str
    argument: str
    bound: float


@dataclass(frozen=True)
class LeftOut:
    """Recipes that cannot run here, and why."""

    names: tuple[str, ...]
    problem: str


@dataclass(frozen=True)
class Advice:
    """What was asked, what was found, and which recipe to take (``pick``, empty where none meets the bounds).

    ``alpha`` is the error rate of every interval and decision. ``late``: the time limit ended the search.
    """

    model: str
    corpus: str
    device: str
    dtype: str
    max_ppl_delta: float | None
    min_compression: float | None
    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...]
    pick: str
    near: tuple[Near, ...]
    alpha: float
    seconds: float
    late: bool = False

    @property
    def picked(self) -> Row | None:
        """The row of the recipe to take."""
        return next((row for row in self.rows if row.name == self.pick), None)

    def placed(self, *places: Place) -> list[Row]:
        """Return the rows in some places, those of more compression first."""
        rows = [row for row in self.rows if row.place in places]
        return sorted(rows, key=lambda row: -(row.compression or 0.0))

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form, which ``--json`` writes."""
        names = [name for name in self.__dataclass_fields__ if name not in ("rows", "left_out", "near")]
        return {
            "version": DOCUMENT_VERSION,
            **{name: getattr(self, name) for name in names},
            "rows": [row.to_dict() for row in self.rows],
            "left_out": [asdict(one) for one in self.left_out],
            "near": [asdict(one) for one in self.near],
        }


def _number(figure: float) -> float | None:
    return figure if math.isfinite(figure) else None


def _finite(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _number(x) if isinstance(x, float) else x for name, x in plain.items()}
