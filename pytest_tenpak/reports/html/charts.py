"""Small charts as SVG: figures in, markup out. Colours come from the page's style sheet, by class.

What is not finite is left out, and a chart without figures is empty text. Nothing here trusts a name:
every text is made visible and escaped. A page has thousands of charts, so markup is as short as HTML lets
it be: attributes without quotes, places in whole pixels where nobody sees the difference.

By hand, since no chart library puts thousands of charts into a page of some megabytes, without scripts, in
the reader's light or dark colours.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import accumulate, groupby
from typing import NamedTuple

from ..escaping import NAME_LENGTH, short_name, shortened, visible

#: One size of chart, so that its letters are as large everywhere; the page sets how many stand in a row.
WIDTH, HEIGHT = 360, 190
#: The plot's edges inside it.
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 350, 12, 160
#: A text of one line takes about so much room for each of its characters.
_LETTER = 6.2
#: More names than this hide one another.
_NAMED = 12
#: A line through more points than these needs no dots.
_MOST_DOTS = 24
#: More bars than this cannot be distinguished; where there are many charts, fewer do.
MOST_BARS, FEWER_BARS = 120, 50

#: A tag, and in it an attribute without quotes, as HTML allows and XML does not.
_TAG = re.compile(r"<[^>]*>")
_BARE = re.compile(r"(?<=\s)([a-z][a-z0-9-]*)=([^\s\"'>/]+)(?=[\s>/])")
#: The report's colours for charts that stand alone, where no page has a style sheet for them; without CSS
#: variables, which programs that convert pictures do not know.
_LIGHT = ("#fbfaf8", "#1d2430", "#5a6472", "#e3e1dc", "#0068a8", "#c05000", "#00795a", "#8a4a86")
_DARK = ("#14171c", "#e6e8ec", "#a2abb8", "#2f3540", "#64b5ec", "#f0904a", "#4ccaa0", "#d398cf")
_COLOURS = (
    ".standalone{{background:{}}}.standalone .head{{fill:{}}}.standalone text{{fill:{}}}"
    ".grid{{stroke:{}}}.row0{{stroke:{}}}.row1{{stroke:{}}}.row2{{stroke:{}}}.row3{{stroke:{}}}"
)
_STANDALONE = (
    f"{_COLOURS.format(*_LIGHT)}@media(prefers-color-scheme:dark){{{_COLOURS.format(*_DARK)}}}"
    ".standalone text{font:10.5px sans-serif}.standalone .head{font:bold 12px sans-serif}"
    ".standalone path{fill:none;stroke-linejoin:round}.row{stroke-width:1.75}"
    ".row1{stroke-dasharray:7 3}.row2{stroke-dasharray:2 3}.row3{stroke-dasharray:9 3 2 3}"
    ".standalone .dots{stroke-width:5;stroke-linecap:round;stroke-dasharray:none}"
)

Show = Callable[[float], str]


class Point(NamedTuple):
    """One case in a plane: where it is, its name, the place in the page it links to, and its marks."""

    x: float
    y: float
    name: str
    caption: str
    link: str
    failed: bool
    best: bool


class Axis(NamedTuple):
    """From figures to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, figure: float) -> int:
        """The pixel where a figure is."""
        low, high, at = self.low, self.high, figure
        if self.log:
            low, high, at = map(math.log, (low, high, at))
        return round(self.start + (at - low) / (high - low) * (self.end - self.start))

    def ticks(self, count: int = 4) -> list[float]:
        """Round figures between the ends."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1,) if math.log10(self.high / self.low) > 2.5 else (1, 2, 5)
            return [m * 10.0**p for p in powers for m in steps if self.low <= m * 10.0**p <= self.high]
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(n * step, 12) for n in range(first, last + 1)]


def axis_of(figures: Iterable[float], start: float, end: float, pad: float = 0.06, log: bool = False) -> Axis:
    """An axis with room for all figures; for one figure alone, with that in its middle."""
    low, high = _ends(figures)
    if log:
        return Axis(low / 1.4, high * 1.4, start, end, log=True)
    margin = (high - low) * pad or abs(high) * 0.1 or 1.0
    return Axis(low - margin, high + margin, start, end)


def _ends(figures: Iterable[float]) -> tuple[float, float]:
    finite = [x for x in figures if math.isfinite(x)]
    return min(finite), max(finite)


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    """One line of letters."""
    css = f" class={kind}" if kind else ""
    where = "" if anchor == "start" else f" text-anchor={anchor}"
    return f"<text x={x:.0f} y={y:.0f}{where}{css}>{_inert(words)}</text>"


def _inert(words: str) -> str:
    is_plain = words.isprintable() and len(words) <= NAME_LENGTH
    return escape(words if is_plain else short_name(words))


def svg(body: Iterable[str], width: int = WIDTH, height: int = HEIGHT) -> str:
    """A chart of this size."""
    return f'<svg class=chart viewBox="0 0 {width} {height}">{"".join(body)}</svg>'


def standalone(sections: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    """Charts as one SVG file with a style of its own, light and dark.

    A section is a heading, and charts with their titles side by side; sections stand one below the other.
    """
    head, gap = 40, 14
    width = WIDTH * max(len(charts) for _, charts in sections)
    body = []
    for n, (heading, charts) in enumerate(sections):
        top = n * (head + HEIGHT + gap)
        body.append(text(8, top + 18, shortened(visible(heading), int(width / _LETTER) - 4), kind="head"))
        for column, (title, chart) in enumerate(charts):
            left = column * WIDTH
            body.append(text(left + 8, top + 34, title))
            body.append(f"<svg x={left} y={top + head} width={WIDTH} height={HEIGHT}>{chart}</svg>")
    height = len(sections) * (head + HEIGHT + gap)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="standalone" viewBox="0 0 {width} {height}">'
        f"<style>{_STANDALONE}</style>{_quoted(''.join(body))}</svg>\n"
    )


def _quoted(markup: str) -> str:
    """Charts as XML, whose attributes need the quotes that HTML does without."""
    return _TAG.sub(lambda tag: _BARE.sub(r'\1="\2"', tag[0]), markup)


def _frame(x: Axis, y: Axis, x_title: str, show_x: Show, show_y: Show, whole: bool = False) -> Iterable[str]:
    """Grid lines with their figures (of y only ``whole`` ones, for what is counted), and the name below."""
    ticks = [tick for tick in y.ticks() if not whole or tick == int(tick)]
    yield f'<path class=grid d="{"".join(f"M{_LEFT} {y(tick)}H{_RIGHT}" for tick in ticks)}"/>'
    yield "<g text-anchor=end>"
    yield from (text(_LEFT - 5, y(tick) + 4, show_y(tick)) for tick in ticks)
    yield text(_RIGHT, _BOTTOM + 27, x_title) + "</g><g text-anchor=middle>"
    yield from (text(x(tick), _BOTTOM + 13, show_x(tick)) for tick in x.ticks())
    yield "</g>"


def number(figure: float) -> str:
    """A figure at an axis, with no digit more than it takes."""
    return f"{figure:,.10g}" if abs(figure) >= 1e-4 or not figure else f"{figure:.0e}"


def share(figure: float) -> str:
    """A relative difference at an axis."""
    return f"{figure * 100:+.4g}%" if figure else "0"


# ---------------------------------------------------------------- of one check


def interval(
    value: float,
    low: float | None,
    high: float | None,
    bound: float | None,
    *,
    least: bool,
    exact: bool,
    zero: bool,
    show: Show,
) -> str:
    """A figure with its interval, and its bound: the most that it may be (the ``least``).

    An end that is None is open, unless the figure is ``exact``; ``zero`` puts 0 on the axis.
    """
    marks = [x for x in (value, low, high, bound, 0.0 if zero else None) if x is not None]
    if not all(map(math.isfinite, marks)):
        return ""
    x = axis_of(marks, 4, 216, pad=0.14)
    body = ['<path class=line d="M4 15H216"/>']
    if bound is not None:
        edge = x(bound)
        refused = (4, edge - 4) if least else (edge, 216 - edge)
        body = [
            f"<rect class=refused x={refused[0]:g} y=4 width={refused[1]:g} height=22 />",
            *body,
            f'<path class=bound d="M{edge} 2V28"/>',
            text(min(max(edge, 26), 194), 39, show(bound), "middle"),
        ]
    if zero and (bound is None or abs(x(0) - x(bound)) > 36):
        body += [f'<path class=zero d="M{x(0)} 8V22"/>', text(x(0), 39, "0", "middle")]
    if not exact:
        ends = (4.0 if low is None else x(low), 216.0 if high is None else x(high))
        body.append(f'<path class=span d="M{ends[0]} 15H{max(ends[1], ends[0] + 1)}"/>')
        known = [end for end, limit in zip(ends, (low, high), strict=True) if limit is not None]
        body.append(f'<path class=cap d="{"".join(f"M{end} 10V20" for end in known)}"/>')
    body.append(f"<circle class=value cx={x(value)} cy=15 r=4.5 />")
    return svg(body, 220, 42)


# ---------------------------------------------------------------- of one measurement


def stretches(values: Sequence[float], tokens: Sequence[int], mean: float) -> str:
    """A step for each stretch of a text, as wide as it has tokens: up for worse, down for better."""
    if not values or not all(map(math.isfinite, values)):
        return ""
    x = Axis(0, sum(tokens), _LEFT, _RIGHT)
    y = axis_of((0.0, *values), _BOTTOM, _TOP)
    body = [*_frame(x, y, "scored tokens from the start of the text", number, number)]
    for kind, sign in (("worse", 1), ("better", -1)):
        if any(sign * value > 0 for value in values):
            steps = _steps([max(sign * value, 0) * sign for value in values], tokens, x, y)
            body.append(f'<path class={kind} d="M{_LEFT} {y(0)}{steps}V{y(0)}Z"/>')
    body += [
        f'<path class=zero d="M{_LEFT} {y(0)}H{_RIGHT}"/>',
        f'<path class=mean d="M{_LEFT} {y(mean)}H{_RIGHT}"/>',
    ]
    return svg(body)


def _steps(values: Sequence[float], tokens: Sequence[int], x: Axis, y: Axis) -> str:
    """The outline over stretches of these values; those of one height are one step."""
    ends = [(y(value), x(end)) for value, end in zip(values, accumulate(tokens), strict=True)]
    groups = [list(group) for _, group in groupby(ends, key=lambda end: end[0])]
    return "".join(f"V{group[-1][0]}H{group[-1][1]}" for group in groups)


def histogram(values: Sequence[float], x_title: str) -> str:
    """How many of the values fall where, in about as many columns as their number bears."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    low, high = _ends(finite)
    columns = 1 if low == high else min(24, max(5, math.ceil(2 * len(finite) ** (1 / 3))))
    step = (high - low) / columns or 1.0
    in_column = Counter(int((value - low) / step) for value in finite)
    counted = [in_column[n] for n in range(columns)]
    # The highest one stands on the last edge.
    counted[-1] += sum(count for n, count in in_column.items() if n >= columns)
    x = axis_of((low, high) if high > low else (low - 0.5, low + 0.5), _LEFT, _RIGHT, pad=0.02)
    y = Axis(0, max(counted) * 1.08, _BOTTOM, _TOP)
    edges = [low, high] if high > low else [low - 0.02, low + 0.02]
    width = (edges[1] - edges[0]) / columns
    steps = "".join(f"V{y(count)}H{x(edges[0] + (n + 1) * width)}" for n, count in enumerate(counted))
    body = [*_frame(x, y, x_title, number, number, whole=True)]
    body.append(f'<path class=count d="M{x(edges[0])} {_BOTTOM}{steps}V{_BOTTOM}Z"/>')
    return svg(body)


