"""The run as one page that needs nothing else: no server, no network, no file beside it.

Names come from tests, models and machines and are trusted with nothing: the template escapes all it is
given, whatever a reader could not see is written out, and the page's policy runs no script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib import metadata, resources
from typing import Any, NamedTuple

from ...baselines.history import Past
from ...baselines.identity import MEASURED_ON
from ...errors import UnavailableError
from ...gate.outcome import Outcome, Part
from ...gate.summary import Summary
from ...metrics.measurement import HEADLINE, RATIOS, Provenance
from ..escaping import NAME_LENGTH, short_name, shortened, visible, visible_lines
from ..terminal import HEADERS, counts, figures_row, percent, verdict_words
from . import charts
from .case import MARKS, CaseView, Figure, case_view, tone

#: The most points of a baseline's past that are drawn.
_POINTS = 32
#: Where there are more cases than these, each is drawn in less detail.
_MANY = 50
#: Where a long id may be broken into lines.
_PLACES = re.compile(r"(?<=[/_@])(?=[^/_@])|(?<=::)|(?=\[)")


class Row(NamedTuple):
    """One line of the summary table; each cell with the figure that it is sorted by."""

    anchor: str
    tone: str
    mark: str
    words: str
    name: str
    method: str
    cells: Sequence[tuple[str, float | None]]


class Frontier(NamedTuple):
    """The cases that answer one question, beside one another."""

    model: str
    corpus: str
    figures: Sequence[Figure]
    left_out: int


def require() -> None:
    """Raise UnavailableError unless the page can be made."""
    try:
        import jinja2  # noqa: F401
    except ImportError:
        raise UnavailableError(
            "an HTML report needs the jinja2 library, which is not installed",
            remedy="pip install 'pytest-tenpak[report]'",
        ) from None


def render(summary: Summary) -> str:
    """The page."""
    require()
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        finalize=_inert,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cut"] = _cut
    environment.filters["breakable"] = lambda text: Markup("<wbr>").join(_PLACES.split(_cut(text)))
    css, js = _source("report.css"), _source("report.js")
    page = environment.get_template("report.html.j2")
    return page.render(
        css=Markup(css),
        js=Markup(js),
        policy=f"default-src 'none'; style-src {_hash(css)}; script-src {_hash(js)}; "
        "base-uri 'none'; form-action 'none'",
        **_page(summary),
    )


def _inert(value: object) -> object:
    """What the template is about to write, hidden characters written out; markup is ours and stays."""
    if isinstance(value, str) and not hasattr(value, "__html__") and not value.isprintable():
        return visible(value)
    return value


def _cut(text: str, limit: int = NAME_LENGTH) -> str:
    """``text`` visible, its middle left out where it is longer than the page can bear."""
    return shortened(str(_inert(text)), limit)


def _source(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    """A source of a content security policy: this text and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _page(summary: Summary) -> dict[str, Any]:
    """All that the template shows."""
    ordered = sorted(summary.outcomes, key=lambda o: (tone(o) != "failed", o.title))
    named = [(f"case-{n}", outcome) for n, outcome in enumerate(ordered, 1)]
    bars = charts.MOST_BARS if len(named) <= _MANY else charts.FEWER_BARS
    cases = [case_view(outcome, anchor, summary, bars) for anchor, outcome in named]
    return {
        "good": summary.ran_well,
        "verdict": summary.words,
        "counts": counts(summary.outcomes, len(summary.expected)),
        "version": metadata.version("pytest-tenpak"),
        "headers": ("verdict", "gate", "method", *HEADERS[2:-1]),
        "legend": f"compression: {RATIOS[HEADLINE]}; bits/weight: quantized layers; perplexity: reference → "
        "quantized; KLD: nats per token from the reference; top-1: same most likely token",
        "rows": [row for anchor, outcome in named for row in _rows(anchor, outcome)],
        "tallies": _tallies(ordered),
        "problems": [visible_lines(problem) for problem in summary.problems],
        "missing": summary.missing,
        "unused": summary.unused,
        "frontiers": _frontiers(named),
        # One point is no trend, and the table has it.
        "trends": [_trend(name, past) for name, past in sorted(summary.trends.items()) if len(past) > 1],
        "cases": cases,
        "environments": _environments(cases),
    }


def _environments(cases: Sequence[CaseView]) -> list[Provenance]:
    """What was measured with, each once: most cases of a run share it."""
    found: list[Provenance] = []
    for case in cases:
        found += [part.provenance for part in case.parts if part.provenance not in found]
    return found


def _tallies(outcomes: Sequence[Outcome]) -> list[tuple[str, str, int]]:
    """How many outcomes there are of each tone: tone, sign, count."""
    tones = [tone(outcome) for outcome in outcomes]
    return [(kind, mark, tones.count(kind)) for kind, mark in MARKS.items() if kind in tones]


def _rows(anchor: str, outcome: Outcome) -> list[Row]:
    """A row for each corpus, or one without figures."""
    kind = tone(outcome)
    marks = (anchor, kind, MARKS[kind], verdict_words(outcome))
    method = outcome.case.spec.title
    if not outcome.parts:
        return [Row(*marks, outcome.title, method, [("", None)] * (len(HEADERS) - 3))]
    several = len(outcome.parts) > 1
    return [
        Row(
            *marks,
            f"{short_name(outcome.title)} on {part.corpus}" if several else outcome.title,
            method,
            list(zip(figures_row(outcome, part), _sorted_by(outcome, part), strict=True)),
        )
        for part in outcome.parts
    ]


