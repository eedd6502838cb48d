"""Every outcome of a run as one plain document, for ``--tenpak-json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..baseline import Figures
from ..checks import Status
from ..outcome import Outcome, Part

SCHEMA_VERSION = 1


def document(outcomes: Sequence[Outcome], expected: Sequence[str]) -> dict[str, Any]:
    """``{schema_version, expected, ran, outcomes}``; each outcome with its derived figures beside it."""
    return {
        "schema_version": SCHEMA_VERSION,
        "expected": list(expected),
        "ran": sum(not outcome.skipped for outcome in outcomes),
        "outcomes": [_plain(outcome) for outcome in outcomes],
    }


def _plain(outcome: Outcome) -> dict[str, Any]:
    plain = outcome.to_dict()
    figures = [figures_of(outcome, part) for part in outcome.parts]
    parts = [{**row, "figures": own} for row, own in zip(plain["parts"], figures, strict=True)]
    return {**plain, "parts": parts, "figures": figures[0] if figures else None}


def figures_of(outcome: Outcome, part: Part) -> dict[str, Any] | None:
    """The derived figures of an outcome on one corpus, by name; None when it has none."""
    measurement, reference = part.measurement, part.reference
    if outcome.status is Status.ERROR:
        return None
    figures = Figures.of(measurement, reference)
    return {
        "perplexity": figures.perplexity,
        "reference_perplexity": figures.reference_perplexity,
        "ppl_delta": measurement.perplexity / reference.perplexity - 1,
        "bits_per_weight": figures.bits_per_weight,
        "compression": measurement.ledger.ratios,
        "kld": figures.kld,
        "top1": figures.top1,
        "tokens": measurement.windows.total_tokens,
    }
