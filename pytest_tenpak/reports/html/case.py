"""What the page shows of one case: the words of the terminal's report, and charts of what is behind them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...baselines.entry import Figures
from ...gate.outcome import Outcome, Part
from ...gate.summary import Summary
from ...metrics.intervals import Rule, estimate
from ...metrics.measurement import RATIOS, Divergence, Layers, Ledger, Measurement, Provenance
from ...verdict.audit import layer_fault
from ...verdict.checks import Check
from ...verdict.kinds import VS_REFERENCE, Unit
from ..blame import blame_evidence, blame_lines
from ..columns import BITS, COMPRESSION, KLD, TOP1, percent, perplexities
from ..escaping import short_name, visible, visible_lines
from ..speed import speed_lines
from ..wording import (
    Remedy,
    check_cells,
    figure,
    headline,
    loader,
    note_words,
    notes,
    remedy,
    robust_line,
    verdict_words,
)
from . import charts
from .heat import audit_cells, blame_cells, heat_map

#: Shares below this are those of rounding.
_NOTHING = 0.0005
#: The sign of a verdict, in addition to its word and its colour.
MARKS = {"passed": "✓", "improved": "▲", "new": "◆", "accepted": "✓", "failed": "✗", "skipped": "–"}


class Figure(NamedTuple):
    """One chart with its title and what is to be known about it."""

    title: str
    svg: str
    caption: str


class CheckView(NamedTuple):
    """One row of the checks: the terminal's words, the interval as a chart, and the evidence."""

    tone: str
    mark: str
    name: str
    before: str
    value: str
    difference: str
    bound: str
    svg: str
    evidence: str


class LedgerRow(NamedTuple):
    """One row of the ledger: what, its bytes, its weights, bits for each."""

    what: str
    size: str
    weights: str
    bits: str


@dataclass(frozen=True)
class PartView:
    """What was measured on one corpus."""

    corpus: str
    tiles: Sequence[tuple[str, str, str]]
    figures: Sequence[Figure]
    lines: Sequence[str]
    ledger: Sequence[LedgerRow]
    ratios: Sequence[tuple[str, str]]
    changes: Sequence[str]
    identity: Sequence[tuple[str, str]]
    provenance: Provenance


@dataclass(frozen=True)
class CaseView:
    """One case; ``anchor`` is its place in the page."""

    anchor: str
    title: str
    spec: str
    tone: str
    mark: str
    words: str
    reasons: Sequence[tuple[str, str]]
    problem: Sequence[str]
    checks: Sequence[CheckView]
    figures: Sequence[Figure]
    parts: Sequence[PartView]
    notes: Sequence[str]
    remedy: Remedy | None
    facts: Sequence[tuple[str, str]]


def tone(outcome: Outcome) -> str:
    """Which of MARKS an outcome has."""
    if outcome.skipped:
        return "skipped"
    if outcome.fails:
        return "failed"
    return "accepted" if outcome.status.failing else str(outcome.status)


def case_view(outcome: Outcome, anchor: str, summary: Summary, bars: int) -> CaseView:
    """All that the page says of one outcome; ``bars`` is how many a chart may have."""
    rule, written = summary.rule, summary.written
    failing = outcome.verdict.failing
    is_red = outcome.is_refused and not outcome.problem
    checks = [_check_view(check) for check in outcome.verdict.checks if not outcome.problem]
    if not any(check.kind is VS_REFERENCE for check in outcome.verdict.checks):
        checks += [row for part in outcome.parts for row in _unbounded(part, outcome, rule)]
    return CaseView(
        anchor=anchor,
        title=outcome.title,
        spec=str(outcome.case.spec),
        tone=tone(outcome),
        mark=MARKS[tone(outcome)],
        words=verdict_words(outcome),
        reasons=[] if outcome.problem else [(headline(check), check.evidence) for check in failing],
        problem=visible_lines(outcome.problem) if outcome.problem else [],
        checks=checks,
        figures=[*_audited(outcome), *_blamed(outcome)],
        parts=[_part_view(part, bars) for part in outcome.parts],
        notes=[*(_notes_on_red(outcome) if is_red else []), *notes([outcome], written)],
        remedy=remedy(outcome) if is_red else None,
        facts=_facts(outcome),
    )