def _sorted_by(outcome: Outcome, part: Part) -> list[float | None]:
    """The figures behind :func:`figures_row`; None for what is not there, or is no number."""
    ours, divergence = part.measurement, part.measurement.divergence
    of_part = [check for check in outcome.verdict.checks if check.corpus in ("", part.corpus)]
    row: list[float | None] = [
        ours.ledger.bits_per_weight,
        ours.ledger.ratios[HEADLINE],
        ours.perplexity,
        _delta(part),
        divergence.mean if divergence else None,
        divergence.top1 if divergence else None,
        next((check.difference for check in of_part if check.name == "ppl_tolerance"), None),
        ours.windows.total_tokens,
    ]
    return [float(f"{x:.7g}") if x is not None and math.isfinite(x) else None for x in row]


def _delta(part: Part) -> float:
    return part.measurement.perplexity / part.reference.perplexity - 1


# ---------------------------------------------------------------- frontiers


def _frontiers(named: Sequence[tuple[str, Outcome]]) -> list[Frontier]:
    """A frontier for each question that at least two cases answer."""
    groups: dict[str, list[tuple[str, Outcome, Part]]] = {}
    for anchor, outcome in named:
        for part in outcome.parts:
            identity = part.measurement.identity
            question = json.dumps([identity.get(name) for name in MEASURED_ON], sort_keys=True)
            groups.setdefault(question, []).append((anchor, outcome, part))
    return [_frontier(group) for group in groups.values() if len(group) > 1]


def _frontier(group: Sequence[tuple[str, Outcome, Part]]) -> Frontier:
    _, outcome, part = group[0]
    shown = [row for row in group if row[2].measurement.ledger.bits_per_weight is not None]
    figures = [
        _plane(
            shown, "perplexity over the reference", {id(row[2]): _delta(row[2]) for row in shown}, percent
        ),
        _plane(
            shown,
            "mean KL divergence, nats per token",
            {id(row[2]): d.mean for row in shown if (d := row[2].measurement.divergence)},
            lambda figure: f"{figure:.4f}",
        ),
    ]
    kept = [figure for figure in figures if figure.svg]
    return Frontier(outcome.case.model or "", part.corpus, kept, len(group) - len(shown))


def _plane(
    group: Sequence[tuple[str, Outcome, Part]],
    y_title: str,
    heights: Mapping[int, float],
    show: charts.Show,
) -> Figure:
    """Bits per weight against one figure, where there is one."""
    rows = [row for row in group if math.isfinite(heights.get(id(row[2]), math.nan))]
    places = [(row[2].measurement.ledger.bits_per_weight or 0.0, heights[id(row[2])]) for row in rows]
    best = pareto(places)
    points = [
        charts.Point(
            x,
            y,
            _last(outcome),
            _told(outcome, x, show(y), n in best),
            anchor,
            tone(outcome) == "failed",
            n in best,
        )
        for n, ((anchor, outcome, _), (x, y)) in enumerate(zip(rows, places, strict=True))
    ]
    title = f"Bits per weight against {y_title.partition(',')[0]}"
    show_tick = charts.share if "perplexity" in y_title else charts.number
    svg = charts.plane(points, "bits per weight of the quantized layers", y_title, show_tick)
    named = "Ringed and joined: the cases that no other beats in both. "
    return Figure(title, svg, f"{named}Cross: failed. {len(points)} cases; each leads to its details.")


def _told(outcome: Outcome, bits: float, figure: str, is_best: bool) -> str:
    best = "; no other is better in both" if is_best else ""
    return f"{_last(outcome)}: {bits:.3f} bits per weight, {figure}, {verdict_words(outcome)}{best}"


def _last(outcome: Outcome) -> str:
    """The part of a test's id that tells it from its neighbours."""
    return short_name(outcome.title).rpartition("::")[2]


def pareto(places: Sequence[tuple[float, float]]) -> set[int]:
    """Which of the places no other beats: none is as low in both figures and lower in one."""
    best: set[int] = set()
    lowest = math.inf
    order = sorted(range(len(places)), key=places.__getitem__)
    for n in order:
        x, y = places[n]
        if y < lowest or any(places[m] == (x, y) for m in best):
            best.add(n)
            lowest = min(lowest, y)
    return best


# ---------------------------------------------------------------- trends


def _trend(name: str, past: Sequence[Past]) -> Figure:
    """A line of perplexity for each device class, over the commits that changed the baseline."""
    by_class: dict[str, list[tuple[float, float]]] = {}
    for n, one in enumerate(past):
        by_class.setdefault(one.device_class, []).append((float(n), one.figures.perplexity))
    rows = [(kind, _thinned(row)) for kind, row in sorted(by_class.items())]
    ends = (past[0].date[:10], past[-1].date[:10])
    drawn = sum(len(row) for _, row in rows)
    some = f", {drawn} of them drawn" if drawn < len(past) else ""
    latest = past[-1]
    figures = f"{latest.figures.perplexity:,.3f} at {latest.figures.compression:.2f}×"
    caption = (
        f"Perplexity as it was accepted, {len(past)} times{some}; {', '.join(sorted(by_class))}. "
        f"Latest: {figures}, commit {latest.commit[:10]}."
    )
    return Figure(name, charts.lines(rows, "commits that changed it, oldest first", ends=ends), caption)


def _thinned(row: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most _POINTS of a row, evenly, its ends among them."""
    if len(row) <= _POINTS:
        return list(row)
    return [row[round(n * (len(row) - 1) / (_POINTS - 1))] for n in range(_POINTS)]