def lines(
    rows: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    x_title: str,
    level: float | None = None,
    ends: tuple[str, str] | None = None,
) -> str:
    """A line through each row's (x, y); ``level`` is drawn across, ``ends`` stand for the figures of x."""
    points = [point for _, row in rows for point in row if math.isfinite(point[1])]
    if not points:
        return ""
    named = len(rows) > 1
    x = axis_of((0.0, 1.0, *(px for px, _ in points)), _LEFT + 6, _RIGHT - 6, pad=0)
    y = axis_of([*(py for _, py in points), *([] if level is None else [level])], _BOTTOM, _TOP + 10 * named)
    body = list(_frame(x, y, x_title, number if ends is None else (lambda _: ""), number))
    if ends:
        body += [text(_LEFT, _BOTTOM + 13, ends[0]), text(_RIGHT, _BOTTOM + 13, ends[1], "end")]
    if level is not None:
        body.append(f'<path class=zero d="M{_LEFT} {y(level)}H{_RIGHT}"/>')
    at = float(_LEFT)
    for n, (name, row) in enumerate(rows):
        kind = f"row{n % 4}"
        body.append(f'<path class="row {kind}" d="{_trace(row, x, y)}"/>')
        if len(row) <= _MOST_DOTS:
            # Of no length, which round ends make visible: a fiftieth of what circles would take.
            dots = "".join(f"M{x(px)} {y(py)}h0" for px, py in row if math.isfinite(py))
            body.append(f'<path class="dots {kind}" d="{dots}"/>')
        if named and at < _RIGHT:
            body += [f'<path class="row {kind}" d="M{at:g} 8h16"/>', text(at + 20, 12, name)]
            at += 34 + _LETTER * len(name)
    return svg(body)


