"""The ``tenpak`` command. What it tells depends on a suite's ini and conftest, so pytest reads them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pytest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; gives the exit code."""
    parser = argparse.ArgumentParser(prog="tenpak", description="Gates for quantized language models.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    told = "say what is installed, what can run here, and why not; further options go to pytest"
    commands.add_parser("doctor", help=told, add_help=False)
    _, further = parser.parse_known_args(arguments)
    return int(pytest.main(["--tenpak-doctor", *further]))
