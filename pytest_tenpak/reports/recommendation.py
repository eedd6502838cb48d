"""The answer of ``tenpak recommend`` in a terminal: the frontier, what is out and why, the marker."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tabulate import tabulate

from ..metrics.intervals import Estimate
from ..verdict.advice import Advice, Near, Place, Row
from ..verdict.frontier import Out, Why
from .columns import COMPRESSION, DELTA, KLD, TOP1, Quantity, percent, quantity_legend
from .escaping import short_name, visible
from .terminal import wrapped

_OUT: Mapping[Why, str] = {
    Why.COMPRESSION: "compression is below min_compression",
    Why.PERPLEXITY: "perplexity is significantly above max_ppl_delta",
    Why.DOMINATED: "{by} compresses as much, with a significantly lower perplexity",
    Why.NOT_FINITE: "figures are not finite",
}


# ---------------------------------------------------------------- one recipe


def out_words(out: Out) -> str:
    """Why a recipe is out, and after how many tokens."""
    after = f" after {out.tokens:,} tokens" if out.tokens else ""
    return _OUT[out.why].format(by=out.by) + after


def interval(delta: Estimate | None) -> str:
    """The interval of a relative difference; a dash where there is none."""
    if delta is None or not math.isfinite(delta.half_width):
        return "–"
    return f"{100 * delta.low:+.1f} to {delta.high:+.1%}"


def compression(row: Row) -> str:
    """The headline ratio of a checkpoint; empty where there is none."""
    return "" if row.compression is None else COMPRESSION.brief.format(row.compression)


def objection(row: Row) -> str:
    """Why a recipe is not to be taken; empty where it meets the bounds, or nothing is known yet."""
    if row.problem:
        return f"{row.place.value}: {row.problem}"
    if row.out:
        return f"out: {out_words(row.out)}"
    return "" if row.meets or not row.figures else "above max_ppl_delta, not significantly"


def place_words(row: Row) -> str:
    """Where a recipe stands, and what is against it."""
    why = objection(row)
    is_said = bool(why) and row.place not in (Place.FRONTIER, Place.BEATEN)
    return "; ".join(filter(None, ("" if is_said else row.place.value, why)))


def found_words(row: Row) -> str:
    """What is known of a recipe, on one line."""
    delta = percent(row.figures.ppl_delta) + f" after {row.tokens:,} tokens" if row.figures else ""
    known = ", ".join(filter(None, (compression(row), delta)))
    return visible(f"{row.name}: {'; '.join(filter(None, (known, objection(row))))}")


def stage_words(title: str, left: float) -> str:
    """What begins, and how long everything may still take."""
    return visible(f"{title} …" + (f" (at most {duration(left)} left)" if 0 < left < math.inf else ""))


def duration(seconds: float) -> str:
    """About how long: seconds, minutes, or hours."""
    if seconds < 90:
        return f"{math.ceil(seconds / 5) * 5:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# ---------------------------------------------------------------- the marker


def marker_lines(arguments: Mapping[str, Any], width: int | None = None) -> list[str]:
    """The marker to paste, an argument on each line where it is wider than ``width``."""
    shown = [f"{name}={_literal(value)}" for name, value in arguments.items()]
    line = f"@pytest.mark.quantize({', '.join(shown)})"
    if width is None or len(line) <= width:
        return [line]
    return ["@pytest.mark.quantize(", *(f"    {one}," for one in shown), ")"]


def _literal(value: Any) -> str:
    """A value as Python code, strings in double quotes, whole numbers without a point."""
    if isinstance(value, str):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else repr(value)


# ---------------------------------------------------------------- the table


class _Column(NamedTuple):
    """A column of the table; those of a higher rank go first where there is too little room."""

    title: str
    text: Callable[[Row], str]
    rank: int = 0


def _figure(quantity: Quantity, rank: int) -> _Column:
    return _Column(quantity.title, lambda row: quantity.show(row.figures) if row.figures else "", rank)


COLUMNS = (
    _Column("recipe", lambda row: short_name(row.name)),
    _Column(COMPRESSION.title, compression),
    _Column(DELTA.title, lambda row: percent(row.figures.ppl_delta) if row.figures else ""),
    _Column("interval", lambda row: interval(row.delta)),
    _figure(KLD, 1),
    _figure(TOP1, 2),
    _Column("tokens", lambda row: f"{row.tokens:,}", 3),
)


def _table(rows: Sequence[Row], width: int | None) -> list[str]:
    """The rows with as many columns as there is room for."""
    lines: list[str] = []
    for most in range(max(column.rank for column in COLUMNS), -1, -1):
        shown = [column for column in COLUMNS if column.rank <= most]
        # Titles as a row of their own: tabulate would make each two characters wider than it has to be.
        cells = [[column.title for column in shown]]
        cells += [[column.text(row) for column in shown] for row in rows]
        rule = ["-" * max(map(len, column)) for column in zip(*cells, strict=True)]
        table = tabulate([cells[0], rule, *cells[1:]], tablefmt="plain", disable_numparse=True)
        lines = [line.rstrip() for line in table.splitlines()]
        if width is None or max(map(len, lines)) <= width:
            break
    return lines


def legend(advice: Advice, titles: str) -> str:
    """What the titles of the table mean, of those that it shows."""
    explained = [one for one in (COMPRESSION, KLD, TOP1) if one.title in titles]
    sure = f"{100 * (1 - advice.alpha):g}%, valid at every look"
    return f"{quantity_legend(explained)}; Δ reference: perplexity; interval: of Δ reference, at {sure}"


# ---------------------------------------------------------------- the answer


def headline(advice: Advice) -> str:
    """The recipe to take, or that there is none, in a sentence."""
    row = advice.picked
    if row is None:
        return f"no recipe meets {bounds_words(advice)}{' so far' if advice.late else ''}"
    assert row.figures is not None
    figures = f"{compression(row)}, perplexity {percent(row.figures.ppl_delta)} ({interval(row.delta)})"
    sure = "" if row.surely else "; on the point estimate: the interval does not decide"
    return f"recommended: {row.name}: {figures}{sure}"


def bounds_words(advice: Advice) -> str:
    """The bounds as they were asked for."""
    bounds = (("max_ppl_delta", advice.max_ppl_delta), ("min_compression", advice.min_compression))
    return " and ".join(f"{name}={value:g}" for name, value in bounds if value is not None) or "no bound"


def near_words(near: Near, advice: Advice) -> str:
    """Which recipe comes nearest, and the bound that it would meet."""
    row = next(one for one in advice.rows if one.name == near.name)
    delta = percent(row.figures.ppl_delta) if row.figures else ""
    shown = f"{near.name} ({compression(row)}, {delta} after {row.tokens:,} tokens)"
    return f"nearest: {shown} would meet {near.argument}={near.bound:g}"


def answer_lines(advice: Advice, settings: Mapping[str, Any], width: int | None = None) -> list[str]:
    """The frontier, what is out, and the marker; ``settings`` belong into the ini file beside it."""
    return [*_found(advice, width), "", *_recommended(advice, settings, width)]


def _found(advice: Advice, width: int | None) -> Iterator[str]:
    head = ""
    for place in (Place.FRONTIER, Place.BEATEN):
        if rows := advice.placed(place):
            head, *rest = _table(rows, width)
            yield from (f"{place.value}:", head, *rest, "")
    if head:
        yield from wrapped([legend(advice, head)], width)
    others = [row for row in advice.placed(*Place) if objection(row)]
    lines = [f"  {found_words(row)}" for row in others]
    lines += [
        f"  {visible('; '.join(one.names))}: not run: {visible(one.problem)}" for one in advice.left_out
    ]
    if lines:
        yield from ("", "out, or not to be taken:", *wrapped(lines, width))


def _recommended(advice: Advice, settings: Mapping[str, Any], width: int | None) -> Iterator[str]:
    yield from wrapped([visible(headline(advice))], width)
    if advice.late:
        yield from wrapped(["the time limit ended the search: the same command goes on from here"], width)
    row = advice.picked
    if row is None:
        yield from wrapped([visible(near_words(near, advice)) for near in advice.near], width)
        return
    yield from ("", *marker_lines(row.marker, width))
    if settings:
        yield from ("", "measured with these settings of pytest.ini:")
        yield from (f"tenpak_{name} = {visible(str(value))}" for name, value in settings.items())
