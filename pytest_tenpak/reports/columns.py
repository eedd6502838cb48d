"""The headline figures, each stated once: its name, its value, how it is shown, and which way is better.

The tables of a run (terminal, Markdown, HTML), those of baselines (``tenpak show``, ``diff``, ``history``)
and the charts all take their figures from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from ..baselines.entry import Figures
from ..gate.outcome import Outcome, Part
from ..metrics.measurement import HEADLINE, RATIOS
from ..verdict.kinds import VS_BASELINE

#: Marks a comparison with a baseline that was accepted for other quantized weights.
OTHER_WEIGHTS = "≠"
#: Relative differences below this are the rounding of stored figures, and shown as none.
_NO_DIFFERENCE = 1e-7


def percent(value: float | None) -> str:
    """A relative difference with two decimals, or as many as it takes not to show one as none."""
    if value is None:
        return ""
    if abs(value) < _NO_DIFFERENCE:
        return "0.00%"
    return f"{value:+.{2 if abs(value) >= 0.0001 else 5}%}"


@dataclass(frozen=True)
class Quantity:
    """One headline figure of a checkpoint.

    ``name`` is its field in the JSON report. ``brief`` is its format in a table, ``exact`` where two values
    are compared. ``is_share``: its change is a difference, where that of others is relative. ``is_size``: it
    says nothing of quality. ``is_bound(figures)``: the true value may be larger. ``legend`` explains the
    title, where that does not do so itself.
    """

    name: str
    title: str
    value: Callable[[Figures], float | None]
    brief: str
    exact: str
    less_is_better: bool = True
    is_share: bool = False
    is_size: bool = False
    is_bound: Callable[[Figures], bool] = lambda _: False
    legend: str = ""

    def show(self, figures: Figures, exact: bool = False) -> str:
        """The figure as text; empty where there is none."""
        value = self.value(figures)
        if value is None:
            return ""
        return ("≥ " if self.is_bound(figures) else "") + (self.exact if exact else self.brief).format(value)

    def is_better(self, new: float, old: float) -> bool:
        """Whether ``new`` is the better of two different values."""
        return (new < old) == self.less_is_better


PERPLEXITY = Quantity("perplexity", "perplexity", lambda f: f.perplexity, "{:,.3f}", "{:.4f}")
DELTA = Quantity("ppl_delta", "Δ reference", lambda f: f.ppl_delta, "{:+.2%}", "{:+.2%}", is_share=True)
COMPRESSION = Quantity(
    "compression",
    "compression",
    lambda f: f.compression,
    "{:.2f}×",
    "{:.4f}×",
    less_is_better=False,
    is_size=True,
    legend=RATIOS[HEADLINE],
)
BITS = Quantity(
    "bits_per_weight",
    "bits/weight",
    lambda f: f.bits_per_weight,
    "{:.3f}",
    "{:.3f}",
    is_size=True,
    legend="quantized layers",
)
KLD = Quantity(
    "kld",
    "KLD",
    lambda f: f.kld,
    "{:.4f}",
    "{:.4f}",
    is_bound=lambda f: f.kld_is_bound,
    legend="nats per token from the reference",
)
TOP1 = Quantity(
    "top1",
    "top-1",
    lambda f: f.top1,
    "{:.1%}",
    "{:.2%}",
    less_is_better=False,
    is_share=True,
    legend="same most likely token",
)
#: In the order in which changes of baselines are listed.
QUANTITIES = (PERPLEXITY, DELTA, COMPRESSION, BITS, KLD, TOP1)


def quantity_legend(quantities: Iterable[Quantity]) -> str:
    """What the titles of some quantities mean, on one line."""
    return "; ".join(f"{one.title}: {one.legend}" for one in quantities if one.legend)


# ---------------------------------------------------------------- the table of a run


@dataclass(frozen=True)
class Measured:
    """What one row of a run's table shows: a case on one corpus."""

    outcome: Outcome
    part: Part

    @cached_property
    def figures(self) -> Figures:
        """The headline figures, unrounded."""
        return Figures.of(self.part.measurement, self.part.reference)

    @property
    def moved(self) -> float | None:
        """Perplexity over the baseline's, relative, where it was compared."""
        checks = (one for one in self.outcome.verdict.checks if one.corpus in ("", self.part.corpus))
        return next((one.difference for one in checks if one.kind is VS_BASELINE), None)


@dataclass(frozen=True)
class Column:
    """A column of the table: its title, a cell's text, the number it is sorted by, and its rank.

    Where the table has to be narrower, columns of a higher ``rank`` go first; those of rank 0 always stay.
    """

    title: str
    text: Callable[[Measured], str]
    number: Callable[[Measured], float | None]
    rank: int = 0
    legend: str = ""

    def sort_key(self, row: Measured) -> float | None:
        """The number that a cell is sorted by; None for what is not there, or not finite."""
        value = self.number(row)
        return float(f"{value:.7g}") if value is not None and math.isfinite(value) else None


def _column(quantity: Quantity, rank: int, text: Callable[[Measured], str] | None = None) -> Column:
    return Column(
        quantity.title,
        text or (lambda row: quantity.show(row.figures)),
        lambda row: quantity.value(row.figures),
        rank,
        quantity.legend,
    )


def perplexities(figures: Figures) -> str:
    """Perplexity of the reference and of the checkpoint."""
    return f"{PERPLEXITY.brief.format(figures.reference_perplexity)} → {PERPLEXITY.show(figures)}"


def _tokens(row: Measured) -> str:
    measurement = row.part.measurement
    return f"{measurement.windows.total_tokens:,} of {measurement.budget:,}"


def _moved(row: Measured) -> str:
    return percent(row.moved) + (
        f" {OTHER_WEIGHTS}" if row.part.other_weights and row.moved is not None else ""
    )


#: The columns between a gate's method and its verdict.
COLUMNS = (
    _column(BITS, 4),
    _column(COMPRESSION, 1),
    Column(
        PERPLEXITY.title,
        lambda row: perplexities(row.figures),
        lambda row: row.figures.perplexity,
        2,
        "reference → quantized",
    ),
    _column(DELTA, 0, lambda row: percent(row.figures.ppl_delta)),
    _column(KLD, 3),
    _column(TOP1, 5),
    Column("Δ baseline", _moved, lambda row: row.moved),
    Column("tokens", _tokens, lambda row: row.part.measurement.windows.total_tokens, 6),
)


def column_legend(columns: Iterable[Column]) -> str:
    """What the titles of some columns mean, on one line."""
    return "; ".join(f"{one.title}: {one.legend}" for one in columns if one.legend)
