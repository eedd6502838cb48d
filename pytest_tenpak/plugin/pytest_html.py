"""Rows of gates in the report of pytest-html, where that plugin writes one."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from . import options


class GateRows:
    """Escapes the names of gates, adds their figures, and links to our own page."""

    def __init__(self, config: pytest.Config, markers: tuple[str, ...]) -> None:
        self._markers = markers
        self._link = ""
        page = options.read(config, "html")
        if page is not None:
            theirs = Path(os.path.expandvars(config.getoption("htmlpath"))).expanduser()
            ours = Path(config.invocation_params.dir, page)
            link = Path(os.path.relpath(ours, Path(config.invocation_params.dir, theirs).parent)).as_posix()
            self._link = f'<a class="col-links__extra url" href="{escape(quote(link))}">gates</a>'

    def pytest_html_results_table_row(self, report: Any, cells: list[str]) -> None:
        """Escape a gate's id, which pytest-html inserts as raw HTML, and add the link."""
        from ..reports.escaping import short_name

        if not any(marker in getattr(report, "keywords", ()) for marker in self._markers):
            return
        title = report.nodeid if report.when == "call" else f"{report.nodeid}::{report.when}"
        raw, escaped = f">{title}</td>", f">{escape(short_name(title))}</td>"
        cells[:] = [
            cell.replace(raw, escaped)
            if "col-testId" in cell
            else cell.replace("</td>", f"{self._link}</td>")
            if "col-links" in cell
            else cell
            for cell in cells
        ]

    def pytest_html_results_table_html(self, report: Any, data: list[str]) -> None:
        """Put the figures of a passing gate below its row, where pytest-html puts those of a failing one."""
        plain = getattr(report, "tenpak_outcome", None)
        if plain is None or report.failed:
            return
        from ..gate.outcome import Outcome
        from ..reports.terminal import table

        data[:] = [*(f"{escape(line)}\n" for line in table([Outcome.from_dict(plain)])), "\n", *data]