def _trace(row: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    """The line through a row's points, broken where one is not finite."""
    steps, pen = [], "M"
    for px, py in row:
        if math.isfinite(py):
            steps.append(f"{pen}{x(px)} {y(py)}")
            pen = " "
        else:
            pen = "M"
    return "".join(steps)


def quantiles(marks: Sequence[tuple[str, float]]) -> str:
    """Named places of one distribution, each a stem as long as it is large, with its figure."""
    most = max(value for _, value in marks)
    if not (all(math.isfinite(value) for _, value in marks) and most > 0):
        return ""
    x = Axis(0, most, 60, _RIGHT - 44)
    step = (_BOTTOM - _TOP) / len(marks)
    body = []
    for n, (name, value) in enumerate(marks):
        y = round(_TOP + step * (n + 0.5))
        body += [
            text(54, y + 4, name, "end"),
            f'<path class=stem d="M60 {y}H{x(value)}"/>',
            text(x(value) + 8, y + 4, f"{value:.3f}", kind="strong"),
        ]
    return svg(body)


def amounts(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], show: Show) -> str:
    """A bar for each row, made of parts (class, amount), its sum at its end."""
    most = max(sum(amount for _, amount in parts) for _, parts in rows)
    if not most:
        return ""
    x = Axis(0, most, 82, _RIGHT - 62)
    body = []
    for n, (name, parts) in enumerate(rows):
        y, at = 8 + 34 * n, 0.0
        body.append(text(76, y + 16, name, "end"))
        for kind, amount in parts:
            width = x(at + amount) - x(at)
            body.append(f"<rect class={kind} x={x(at)} y={y} width={width:.1f} height=22 rx=2 />")
            at += amount
        body.append(text(x(at) + 6, y + 16, show(at), kind="strong"))
    return svg(body, WIDTH, 12 + 34 * len(rows))