def _notes_on_red(outcome: Outcome) -> list[str]:
    """What is said of a failing gate where :func:`notes` says it of passing ones."""
    note = note_words(outcome.update.note)
    return [*([note] if note else []), *map(visible, [*speed_lines(outcome), *blame_lines(outcome)])]


# ---------------------------------------------------------------- checks


def _check_view(check: Check) -> CheckView:
    tone = "failed" if check.status.failing else str(check.status)
    # Failing checks are listed with their evidence above, and some titles name it.
    evidence = "" if check.status.failing or check.kind.names_evidence else check.evidence
    return CheckView(tone, *check_cells(check), _interval(check), evidence)


def _interval(check: Check) -> str:
    """A chart of the check's figure with its interval and its bound; empty where there is no bound."""
    value = check.value if check.difference is None else check.difference
    if value is None or check.bound is None:
        return ""
    kind = check.kind
    return charts.interval(
        value,
        check.low,
        check.high,
        # What may fall by so much at most is bounded from below by a negative difference.
        -check.bound if kind.relative and kind.at_least else check.bound,
        least=kind.at_least,
        exact=check.decisive is None,
        zero=kind.relative or kind.from_zero,
        show=charts.share if kind.relative else _TICKS.get(kind.unit, charts.number),
    )


#: How figures are written at a check's axis, by their unit.
_TICKS: dict[Unit, charts.Show] = {
    Unit.RATIO: lambda figure: f"{figure:.4g}×",
    Unit.NATS: lambda figure: f"{figure:.4g}",
    Unit.SHARE: charts.share,
}


def _unbounded(part: Part, outcome: Outcome, rule: Rule | None) -> list[CheckView]:
    """Perplexity against the reference where no limit bounds it."""
    ours, theirs = part.measurement, part.reference
    if rule is None or not _are_paired(part) or not _is_finite(ours.perplexity, theirs.perplexity):
        return []
    found = estimate(_differences(part), ours.windows.tokens, rule, ours.windows.units).relative()
    low, high = (end if math.isfinite(end) else None for end in (found.low, found.high))
    if low is None or low <= -1:
        return []
    look = "at one look" if rule.fixed else "at any look"
    words = (
        f"{100 * (1 - rule.alpha):g}% interval {found.low:+.2%} to {found.high:+.2%} {look}; no limit is set"
    )
    svg = charts.interval(
        found.value, low, high, None, least=False, exact=False, zero=True, show=charts.share
    )
    name = VS_REFERENCE.title + (f" on {part.corpus}" if len(outcome.parts) > 1 else "")
    before, value = (figure(VS_REFERENCE.unit, one.perplexity) for one in (theirs, ours))
    return [CheckView("plain", "·", name, before, value, percent(found.value), "", svg, words)]


def _are_paired(part: Part) -> bool:
    ours, theirs = part.measurement.windows, part.reference.windows
    return ours.stream == theirs.stream and ours.tokens == theirs.tokens and ours.total_tokens > 0


def _is_finite(*figures: float) -> bool:
    return all(map(math.isfinite, figures))


def _differences(part: Part) -> list[float]:
    """NLL of the checkpoint minus the reference's, by window, in nats."""
    pairs = zip(part.measurement.windows.nll, part.reference.windows.nll, strict=True)
    return [ours - theirs for ours, theirs in pairs]


# ---------------------------------------------------------------- figures


def _audited(outcome: Outcome) -> Iterator[Figure]:
    """The heat map of the audited layers."""
    audit = outcome.audit
    if audit is None or audit.weights is None:
        return
    limits, layers = outcome.case.limits, audit.weights.layers
    broken = {layer.name for layer in layers if layer_fault(layer, limits.max_weight_error)}
    svg = heat_map(audit_cells(layers, broken))
    if svg:
        most = max((layer.factor for layer in layers if math.isfinite(layer.factor)), default=1.0)
        caption = (
            f"Error of each layer's weights; the darkest is {most:.2f} times that of rounding to nearest."
        )
        yield Figure("Weights beside the model's", svg, caption)


