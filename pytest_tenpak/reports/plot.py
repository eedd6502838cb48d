"""What was accepted over time as a picture: an SVG, or a page with it that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..baselines.entry import Figures
from ..baselines.history import Past
from ..errors import ReportError
from ..store.atomic import write_atomically
from .columns import COMPRESSION
from .escaping import short_name
from .html import charts

SUFFIXES = (".svg", ".html")
#: What is drawn: a title below its axis, and the figure.
_PANELS: tuple[tuple[str, Callable[[Figures], float]], ...] = (
    ("perplexity over reference, %", lambda figures: 100 * figures.ppl_delta),
    (f"compression, {COMPRESSION.legend}", lambda figures: figures.compression),
)
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>body {{ font-family: sans-serif; margin: 2em }} svg {{ width: min(100%, 60em); height: auto }}</style>
<h1>{title}</h1>
{svg}
</html>
"""


def check_plot(path: Path) -> None:
    """Refuse, before any work, a plot of a kind that cannot be drawn."""
    if path.suffix not in SUFFIXES:
        raise ReportError(
            f"a plot cannot be written as {path.name!r}",
            given=path.suffix or "no suffix",
            accepted=", ".join(SUFFIXES),
            remedy="name a file that ends so; browsers and image programs make others of an SVG",
        )


def write_plot(path: Path, trends: Mapping[str, Sequence[Past]]) -> None:
    """Draw what was accepted, a line for each baseline and device class, and write it as the suffix says."""
    check_plot(path)
    text = draw(trends)
    if path.suffix == ".html":
        title = html.escape("Accepted baselines: " + ", ".join(short_name(name) for name in trends))
        text = _PAGE.format(title=title, svg=text)
    try:
        write_atomically(path, text)
    except OSError as fault:
        raise ReportError(f"{path} cannot be written", given=str(fault)) from None


def draw(trends: Mapping[str, Sequence[Past]]) -> str:
    """The charts of all figures, one below the other, as one SVG that stands alone."""
    rows = _lines(trends)
    order = list(dict.fromkeys(past.commit for past in sorted(_all(trends), key=_age)))
    dates = [past.date[:10] or "now" for past in sorted(_all(trends), key=_age)]
    ends = (dates[0], dates[-1])
    panels = []
    for title, value in _PANELS:
        points = [
            (label, [(float(order.index(past.commit)), value(past.figures)) for past in row])
            for label, row in rows.items()
        ]
        panels.append(charts.lines(points, title, ends=ends))
    return charts.standalone(panels)


def _all(trends: Mapping[str, Sequence[Past]]) -> list[Past]:
    return [past for row in trends.values() for past in row]


def _age(past: Past) -> tuple[bool, str]:
    """What is sorted by: the date, and what is not committed yet last."""
    return not past.commit, past.date


def _lines(trends: Mapping[str, Sequence[Past]]) -> dict[str, list[Past]]:
    """The points of each baseline on each device class."""
    rows: dict[str, list[Past]] = {}
    for name, row in trends.items():
        for past in row:
            rows.setdefault(f"{short_name(name)} [{past.device_class}]", []).append(past)
    return rows
