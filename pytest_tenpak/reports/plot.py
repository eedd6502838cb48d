"""What was accepted over time as a picture: an SVG, or a page with that SVG; neither needs another file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..baselines.entry import Figures
from ..baselines.history import Past
from ..errors import ReportError
from ..store.atomic import write_atomically
from .columns import COMPRESSION
from .html import charts

SUFFIXES = (".svg", ".html")
#: What is drawn of each baseline: a title, and the figure.
_CHARTS: tuple[tuple[str, Callable[[Figures], float]], ...] = (
    ("perplexity over the reference, %", lambda figures: 100 * figures.ppl_delta),
    (f"compression, {COMPRESSION.legend}", lambda figures: figures.compression),
)
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Accepted baselines</title>
<style>
body {{ margin: 0 auto; padding: 1em; max-width: 62em; font-family: sans-serif }}
body {{ background: #fbfaf8; color: #1d2430 }}
body > svg {{ width: 100%; height: auto }}
@media (prefers-color-scheme: dark) {{ body {{ background: #14171c; color: #e6e8ec }} }}
</style>
<h1>Accepted baselines</h1>
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
    """Draw what was accepted, and write it as the suffix says."""
    check_plot(path)
    svg = draw(trends)
    try:
        write_atomically(path, _PAGE.format(svg=svg) if path.suffix == ".html" else svg)
    except OSError as fault:
        raise ReportError(f"{path} cannot be written", given=str(fault)) from None


def draw(trends: Mapping[str, Sequence[Past]]) -> str:
    """Two charts for each baseline, as one SVG that stands alone."""
    return charts.standalone([_section(name, past) for name, past in trends.items()])


def _section(name: str, past: Sequence[Past]) -> tuple[str, list[tuple[str, str]]]:
    """A baseline's name and its charts: a line for each device class, over the commits that changed it."""
    commits = list(dict.fromkeys(one.commit for one in past))
    by_class: dict[str, list[Past]] = {}
    for one in past:
        by_class.setdefault(one.device_class, []).append(one)
    ends = (past[0].date[:10] or "now", past[-1].date[:10] or "now")
    drawn = []
    for title, value in _CHARTS:
        rows = [
            (kind, [(float(commits.index(one.commit)), value(one.figures)) for one in row])
            for kind, row in sorted(by_class.items())
        ]
        drawn.append((title, charts.lines(rows, "commits that changed it, oldest first", ends=ends)))
    # Charts of several lines name them.
    return (f"{name} [{past[0].device_class}]" if len(by_class) == 1 else name), drawn