# ---------------------------------------------------------------- of many cases


def plane(points: Sequence[Point], x_title: str, y_title: str, show_y: Show) -> str:
    """Cases by two figures, less of both being better; those that none beats are joined."""
    points = [point for point in points if math.isfinite(point.x) and math.isfinite(point.y)]
    if not points:
        return ""
    height, bottom, left, right, top = 300, 262, 52, 350, 26
    heights = [point.y for point in points]
    spread = min(heights) > 0 and max(heights) > 30 * min(heights)
    x = axis_of([point.x for point in points], left + 10, right - 10, pad=0.1)
    y = axis_of(heights if spread else (0.0, *heights), bottom - 6, top + 6, pad=0.1, log=spread)
    body = [text(4, 12, f"{y_title}{', logarithmic' if spread else ''}", kind="name")]
    for tick in y.ticks():
        body.append(f'<path class=grid d="M{left} {y(tick)}H{right}"/>')
        body.append(text(left - 5, y(tick) + 4, show_y(tick), "end"))
    body += [text(x(tick), bottom + 15, number(tick), "middle") for tick in x.ticks(5)]
    body.append(text(right, bottom + 32, x_title, "end", "name"))
    best = sorted((point.x, point.y) for point in points if point.best)
    if best:
        steps = "".join(f"H{x(px)}V{y(py)}" for px, py in best[1:])
        body.append(f'<path class=frontier d="M{x(best[0][0])} {y(best[0][1])}{steps}"/>')
    body += [_dot(point, x(point.x), y(point.y)) for point in points]
    body += _names([p for p in points if p.best or p.failed][:_NAMED], x, y)
    return svg(body, WIDTH, height)


def _dot(point: Point, x: float, y: float) -> str:
    """A case: a circle, or a cross where it failed; a ring around what none beats."""
    mark = (
        f'<path class=cross d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"/>'
        if point.failed
        else f"<circle class=value cx={x} cy={y} r=4 />"
    )
    ring = f"<circle class=ring cx={x} cy={y} r=8 />" if point.best else ""
    return f'<a href="#{point.link}"><title>{_inert(point.caption)}</title>{ring}{mark}</a>'


def _names(points: Sequence[Point], x: Axis, y: Axis) -> list[str]:
    """The names of the points, moved apart where they would overlap."""
    taken: list[tuple[float, float, float]] = []
    placed = []
    for point in sorted(points, key=lambda point: -point.y):
        name = point.name if len(point.name) <= 24 else point.name[:23] + "…"
        wide, px, py = _LETTER * len(name), x(point.x), y(point.y)
        is_right = px + 14 + wide < WIDTH
        left = px + 12 if is_right else px - 12 - wide
        spots = (py + dy for dy in (-8, 16, -21, 29, -34, 42))
        fits = (
            spot
            for spot in spots
            if all(left + wide < a or b < left or abs(spot - at) > 12 for a, b, at in taken)
        )
        at = next(fits, None)
        if at is not None:
            taken.append((left, left + wide, at))
            placed.append(text(left if is_right else left + wide, at, name, "start" if is_right else "end"))
    return placed
