"""The failure message of a gate: wrapped to the terminal's width there, and whole in every other report."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..gate.outcome import Outcome


def terminal_width(config: pytest.Config) -> int | None:
    """Return the number of columns to wrap lines at; None where they stay whole.

    That is the width of a terminal, or COLUMNS anywhere. Other output, such as the log of a CI system, is not
    wrapped at the 80 columns that pytest assumes there: such logs are searched, and as wide as their lines.
    """
    reporter = config.pluginmanager.getplugin("terminalreporter")
    # A command of ``tenpak`` has no reporter, and nothing captures what it prints.
    is_terminal = reporter.isatty if reporter else sys.stdout.isatty()
    if not (is_terminal or os.environ.get("COLUMNS")):
        return None
    return int(config.get_terminal_writer().fullwidth) if reporter else shutil.get_terminal_size().columns


def fit_to_terminal(report: pytest.TestReport, outcome: Outcome, config: pytest.Config) -> None:
    """Make the terminal wrap a gate's failure to its own width; the report's text is unchanged."""
    width = terminal_width(config)
    own = report.when == "call" and report.failed and outcome.body_passed and outcome.is_refused
    if width is not None and own and report.longrepr is not None:
        report.longrepr = _Fitted(report.longrepr, outcome, config, width)  # type: ignore[assignment]


class _Fitted:
    """A ``longrepr`` that writes a wrapped text to the terminal, and the whole text to other writers."""

    def __init__(self, whole: Any, outcome: Outcome, config: pytest.Config, width: int) -> None:
        self._whole = whole
        self._outcome = outcome
        self._config = config
        self._width = width

    def toterminal(self, writer: Any) -> None:
        """Write the wrapped text to the terminal, and the whole text to the writers of other reports."""
        if writer is self._config.get_terminal_writer():
            from ..reports.terminal import failure

            for line in failure(self._outcome, self._width).splitlines():
                writer.line(line)
        elif hasattr(self._whole, "toterminal"):
            self._whole.toterminal(writer)
        else:
            writer.line(str(self._whole))

    def __str__(self) -> str:
        return str(self._whole)

    def __getattr__(self, name: str) -> Any:
        if name == "_whole":  # before __init__ has run, as in a copy
            raise AttributeError(name)
        return getattr(self._whole, name)
