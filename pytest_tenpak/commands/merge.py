"""Join the JSON reports of a CI matrix's shards into one report with one exit code."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..errors import ReportError
from ..report.github import Actions
from ..report.json import read_document
from ..report.merging import merge, ran_well, shard_names
from ..report.terminal import summary_lines
from ..report.written import REPORTS, write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``FILE…``, and the reports to write."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="what --tenpak-json wrote")
    for report in REPORTS:
        flag = f"--{report.replace('_', '-')}"
        parser.add_argument(flag, dest=report, type=Path, metavar="PATH", help=f"as --tenpak{flag[1:]}")


def run(arguments: argparse.Namespace, config: pytest.Config) -> int:
    """Print and write the joint report; 1 unless every gate ran and passed."""
    summary = merge({shard: read_document(path) for shard, path in shard_names(arguments.files).items()})
    print(*summary_lines(summary), sep="\n")
    actions = Actions.of(os.environ)
    if actions is not None:
        print(*actions.annotations(summary, config.rootpath), sep="\n")
        with _explained("GITHUB_STEP_SUMMARY"):
            actions.write_step_summary(summary)
    for report in REPORTS:
        path = getattr(arguments, report)
        if path is not None:
            with _explained(path):
                write_report(report, summary, path)
    return 0 if ran_well(summary) else 1


@contextmanager
def _explained(path: object) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise ReportError(f"{path} cannot be written", given=str(fault)) from None
