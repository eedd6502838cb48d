"""What was accepted over time as a picture: a PNG, an SVG, or a page that needs nothing else."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..baselines.entry import Figures
from ..baselines.history import Past
from ..errors import ReportError, UnavailableError
from .escaping import short_name

SUFFIXES = (".png", ".svg", ".html")
#: What is drawn: a title for its axis, and the figure.
_PANELS: tuple[tuple[str, Callable[[Figures], float]], ...] = (
    ("perplexity over reference (%)", lambda f: 100 * (f.perplexity / f.reference_perplexity - 1)),
    ("compression (whole vs 16 bit)", lambda f: f.compression),
)
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>body {{ font-family: sans-serif; margin: 2em }} svg {{ max-width: 100%; height: auto }}</style>
<h1>{title}</h1>
{svg}
</html>
"""


def check_plot(path: Path) -> None:
    """Refuse, before any work, a plot that cannot be drawn."""
    if path.suffix not in SUFFIXES:
        raise ReportError(
            f"a plot cannot be written as {path.name!r}",
            given=path.suffix or "no suffix",
            accepted=", ".join(SUFFIXES),
        )
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UnavailableError(
            "a plot needs matplotlib, which is not installed", remedy="pip install 'pytest-tenpak[plot]'"
        ) from None


def write_plot(path: Path, trends: Mapping[str, Sequence[Past]]) -> None:
    """Draw what was accepted, a line for each baseline and device class, and write it as the suffix says."""
    check_plot(path)
    kind = "png" if path.suffix == ".png" else "svg"
    drawn = _draw(trends, kind)
    if path.suffix == ".html":
        svg = drawn.decode()
        title = html.escape("Accepted baselines: " + ", ".join(short_name(name) for name in trends))
        drawn = _PAGE.format(title=title, svg=svg[svg.index("<svg") :]).encode()
    try:
        path.write_bytes(drawn)
    except OSError as fault:
        raise ReportError(f"{path} cannot be written", given=str(fault)) from None


def _draw(trends: Mapping[str, Sequence[Past]], kind: str) -> bytes:
    import matplotlib.figure

    order = list(dict.fromkeys(past.commit for rows in trends.values() for past in rows))
    order.sort(key=lambda commit: (not commit, _date(trends, commit)))
    # Names are text as they are: a dollar sign begins no formula, and fonts are the reader's own.
    with matplotlib.rc_context({"text.parse_math": False, "svg.fonttype": "none"}):
        figure = matplotlib.figure.Figure(figsize=(9, 6), layout="constrained")
        panels = figure.subplots(len(_PANELS), 1, sharex=True)
        for axes, (title, value) in zip(panels, _PANELS, strict=True):
            axes.set_ylabel(title)
            axes.grid(visible=True, alpha=0.3)
            for label, rows in _lines(trends).items():
                axes.plot(
                    [order.index(past.commit) for past in rows],
                    [value(past.figures) for past in rows],
                    marker="o",
                    drawstyle="steps-post",
                    label=label,
                )
        panels[-1].set_xticks(range(len(order)), [commit[:7] or "now" for commit in order], rotation=60)
        panels[0].legend(fontsize="small")
        written = io.BytesIO()
        metadata: Any = {"Date": None} if kind == "svg" else None
        figure.savefig(written, format=kind, metadata=metadata)
    return written.getvalue()


def _date(trends: Mapping[str, Sequence[Past]], commit: str) -> str:
    return next(past.date for rows in trends.values() for past in rows if past.commit == commit)


def _lines(trends: Mapping[str, Sequence[Past]]) -> dict[str, list[Past]]:
    """The points of each baseline on each device class. A label must not begin with '_' to be shown."""
    lines: dict[str, list[Past]] = {}
    for name, rows in trends.items():
        for past in rows:
            lines.setdefault(f"{short_name(name).lstrip('_')} [{past.device_class}]", []).append(past)
    return lines
