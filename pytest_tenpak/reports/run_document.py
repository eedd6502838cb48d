"""A run as one JSON document, for ``--tenpak-json``, and back."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from ..baselines.entry import Figures
from ..baselines.history import Past
from ..errors import ReportError
from ..gate.outcome import Outcome, Part
from ..gate.summary import Summary
from ..metrics.intervals import Rule
from ..store.strict_json import parse_json, schema_fault
from ..verdict.checks import Status
from .columns import COMPRESSION, DELTA, QUANTITIES

SCHEMA_VERSION = 1


def render(summary: Summary) -> str:
    """The document as text."""
    return json.dumps(document(summary), indent=1, sort_keys=True, allow_nan=False) + "\n"


def document(summary: Summary) -> dict[str, Any]:
    """The summary in the form of ``schemas/run-1.json``, each outcome with its derived figures."""
    plain = {
        "schema_version": SCHEMA_VERSION,
        "tenpak": metadata.version("pytest-tenpak"),
        "rule": summary.rule and summary.rule._asdict(),
        "expected": list(summary.expected),
        "ran": sum(not outcome.skipped for outcome in summary.outcomes),
        "missing": list(summary.missing),
        "written": list(summary.written),
        "unused": list(summary.unused),
        "problems": list(summary.problems),
        "outcomes": [_plain(outcome) for outcome in summary.outcomes],
        "trends": {name: [asdict(past) for past in row] for name, row in summary.trends.items()},
    }
    finite: dict[str, Any] = _finite(plain)
    return finite


def _plain(outcome: Outcome) -> dict[str, Any]:
    plain = outcome.to_dict()
    figures = [figures_of(outcome, part) for part in outcome.parts]
    parts = [{**row, "figures": own} for row, own in zip(plain["parts"], figures, strict=True)]
    return {**plain, "parts": parts, "figures": figures[0] if figures else None}


def figures_of(outcome: Outcome, part: Part) -> dict[str, Any] | None:
    """The derived figures of an outcome on one corpus, by name; None when it has none."""
    if outcome.status is Status.ERROR:
        return None
    exact = Figures.of(part.measurement, part.reference)
    stored = exact.rounded()
    return {
        **{quantity.name: quantity.value(stored) for quantity in QUANTITIES},
        "reference_perplexity": stored.reference_perplexity,
        # A quotient of rounded figures would be a rounded one.
        DELTA.name: DELTA.value(exact),
        COMPRESSION.name: part.measurement.ledger.ratios,
        "tokens": part.measurement.windows.total_tokens,
    }


def _finite(plain: Any) -> Any:
    """``plain`` with null for what JSON has no number for, and for token figures of which one is such."""
    if isinstance(plain, dict):
        rows = {key: _finite(value) for key, value in plain.items()}
        for key in ("robust", "divergence"):
            if isinstance(plain.get(key), dict) and any(
                rows[key][name] != value for name, value in plain[key].items()
            ):
                rows[key] = None
        return rows
    if isinstance(plain, (list, tuple)):
        return [_finite(item) for item in plain]
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


# ---------------------------------------------------------------- reading


def read_document(path: Path) -> Summary:
    """The run that the document at ``path`` describes.

    Raises ReportError, naming file and field, for anything that is not a whole and consistent document of
    this schema version.
    """
    try:
        plain = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as fault:
        _refuse(path, "cannot be read", str(fault))
    except (ValueError, RecursionError) as fault:
        _refuse(path, "is not valid JSON", str(fault))
    _check_version(path, plain)
    departure = schema_fault(plain, __package__, f"run-{SCHEMA_VERSION}")
    if departure is not None:
        _refuse(path, f"has a fault in {departure[0]}", departure[1])
    try:
        outcomes = [_outcome(row) for row in plain["outcomes"]]
        again = [_plain(outcome) for outcome in outcomes]
    except (ArithmeticError, KeyError, TypeError, ValueError) as fault:
        _refuse(path, "contradicts itself", f"{type(fault).__name__}: {fault}")
    for row, own in zip(plain["outcomes"], again, strict=True):
        _check_consistency(path, row, own)
    return Summary(
        outcomes=tuple(outcomes),
        expected=tuple(plain["expected"]),
        written=tuple(plain["written"]),
        unused=tuple(plain["unused"]),
        problems=tuple(plain["problems"]),
        trends={name: tuple(map(_past, row)) for name, row in plain["trends"].items()},
        rule=Rule(**plain["rule"]) if plain["rule"] else None,
    )


def _outcome(row: dict[str, Any]) -> Outcome:
    """The outcome, its derived figures left to be derived again."""
    parts = [{k: v for k, v in part.items() if k != "figures"} for part in row["parts"]]
    return Outcome.from_dict({**{k: v for k, v in row.items() if k != "figures"}, "parts": parts})


def _past(row: dict[str, Any]) -> Past:
    return Past(**{**row, "figures": Figures(**row["figures"])})


def _refuse(path: Path, problem: str, given: str) -> NoReturn:
    raise ReportError(
        f"the report {path} {problem}",
        given=given[:300],
        accepted=f"what --tenpak-json writes, of schema version {SCHEMA_VERSION}",
        remedy="run the gates again with --tenpak-json, or leave the file out",
    )


def _check_version(path: Path, plain: Any) -> None:
    version = plain.get("schema_version") if isinstance(plain, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ReportError(
            f"the report {path} was written by a newer pytest-tenpak",
            given=f"schema_version {version}",
            accepted=f"schema_version {SCHEMA_VERSION}",
            remedy="upgrade pytest-tenpak",
        )
    if version != SCHEMA_VERSION or isinstance(version, bool):
        _refuse(path, "has no schema version that is known", f"schema_version {version!r}")


def _check_consistency(path: Path, row: dict[str, Any], own: dict[str, Any]) -> None:
    """What a schema cannot say: the status is that of the checks, the figures are those of the windows."""
    gate = row["case"]["nodeid"]
    if row["verdict"]["status"] != own["verdict"]["status"]:
        given = f"{row['verdict']['status']} where its checks give {own['verdict']['status']}"
        _refuse(path, f"contradicts itself about the status of {gate}", given)
    for part, derived in zip(row["parts"], own["parts"], strict=True):
        given, found = (one["figures"] and one["figures"]["perplexity"] for one in (part, derived))
        if (given is None) != (found is None) or (found and not math.isclose(given, found, rel_tol=1e-6)):
            _refuse(path, f"contradicts itself about the perplexity of {gate}", f"{given}, not {found}")
