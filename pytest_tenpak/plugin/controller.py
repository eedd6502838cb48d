"""The controller: collects outcomes from test reports, writes baselines, prints and writes reports.

Registered in the only pytest process, or in xdist's controller, so that one process writes.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from ..errors import TenpakError
from . import options
from .delivery import annotated, asked_for, deliver, require
from .gate_failure import fit_to_terminal, terminal_width
from .run_state import EXPECTED_KEY, UNUSED_KEY, USAGE_KEY, note_unused, open_session, session_key, unused_key

if TYPE_CHECKING:
    from ..gate.summary import Summary
    from ..reports.terminal import Paint
    from ..verdict.checks import Status


class Controller:
    """The reporting half of the plugin."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._problems: list[str] = []
        self._summary: Summary | None = None
        self._only_collects = bool(config.getoption("collectonly"))
        try:
            self._fails_unused = options.read(config, "fail_unused")
        except TenpakError as error:
            raise pytest.UsageError(str(error)) from None

    def pytest_sessionstart(self) -> None:
        """End before any gate runs where a requested report cannot be made."""
        try:
            require(self._config)
        except TenpakError as error:
            raise pytest.UsageError(str(error)) from None

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that cannot be collected: it may have gates, which the report would lack silently."""
        if report.failed:
            self._note(f"{report.nodeid} could not be collected: its gates are not counted")

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str) -> None:
        """Note the test whose xdist worker crashed, since its outcome is lost."""
        self._note(f"the process that ran {crashitem} crashed")

    def _note(self, problem: str) -> None:
        if problem not in self._problems:  # every worker of xdist collects
            self._problems.append(problem)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the outcome that a gated test's report carries."""
        plain = getattr(report, "tenpak_outcome", None)
        if plain is None:
            return
        from ..gate.outcome import Outcome

        outcome = Outcome.from_dict(plain)
        if report.skipped and hasattr(report, "wasxfail"):
            outcome = outcome.excused(report.wasxfail)
        fit_to_terminal(report, outcome, self._config)
        try:
            open_session(self._config).collect(outcome, report.when == "call" and report.passed)
        except TenpakError as error:
            self._problems.append(str(error))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Collect from a finished xdist worker its expected gates, unused baselines and usage errors."""
        output = getattr(node, "workeroutput", None) or {}
        if USAGE_KEY in output:
            raise pytest.UsageError(*output[USAGE_KEY])
        if UNUSED_KEY in output:
            note_unused(self._config, output[UNUSED_KEY])
        if output.get(EXPECTED_KEY):
            open_session(self._config).expected.update(output[EXPECTED_KEY])

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Deliver all reports; fail the run for a file that could not be written, or for unused baselines."""
        if self._fails_unused:
            self._refuse_unused()
        wanted = asked_for(self._config)
        if (session_key in self._config.stash or wanted) and not self._only_collects:
            shows_trends = not {"html", "json"}.isdisjoint(wanted)
            summary = open_session(self._config).summary(self._problems, shows_trends)
            self._summary = deliver(summary, self._config)
        problems = self._summary.problems if self._summary else self._problems
        if problems and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return (yield)

    def _refuse_unused(self) -> None:
        """Note what ``--tenpak-fail-unused`` fails for: unused baselines, or a folder outside the rootdir."""
        from ..reports.escaping import visible

        folder = options.baseline_folder(self._config).resolve()
        if not folder.is_relative_to(self._config.rootpath.resolve()):
            where = f"{folder} is outside the rootdir and may serve other suites"
            self._note(f"--tenpak-fail-unused: unused baselines cannot be determined: {where}")
        unused = self._config.stash.get(unused_key, ())
        if unused:
            names = ", ".join(map(visible, unused))
            self._note(f"--tenpak-fail-unused: no test uses {names}")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table of all gates, how many ran, changes of baselines, and unused ones."""
        summary, unused = self._summary, self._config.stash.get(unused_key, ())
        if summary is not None and (summary.outcomes or summary.problems):
            from ..reports.terminal import summary_lines

            shows_all = self._config.get_verbosity() > 0
            lines = summary_lines(summary, self._paint(), terminal_width(self._config), shows_all)
        elif unused:
            from ..reports.escaping import visible_lines
            from ..reports.wording import unused_lines

            # Without gates, or where they are only collected, there is nothing else to print.
            problems = (line for problem in self._problems for line in visible_lines(problem))
            lines = [*problems, *unused_lines(unused)]
        else:
            return
        terminalreporter.section("quantization gates", sep="=")
        for line in lines:
            terminalreporter.line(line)

    def pytest_unconfigure(self) -> None:
        """Annotate gates in GitHub Actions: at the very end, when output is no longer captured."""
        reporter = self._config.pluginmanager.getplugin("terminalreporter")
        for line in annotated(self._summary, self._config) if self._summary else ():
            (reporter.write_line if reporter else print)(line)

    def _paint(self) -> Paint:
        from ..verdict.checks import Status

        writer = self._config.get_terminal_writer()
        colours = {Status.PASSED: "green", Status.IMPROVED: "green", Status.NEW: "yellow"}

        def paint(text: str, status: Status) -> str:
            colour = "yellow" if text == "skipped" else colours.get(status, "red")
            return writer.markup(text, **{colour: True})

        return paint
