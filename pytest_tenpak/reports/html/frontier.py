"""The answer of ``tenpak recommend`` as a page: compression against perplexity, bounds, every recipe."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from importlib import metadata
from itertools import pairwise
from typing import NamedTuple

from ...verdict.advice import Advice, Place, Row
from ..columns import BITS, COMPRESSION, KLD, TOP1, percent, quantity_legend
from ..escaping import short_name
from ..recommendation import (
    bounds_words,
    compression,
    duration,
    headline,
    interval,
    marker_lines,
    near_words,
    place_words,
)
from . import charts
from .page import fill

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 700, 34, 352
#: A recipe that loses so many times what is asked for is drawn at the upper edge, with its figure.
_FAR = 12.0
#: The longest name that is shown whole.
_LONGEST = 34
#: A letter of a label, the height of a line, and half the width of what is drawn for a point.
_LETTER, _LINE, _DOT = 6.0, 12.0, 8.0
#: How far above or below a point its label may stand, on either side of it.
_SHIFTS = (-8, 16, -22, 30, -36, 44, -50)

HEADERS = (
    *("recipe", "stands", COMPRESSION.title, BITS.title, "Δ reference", "interval", KLD.title, TOP1.title),
    *("tokens", "quantizing"),
)


class Mark(NamedTuple):
    """A recipe in the chart: its place in pixels, its row, and whether it lies beyond the upper edge."""

    x: float
    y: float
    row: Row
    anchor: str
    is_far: bool


class Box(NamedTuple):
    """A rectangle that a label may not cover."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """Whether the two have any place in common."""
        apart = self.right < other.left or other.right < self.left
        return not (apart or self.bottom < other.top or other.bottom < self.top)


def render(advice: Advice) -> str:
    """The page."""
    anchors = {row.name: f"recipe-{n}" for n, row in enumerate(advice.rows, 1)}
    row = advice.picked
    return fill(
        "recommend.html.j2",
        {
            "version": metadata.version("pytest-tenpak"),
            "advice": advice,
            "good": row is not None,
            "headline": headline(advice),
            "bounds": bounds_words(advice),
            "took": duration(advice.seconds),
            "marker": "\n".join(marker_lines(row.marker, 100)) if row else "",
            "near": [near_words(near, advice) for near in advice.near],
            "chart": chart(advice, anchors),
            "headers": HEADERS,
            "rows": [(anchors[one.name], one, _cells(one)) for one in _ordered(advice)],
            "stands": {one.name: place_words(one) for one in advice.rows},
            "legend": quantity_legend((COMPRESSION, BITS, KLD, TOP1)),
        },
    )


def _ordered(advice: Advice) -> list[Row]:
    return [row for place in Place for row in advice.placed(place)]


def _cells(row: Row) -> list[str]:
    figures = row.figures
    return [
        compression(row),
        BITS.show(figures) if figures else "",
        percent(figures.ppl_delta) if figures else "",
        interval(row.delta) if figures else "",
        KLD.show(figures) if figures else "",
        TOP1.show(figures) if figures else "",
        f"{row.tokens:,} of {row.budget:,}" if row.tokens else "",
        duration(row.seconds) if row.compression else "",
    ]


# ---------------------------------------------------------------- the chart


def chart(advice: Advice, anchors: dict[str, str]) -> str:
    """Recipes by compression and perplexity change, with intervals; what the bounds refuse is shaded."""
    rows = [row for row in advice.rows if row.delta is not None and math.isfinite(row.delta.value)]
    if not rows:
        return ""
    x, y, most = _axes(advice, rows)
    marks = [_mark(row, anchors[row.name], x, y, most) for row in rows]
    bounds = [*_bound_lines(advice, x, y)]
    lines = [*_steps(marks), *(line for _, line, _ in bounds), *(words for _, _, words in bounds)]
    body = [
        *_shaded(advice, x, y),
        *_grid(x, y),
        *_bounds(advice, x, y),
        *_frontier(marks),
        *(_whisker(mark, y) for mark in marks),
        *(_dot(mark, mark.row.name == advice.pick) for mark in marks),
        *_labels(marks, y, advice.pick, lines),
    ]
    return charts.svg(body, _WIDTH, _HEIGHT)


def _axes(advice: Advice, rows: Sequence[Row]) -> tuple[charts.Axis, charts.Axis, float]:
    """Both axes, and the perplexity change beyond which recipes stand at the upper edge."""
    values = [row.delta.value for row in rows if row.delta]
    kept = [row.delta.value for row in rows if row.delta and row.place is Place.FRONTIER]
    asked = advice.max_ppl_delta or 0.0
    most = max(_FAR * max(asked, 0.005), 1.2 * max(kept, default=0.0))
    shown = [0.0, asked, *(value for value in values if value <= most)]
    arms = [end for row in rows if row.delta for end in (row.delta.low, row.delta.high)]
    # Intervals have room where that does not flatten everything else.
    room = 0.5 * (max(shown) - min(shown)) or 0.01
    shown += [min(max(end, min(shown) - room), max(shown) + room) for end in arms if math.isfinite(end)]
    widths = [row.compression or 1.0 for row in rows]
    x = charts.axis_of([*widths, advice.min_compression or widths[0]], _LEFT, _RIGHT, pad=0.16)
    return x, charts.axis_of(shown, _BOTTOM, _TOP, pad=0.08), most


def _mark(row: Row, anchor: str, x: charts.Axis, y: charts.Axis, most: float) -> Mark:
    assert row.delta is not None
    is_far = row.delta.value > most
    return Mark(x(row.compression or 1.0), _TOP + 4 if is_far else y(row.delta.value), row, anchor, is_far)


def _shaded(advice: Advice, x: charts.Axis, y: charts.Axis) -> Iterator[str]:
    """What the bounds refuse: too much perplexity, too little compression."""
    wide = _RIGHT - _LEFT
    if advice.max_ppl_delta is not None:
        height = y(advice.max_ppl_delta) - _TOP
        yield f"<rect class=refused x={_LEFT} y={_TOP} width={wide} height={height} />"
    if advice.min_compression is not None:
        tall, top = _BOTTOM - _TOP, _TOP
        if advice.max_ppl_delta is not None:
            top = y(advice.max_ppl_delta)
            tall = _BOTTOM - top
        width = x(advice.min_compression) - _LEFT
        yield f"<rect class=refused x={_LEFT} y={top} width={width} height={tall} />"


def _grid(x: charts.Axis, y: charts.Axis) -> Iterator[str]:
    for tick in y.ticks(6):
        yield f'<path class=grid d="M{_LEFT} {y(tick)}H{_RIGHT}"/>'
        yield charts.text(_LEFT - 6, y(tick) + 4, charts.share(tick), "end")
    for tick in x.ticks(8):
        yield charts.text(x(tick), _BOTTOM + 16, f"{charts.number(tick)}×", "middle")
    yield charts.text(
        4, 14, "perplexity over the unquantized model’s, relative (lower is better)", kind="name"
    )
    title = f"compression, {COMPRESSION.legend} (more is better)"
    yield charts.text(_RIGHT, _BOTTOM + 36, title, "end", "name")


def _bounds(advice: Advice, x: charts.Axis, y: charts.Axis) -> Iterator[str]:
    for words, line, at in _bound_lines(advice, x, y):
        yield f'<path class=bound d="M{line.left} {line.top}L{line.right} {line.bottom}"/>'
        yield charts.text(at.left, at.bottom - 3, words, kind="strong")


def _bound_lines(advice: Advice, x: charts.Axis, y: charts.Axis) -> Iterator[tuple[str, Box, Box]]:
    """Each bound as the marker has it, the line that is drawn, and where its words stand."""
    if advice.max_ppl_delta is not None:
        at = y(advice.max_ppl_delta)
        words = f"max_ppl_delta={advice.max_ppl_delta:g}"
        wide = _LETTER * len(words)
        crossing = x(advice.min_compression) if advice.min_compression is not None else _RIGHT
        left = _LEFT + 4 if crossing > _LEFT + wide + 8 else _RIGHT - 4 - wide
        place = Box(left, at - 5 - _LINE, left + wide, at - 2)
        yield words, Box(_LEFT, at, _RIGHT, at), place
    if advice.min_compression is not None:
        at = x(advice.min_compression)
        words = f"min_compression={advice.min_compression:g}"
        wide = _LETTER * len(words)
        left = at - 8 - wide if at - _LEFT > wide + 12 else at + 6
        yield words, Box(at, _TOP, at, _BOTTOM), Box(left, _TOP + 4, left + wide, _TOP + 7 + _LINE)


def _frontier(marks: Sequence[Mark]) -> Iterator[str]:
    """The recipes that none beats, joined."""
    for line in _steps(marks):
        yield f'<path class=frontier d="M{line.left} {line.top}L{line.right} {line.bottom}"/>'


def _steps(marks: Sequence[Mark]) -> Iterator[Box]:
    """The lines between neighbours on the frontier: up at the smaller compression, then to the right."""
    best = sorted((mark.x, mark.y) for mark in marks if mark.row.place is Place.FRONTIER)
    for (x, y), (next_x, next_y) in pairwise(best):
        yield Box(x, min(y, next_y), x, max(y, next_y))
        yield Box(x, next_y, next_x, next_y)


def _ends(mark: Mark, y: charts.Axis) -> tuple[float, float] | None:
    """Where the interval is drawn: its upper and lower end within the chart."""
    delta = mark.row.delta
    if mark.is_far or delta is None or not math.isfinite(delta.half_width):
        return None
    return max(_TOP, y(delta.high)), min(_BOTTOM, y(delta.low))


def _whisker(mark: Mark, y: charts.Axis) -> str:
    ends = _ends(mark, y)
    if ends is None:
        return ""
    top, bottom = ends
    caps = "".join(f"M{mark.x - 4} {end}h8" for end in ends if _TOP < end < _BOTTOM)
    return f'<path class=cap d="M{mark.x} {top}V{bottom}{caps}"/>'


def _dot(mark: Mark, is_pick: bool) -> str:
    """A circle, or a cross where it is out; a ring around what is recommended; a link to its row."""
    x, y, row = mark.x, mark.y, mark.row
    drawn = f"<circle class=value cx={x} cy={y} r=5 />"
    if row.place not in (Place.FRONTIER, Place.BEATEN) or row.out:
        drawn = f'<path class=cross d="M{x - 4} {y - 4}l8 8m0 -8l-8 8"/>'
    ring = f"<circle class=ring cx={x} cy={y} r=10 />" if is_pick else ""
    title = charts.text(0, 0, f"{row.name}: {compression(row)}, {place_words(row)}")
    words = title[title.index(">") + 1 : title.rindex("<")]
    return f'<a href="#{mark.anchor}"><title>{words}</title>{ring}{drawn}</a>'


def _labels(marks: Sequence[Mark], y: charts.Axis, pick: str, lines: Sequence[Box]) -> Iterator[str]:
    """The names of the points, each where it covers nothing, or at least no point and no other name."""
    taken = [Box(mark.x - _DOT, mark.y - _DOT, mark.x + _DOT, mark.y + _DOT) for mark in marks]
    taken += [Box(m.x - 3, ends[0], m.x + 3, ends[1]) for m in marks if (ends := _ends(m, y))]
    order = sorted(marks, key=lambda mark: (mark.row.name != pick, [*Place].index(mark.row.place)))
    for mark in order:
        name = _label(mark)
        places = _places(mark, name, _ends(mark, y) or (mark.y - _DOT, mark.y + _DOT))
        fits = [box for box in places if _is_inside(box) and not _covers(box, taken)]
        free = [box for box in fits if not _covers(box, lines)]
        for box in (free or fits)[:1]:
            taken.append(box)
            middle = (box.left + box.right) / 2
            # What is estimated to be as wide as its box is drawn from the side where its point is.
            anchor, at = ("start", box.left) if middle > mark.x else ("end", box.right)
            anchor, at = ("middle", middle) if box.left < mark.x < box.right else (anchor, at)
            kind = "strong" if mark.row.name == pick else ""
            yield charts.text(at, box.bottom - 3, name, anchor, kind)


def _label(mark: Mark) -> str:
    name = short_name(mark.row.name)
    name = name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
    return f"{name} ↑ {percent(mark.row.delta.value)}" if mark.is_far and mark.row.delta else name


def _is_inside(box: Box) -> bool:
    return box.left >= 0 and box.right <= _WIDTH and box.top >= _TOP - 14 and box.bottom <= _BOTTOM


def _covers(box: Box, others: Sequence[Box]) -> bool:
    return any(box.overlaps(other) for other in others)


def _places(mark: Mark, name: str, ends: tuple[float, float]) -> Iterator[Box]:
    """Where a name may stand, the best first: beside its point, then above or below its interval."""
    wide = _LETTER * len(name)
    for dy in _SHIFTS:
        for left in (mark.x + 12, mark.x - 12 - wide):
            yield Box(left, mark.y + dy - _LINE + 2, left + wide, mark.y + dy + 3)
    # Over the point, or as far to the side as it takes to stay inside.
    left = min(max(mark.x - wide / 2, 0), _WIDTH - wide)
    for top in (ends[0] - 4 - _LINE, ends[1] + 4):
        yield Box(left, top, left + wide, top + _LINE + 1)
