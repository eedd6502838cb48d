"""Delivering the summary at the end of a run: to files, to GitHub, and to reporters of other plugins."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..errors import TenpakError, UnavailableError
from ..reports.files import REPORTS, write_report
from . import options

if TYPE_CHECKING:
    from ..gate.summary import Summary

#: The plugin that annotates every failing test of a run, gates among them.
_ANNOTATES_FAILURES = "pytest_github_actions_annotate_failures"


def asked_for(config: pytest.Config) -> dict[str, str]:
    """Return the paths of the requested reports, by report."""
    paths = {report: options.read(config, report) for report in REPORTS}
    return {report: path for report, path in paths.items() if path is not None}


def require(config: pytest.Config) -> None:
    """Raise UnavailableError for a requested report that cannot be made here."""
    if options.read(config, "html") is not None:
        from ..reports.html.page import require

        try:
            require()
        except UnavailableError as error:
            raise error.asked_by("--tenpak-html") from None


def deliver(summary: Summary, config: pytest.Config) -> Summary:
    """Deliver the summary to every reporter and file; return it with the problems that this caused.

    Reports are independent: what one raises becomes a problem that later reports show, and fails the run.
    """
    from ..reports.github import Actions

    problems = list(summary.problems)

    @contextmanager
    def named(who: str) -> Iterator[Summary]:
        try:
            yield replace(summary, problems=tuple(problems))
        except OSError as fault:
            problems.append(f"{who} cannot be written: {fault}")
        except TenpakError as fault:
            problems.append(str(fault.asked_by(who)))
        except (Exception, SystemExit, pytest.fail.Exception, pytest.skip.Exception) as fault:
            problems.append(f"{who} raised {type(fault).__name__}: {fault}")

    reporters: list[Callable[[Summary], Any]] = []
    with named("pytest_tenpak_register_reporters"):
        config.hook.pytest_tenpak_register_reporters(register=reporters.append, config=config)
    for reporter in reporters:
        with named(f"reporter {_name(reporter)}") as seen:
            reporter(seen)
    actions = Actions.of(os.environ)
    if actions is not None:
        with named("GITHUB_STEP_SUMMARY") as seen:
            actions.write_step_summary(seen)
    for report, path in asked_for(config).items():
        with named(f"--tenpak-{report.replace('_', '-')}: {path}") as seen:
            write_report(report, seen, Path(config.invocation_params.dir, path))
    return replace(summary, problems=tuple(problems))


def annotated(summary: Summary, config: pytest.Config) -> list[str]:
    """Return the lines by which a runner of GitHub Actions annotates gates; none elsewhere.

    Failures are left to pytest-github-actions-annotate-failures, where that is installed.
    """
    from ..reports.github import Actions

    actions = Actions.of(os.environ)
    plugins = (name for name, plugin in config.pluginmanager.list_name_plugin() if plugin is not None)
    annotated_elsewhere = any(name.startswith(_ANNOTATES_FAILURES) for name in plugins)
    if actions is None:
        return []
    return actions.annotations(summary, config.rootpath, with_errors=not annotated_elsewhere)


def _name(reporter: Callable[[Summary], Any]) -> str:
    """Return the module and name of a reporter function, or of an object's class."""
    named: Any = reporter if hasattr(reporter, "__qualname__") else type(reporter)
    return f"{named.__module__}.{named.__qualname__}"