def _blamed(outcome: Outcome) -> Iterator[Figure]:
    """The heat map of the modules that carry the divergence."""
    blame = outcome.blame
    svg = heat_map(blame_cells(blame)) if blame else ""
    if blame and svg:
        name, share = next(iter(blame.shares.items()))
        inside = {module.name for module in blame.modules if module.layer is not None}
        outside = sum(part for module, part in blame.shares.items() if module not in inside)
        caption = f"Share of each module in the sum of all; the darkest is {name}, {share:.1%}."
        caption += f" Outside the layers: {outside:.1%}." if outside > _NOTHING else ""
        yield Figure("Divergence by module", svg, f"{caption} Measured: {blame_evidence(blame)}.")


def _part_view(part: Part, bars: int) -> PartView:
    ours = part.measurement
    figures = [_stretches(part, bars), *_divergences(ours), *_layers(ours.layers), _bytes(ours.ledger)]
    return PartView(
        corpus=part.corpus,
        tiles=_tiles(part),
        figures=[figure for figure in figures if figure and figure.svg],
        # Of the divergence the charts show everything.
        lines=[line for line in [robust_line(part)] if line],
        ledger=_ledger(ours.ledger),
        ratios=[
            (words, f"{ours.ledger.ratios[n]:.4f}×") for n, words in RATIOS.items() if n in ours.ledger.ratios
        ],
        changes=part.changes,
        identity=[*_flat(ours.identity), ("weights", _plain(f"sha256:{ours.weights_digest}"))],
        provenance=ours.provenance,
    )


def _tiles(part: Part) -> list[tuple[str, str, str]]:
    """The figures that are read first: name, figure, what belongs to it."""
    ours, figures = part.measurement, Figures.of(part.measurement, part.reference)
    tiles = [
        (VS_REFERENCE.title, percent(figures.ppl_delta), perplexities(figures)),
        (COMPRESSION.title, COMPRESSION.show(figures), COMPRESSION.legend),
        ("bits per weight", BITS.show(figures), BITS.legend),
        ("KL divergence", KLD.show(figures), "nats per token"),
        ("top-1 agreement", TOP1.show(figures), "of tokens"),
        ("evidence", f"{ours.windows.total_tokens:,}", f"of {ours.budget:,} tokens"),
    ]
    return [tile for tile in tiles if tile[1]]


def _stretches(part: Part, bars: int) -> Figure | None:
    """NLL increase by position in the text, of a long one in at most ``bars`` stretches of equal length."""
    if not _are_paired(part):
        return None
    tokens, differences = part.measurement.windows.tokens, _differences(part)
    size = math.ceil(len(tokens) / bars)
    firsts = range(0, len(tokens), size)
    counts = [sum(tokens[n : n + size]) for n in firsts]
    values = [
        math.fsum(differences[n : n + size]) / count if count else 0.0
        for n, count in zip(firsts, counts, strict=True)
    ]
    mean = math.fsum(differences) / sum(counts)
    worst = max(range(len(values)), key=values.__getitem__)
    start = sum(counts[:worst])
    each = "one window" if size == 1 else f"{size} windows"
    caption = (
        f"NLL of the checkpoint minus the reference's, nats per token. Each bar is {each} of "
        f"{len(tokens):,}; dashed: the mean, {mean:+.4f}. "
        f"Worst: {values[worst]:+.4f} in tokens {start:,} to {start + counts[worst]:,}."
    )
    name = "NLL increase by position in the text"
    return Figure(name, charts.stretches(values, counts, mean), caption)


def _divergences(measurement: Measurement) -> list[Figure]:
    windows, divergence = measurement.windows, measurement.divergence
    figures = []
    if windows.kld:
        means = [s / n for s, n in zip(windows.kld, windows.tokens, strict=True) if n]
        svg = charts.histogram(means, "nats per token, mean of a window")
        figures.append(Figure("KL divergence by window", svg, f"How many of {len(means):,} windows."))
    if divergence:
        figures.append(_tokens(divergence))
    return figures


