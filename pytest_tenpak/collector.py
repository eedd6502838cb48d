"""Where reports arrive: outcomes are collected, baselines written, tables and files made.

Registered in the only pytest process, or in xdist's controller, so that one process writes.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from . import options
from .errors import TenpakError
from .state import EXPECTED_KEY, USAGE_KEY, open_session, session_key

if TYPE_CHECKING:
    from .checks import Status
    from .report.terminal import Paint


class Collector:
    """The reporting half of the plugin."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._problems: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in the outcome that a gated test's report carries."""
        plain = getattr(report, "tenpak_outcome", None)
        if plain is None:
            return
        from .outcome import Outcome

        try:
            open_session(self._config).collect(
                Outcome.from_dict(plain), report.when == "call" and report.passed
            )
        except TenpakError as error:
            self._problems.append(str(error))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """An xdist worker has ended: learn what it expected, or what was wrong with its markers."""
        output = getattr(node, "workeroutput", None) or {}
        if USAGE_KEY in output:
            raise pytest.UsageError(*output[USAGE_KEY])
        if output.get(EXPECTED_KEY):
            open_session(self._config).expected.update(output[EXPECTED_KEY])

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Write ``--tenpak-json``; fail the run when a baseline or that file could not be written."""
        path = options.read(self._config, "json")
        if path is not None:
            try:
                open_session(self._config).write_json(Path(self._config.invocation_params.dir, path))
            except OSError as fault:
                self._problems.append(f"--tenpak-json: {path} cannot be written: {fault}")
        if self._problems and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return (yield)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table of all gates, how many ran, and what became of baselines."""
        session = self._config.stash.get(session_key, None)
        if session is not None and (session.outcomes or self._problems):
            from .report import terminal

            outcomes = session.ordered()
            terminalreporter.section("quantization gates", sep="=")
            for line in terminal.table(outcomes, self._paint()):
                terminalreporter.line(line)
            expected = max(len(session.expected), len(outcomes))
            terminalreporter.line(terminal.counts(outcomes, expected))
            for line in [*terminal.notes(outcomes, session.written), *self._problems]:
                terminalreporter.line(line)

    def _paint(self) -> Paint:
        from .checks import Status

        writer = self._config.get_terminal_writer()
        colours = {Status.PASSED: "green", Status.IMPROVED: "green", Status.NEW: "yellow"}

        def paint(text: str, status: Status) -> str:
            colour = "yellow" if text == "skipped" else colours.get(status, "red")
            return writer.markup(text, **{colour: True})

        return paint
