"""Every outcome of a run as one plain document, for ``--tenpak-json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..baseline import Figures
from ..outcome import Outcome
from ..verdict import Status

SCHEMA_VERSION = 1


def document(outcomes: Sequence[Outcome], expected: Sequence[str]) -> dict[str, Any]:
    """``{schema_version, expected, ran, outcomes}``; each outcome with its derived figures beside it."""
    return {
        "schema_version": SCHEMA_VERSION,
        "expected": list(expected),
        "ran": sum(not outcome.skipped for outcome in outcomes),
        "outcomes": [{**outcome.to_dict(), "figures": figures_of(outcome)} for outcome in outcomes],
    }


def figures_of(outcome: Outcome) -> dict[str, Any] | None:
    """The derived figures of an outcome, by name; None when it has none."""
    measurement, reference = outcome.measurement, outcome.reference
    if measurement is None or reference is None or outcome.status is Status.ERROR:
        return None
    figures = Figures.of(measurement, reference)
    return {
        "perplexity": figures.perplexity,
        "reference_perplexity": figures.reference_perplexity,
        "ppl_delta": measurement.perplexity / reference.perplexity - 1,
        "bits_per_weight": figures.bits_per_weight,
        "compression": measurement.ledger.ratios,
        "tokens": measurement.windows.total_tokens,
    }
