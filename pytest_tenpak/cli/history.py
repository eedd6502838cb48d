"""Show how the figures of baselines changed over commits, as a table or as charts."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from tabulate import tabulate

from ..baselines.entry import baseline_files
from ..baselines.history import Accepted, read_history
from ..errors import BaselineError
from ..plugin import options
from ..reports.columns import BITS, COMPRESSION, DELTA, KLD, PERPLEXITY
from ..reports.escaping import short_name
from ..reports.plot import check_plot, write_plot
from .show import is_wanted

_QUANTITIES = (PERPLEXITY, DELTA, COMPRESSION, BITS, KLD)
_HEADERS = ("commit", "date", "device", *(quantity.title for quantity in _QUANTITIES), "reason")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``NAME…``, and the plot's file."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="a baseline, or a folder of them; default: all"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="also draw charts of them, as .svg or .html"
    )


def run(arguments: argparse.Namespace, config: pytest.Config) -> int:
    """Print a table for each baseline, oldest first, uncommitted figures last."""
    if arguments.plot is not None:
        check_plot(arguments.plot)
    folder = options.baseline_folder(config)
    known = read_history(folder, working_tree=True)
    names = arguments.names or list(baseline_files(folder))
    wanted = {name: rows for name, rows in known.accepted.items() if is_wanted(name, names)}
    if not wanted:
        raise BaselineError(
            "no such baseline has a history" if known.accepted else f"there are no baselines in {folder}",
            given=", ".join(arguments.names) or None,
            accepted=", ".join(known.accepted) or None,
        )
    for name, rows in wanted.items():
        print(short_name(name), _table(rows), "", sep="\n")
    if known.unreadable:
        count = known.unreadable
        print(f"{count} version{'' if count == 1 else 's'} of baselines could not be read and are left out")
    if arguments.plot is not None:
        write_plot(arguments.plot, {name: [row.past for row in rows] for name, rows in wanted.items()})
        print(f"plot: {arguments.plot}")
    return 0


def _table(rows: list[Accepted]) -> str:
    return tabulate([_cells(row) for row in rows], _HEADERS, disable_numparse=True)


def _cells(row: Accepted) -> list[str]:
    past, figures = row.past, row.past.figures
    return [
        past.commit[:9] or "(not committed)",
        past.date[:10],
        past.device_class,
        *(quantity.show(figures, exact=quantity is PERPLEXITY) for quantity in _QUANTITIES),
        short_name(row.reason),
    ]
