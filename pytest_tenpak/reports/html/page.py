"""The run as one page that needs nothing else: no server, no network, no other file.

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
from ...metrics.measurement import Provenance
from ...verdict.frontier import pareto
from ..columns import COLUMNS, DELTA, KLD, Measured, Quantity, column_legend, percent
from ..escaping import NAME_LENGTH, short_name, shortened, visible, visible_lines
from ..wording import counts, run_words, verdict_words
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
    """Size against quality of the cases that are comparable."""

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
    return fill("report.html.j2", _page(summary))


def fill(template: str, values: Mapping[str, Any]) -> str:
    """A page made from a template, with the style, the script and the policy that all pages have."""
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
    return environment.get_template(template).render(
        css=Markup(css),
        js=Markup(js),
        policy=f"default-src 'none'; style-src {_hash(css)}; script-src {_hash(js)}; "
        "base-uri 'none'; form-action 'none'",
        **values,
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
        "verdict": _sentence(run_words(summary)),
        "counts": counts(summary.outcomes, len(summary.expected)),
        "version": metadata.version("pytest-tenpak"),
        "headers": ("verdict", "gate", "method", *(column.title for column in COLUMNS)),
        "legend": column_legend(COLUMNS),
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
        return [Row(*marks, outcome.title, method, [("", None)] * len(COLUMNS))]
    several = len(outcome.parts) > 1
    return [
        Row(
            *marks,
            f"{short_name(outcome.title)} on {part.corpus}" if several else outcome.title,
            method,
            [(column.text(row), column.sort_key(row)) for column in COLUMNS],
        )
        for part in outcome.parts
        for row in [Measured(outcome, part)]
    ]


def _sentence(words: str) -> str:
    """Words as the beginning of a sentence."""
    return words[:1].upper() + words[1:]


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
        _plane(shown, DELTA, "perplexity over the reference", "", percent, charts.share),
        _plane(shown, KLD, "mean KL divergence", "nats per token", KLD.brief.format, charts.number),
    ]
    kept = [figure for figure in figures if figure.svg]
    return Frontier(outcome.case.model or "", part.corpus, kept, len(group) - len(shown))


def _plane(
    group: Sequence[tuple[str, Outcome, Part]],
    quantity: Quantity,
    name: str,
    unit: str,
    show: charts.Show,
    show_tick: charts.Show,
) -> Figure:
    """Bits per weight against one figure, where there is one."""
    figures = [Measured(outcome, part).figures for _, outcome, part in group]
    found = [
        (anchor, outcome, one.bits_per_weight or 0.0, height)
        for (anchor, outcome, _), one in zip(group, figures, strict=True)
        if (height := quantity.value(one)) is not None and math.isfinite(height)
    ]
    best = pareto([(x, y) for _, _, x, y in found])
    points = [
        charts.Point(
            x,
            y,
            _last(outcome),
            _caption(outcome, x, show(y), n in best),
            anchor,
            tone(outcome) == "failed",
            n in best,
        )
        for n, (anchor, outcome, x, y) in enumerate(found)
    ]
    y_title = f"{name}, {unit}" if unit else name
    svg = charts.plane(points, "bits per weight of the quantized layers", y_title, show_tick)
    ringed = "Ringed and joined: the cases that no other beats in both. "
    caption = f"{ringed}Cross: failed. {len(points)} cases; each leads to its details."
    return Figure(f"Bits per weight against {name}", svg, caption)


def _caption(outcome: Outcome, bits: float, figure: str, is_best: bool) -> str:
    best = "; no other is better in both" if is_best else ""
    return f"{_last(outcome)}: {bits:.3f} bits per weight, {figure}, {verdict_words(outcome)}{best}"


def _last(outcome: Outcome) -> str:
    """The part of a test's id that tells it from its neighbours."""
    return short_name(outcome.title).rpartition("::")[2]


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