def _tokens(divergence: Divergence) -> Figure:
    error = "" if divergence.error is None else f" ± {divergence.error:.4f}"
    caption = f"Nats, {divergence.kind}. Mean {divergence.mean:.4f}{error}; RMS Δp {divergence.rms_dp:.2%}."
    marks = [
        ("median", divergence.median),
        ("99%", divergence.p99),
        ("99.9%", divergence.p999),
        ("max", divergence.maximum),
    ]
    return Figure("KL divergence by token", charts.quantiles(marks), caption)


def _layers(layers: Layers) -> list[Figure]:
    """Gain and error of what each decoder layer adds."""
    about = {
        "gain": ("What it adds, along the reference's: 1 is the same", 1.0),
        "error": ("How far that is from the reference's, as a share of it", 0.0),
    }
    figures = []
    for name, (words, level) in about.items():
        row: Sequence[float] = getattr(layers, name)
        finite = [n for n, figure in enumerate(row) if math.isfinite(figure)]
        if finite:
            _, far = max((abs(row[n] - level), n) for n in finite)
            caption = f"{words}. Farthest: layer {far}, {row[far]:.3f}."
            svg = charts.lines([(name, list(enumerate(row)))], "decoder layer", level)
            figures.append(Figure(f"{name.capitalize()} by decoder layer", svg, caption))
    return figures


# ---------------------------------------------------------------- ledger and provenance


def _bytes(ledger: Ledger) -> Figure:
    rest = ledger.tensor_bytes - ledger.layer_bytes
    rows: list[tuple[str, list[tuple[str, float]]]] = [
        ("at 32 bit", [("whole", 4 * ledger.weights)]),
        ("at 16 bit", [("whole", 2 * ledger.weights)]),
        ("checkpoint", [("layers", ledger.layer_bytes), ("rest", rest)]),
    ]
    caption = (
        f"In the checkpoint: quantized layers {in_bytes(ledger.layer_bytes)}, all else {in_bytes(rest)}."
    )
    return Figure("Bytes of all weights", charts.amounts(rows, in_bytes), caption)


def in_bytes(amount: float) -> str:
    """As file managers show it: powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.4g} {unit}"
        amount /= 1000
    return f"{amount:.4g} TB"


def _ledger(ledger: Ledger) -> list[LedgerRow]:
    whole = 8 * ledger.tensor_bytes / ledger.weights
    rows = [LedgerRow("whole checkpoint", f"{ledger.tensor_bytes:,}", f"{ledger.weights:,}", f"{whole:.3f}")]
    bits = ledger.bits_per_weight
    if bits is not None:
        layers = (f"{ledger.layer_bytes:,}", f"{ledger.layer_weights:,}", f"{bits:.3f}")
        rows.append(LedgerRow("quantized layers", *layers))
    return [*rows, LedgerRow("weight files, headers included", f"{ledger.file_bytes:,}", "", "")]


def _flat(plain: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    """Nested fields, their names dotted."""
    rows = []
    for name, value in plain.items():
        rows += (
            _flat(value, f"{path}{name}.")
            if isinstance(value, Mapping)
            else [(f"{path}{name}", _plain(value))]
        )
    return rows


def _plain(value: Any) -> str:
    """A value as text; of a digest, its beginning."""
    if isinstance(value, str):
        return f"{value[:19]}…" if value.startswith("sha256:") else value
    return "none" if value is None else repr(value)


def _facts(outcome: Outcome) -> list[tuple[str, str]]:
    """Where the case is, what it asked, and what quantizing cost."""
    case, cost = outcome.case, outcome.quantizing
    rows = [
        ("test", f"{short_name(case.file)}:{case.line}"),
        ("model", case.model or "none named"),
        (
            "baseline",
            f"{outcome.baseline} [{outcome.device_class}]" if outcome.device_class else outcome.baseline,
        ),
    ]
    if outcome.parts:
        rows.append(("loaded by", loader(outcome)))
    if "seconds" in cost:
        peak = f", {in_bytes(cost['peak_bytes'])} of memory" if cost.get("peak_bytes") else ""
        rows.append(("quantizing took", f"{cost['seconds']:.1f} s{peak}"))
    return [(name, value) for name, value in rows if value]
