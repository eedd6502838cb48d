"""Show the figures of all baselines, or of some, in a table."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest
from tabulate import tabulate

from ..baselines.entry import Baseline, Entry, baseline_files
from ..errors import BaselineError
from ..plugin import options
from ..reports.columns import BITS, COMPRESSION, DELTA, KLD, PERPLEXITY, perplexities

_QUANTITIES = (BITS, COMPRESSION, PERPLEXITY, DELTA, KLD)
_HEADERS = ("baseline", "device", "method", *(quantity.title for quantity in _QUANTITIES))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``NAME…``: baselines, or folders of them."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="a baseline, or a folder of them; default: all"
    )


def run(arguments: argparse.Namespace, config: pytest.Config) -> int:
    """Print the table, in the order of names."""
    folder = options.baseline_folder(config)
    found = baseline_files(folder)
    wanted = {name: path for name, path in found.items() if is_wanted(name, arguments.names)}
    if not wanted:
        raise BaselineError(
            "there is no such baseline" if found else f"there are no baselines in {folder}",
            given=", ".join(arguments.names) or None,
            accepted=", ".join(found) or None,
            remedy="run the gates once to create them" if not found else None,
        )
    rows = [row for name, path in wanted.items() for row in _rows(name, path)]
    print(tabulate(rows, _HEADERS, disable_numparse=True))
    return 0


def is_wanted(name: str, names: list[str]) -> bool:
    """Whether a baseline is one of those that were named, or in a folder that was; all are if none was."""
    return not names or any(name == wanted or name.startswith(f"{wanted.rstrip('/')}/") for wanted in names)


def _rows(name: str, path: Path) -> Iterator[list[str]]:
    baseline = Baseline.read(path)
    for device_class, entry in sorted(baseline.entries.items()) if baseline else ():
        yield [name, device_class, *_figures(entry)]


def _figures(entry: Entry) -> list[str]:
    figures = entry.figures
    return [
        (entry.identity.get("spec") or {}).get("method", ""),
        *(perplexities(figures) if one is PERPLEXITY else one.show(figures) for one in _QUANTITIES),
    ]
