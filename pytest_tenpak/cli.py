"""The ``tenpak`` command. What it tells depends on a suite's ini and conftest, so pytest reads them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

import pytest

from .errors import TenpakError

#: Subcommands, each a module of ``commands``, in the order of the help text.
COMMANDS = ("show", "merge", "doctor")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; gives the exit code."""
    parser = argparse.ArgumentParser(prog="tenpak", description="Gates for quantized language models.")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    modules = {name: import_module(f"{__package__}.commands.{name}") for name in COMMANDS}
    for name, module in modules.items():
        told = (module.__doc__ or "").partition("\n")[0]
        passes_on = getattr(module, "PYTEST_ARGUMENTS", False)
        subparser = subparsers.add_parser(name, help=told, description=told, add_help=not passes_on)
        if hasattr(module, "add_arguments"):
            module.add_arguments(subparser)
    known, further = parser.parse_known_args(arguments)
    module = modules[known.command]
    if further and not getattr(module, "PYTEST_ARGUMENTS", False):
        parser.error(f"unrecognized arguments: {' '.join(further)}")
    return int(pytest.main(further, plugins=[_Command(module, known)]))


class _Command:
    """Takes pytest's place once its configuration is read."""

    def __init__(self, module: ModuleType, arguments: argparse.Namespace) -> None:
        self._module = module
        self._arguments = arguments

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        """Carry the command out, and nothing else."""
        try:
            return int(self._module.run(self._arguments, config))
        except TenpakError as error:
            raise pytest.UsageError(str(error)) from None
