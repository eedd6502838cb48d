"""Merge the JSON reports of the shards of a CI matrix into one report with one exit code."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from ..errors import TenpakError
from ..gate.summary import Summary
from ..plugin.gate_failure import terminal_width
from ..reports.escaping import visible_lines
from ..reports.files import REPORTS, write_report
from ..reports.github import Actions
from ..reports.merge import merge, shard_names
from ..reports.run_document import read_document
from ..reports.terminal import summary_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``FILE…``, and the reports to write."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a report of --tenpak-json")
    for report in REPORTS:
        flag = f"--{report.replace('_', '-')}"
        parser.add_argument(flag, dest=report, type=Path, metavar="PATH", help=f"as --tenpak{flag[1:]}")


def run(arguments: argparse.Namespace, config: pytest.Config) -> int:
    """Print and write the merged report; 1 unless every gate ran and passed, and every report was written."""
    summary = merge({shard: read_document(path) for shard, path in shard_names(arguments.files).items()})
    print(*summary_lines(summary, width=terminal_width(config)), sep="\n")
    merged = summary
    actions = Actions.of(os.environ)
    if actions is not None:
        print(*actions.annotations(summary, config.rootpath), sep="\n")
        summary = _attempt("GITHUB_STEP_SUMMARY", actions.write_step_summary, summary)
    for report in REPORTS:
        path = getattr(arguments, report)
        if path is not None:
            summary = _attempt(str(path), partial(write_report, report, path=path), summary)
    for problem in summary.problems[len(merged.problems) :]:
        print(*visible_lines(problem), sep="\n")
    return 0 if summary.ran_well else 1


def _attempt(who: str, write: Callable[[Summary], None], summary: Summary) -> Summary:
    """Write a report; returns the summary, with the problem if that failed, for the reports after it."""
    try:
        write(summary)
    except OSError as fault:
        return replace(summary, problems=(*summary.problems, f"{who} cannot be written: {fault}"))
    except TenpakError as fault:
        return replace(summary, problems=(*summary.problems, str(fault.asked_by(who))))
    return summary
