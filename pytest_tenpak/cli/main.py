"""The ``tenpak`` command. Its output depends on a suite's ini and conftest, so pytest reads them first."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module
from types import ModuleType

import pytest

from ..errors import TenpakError

#: Subcommands, each a module of this package, in the order of the help text.
COMMANDS = (
    "show",
    "diff",
    "history",
    "accept",
    "move",
    "prune",
    "check",
    "audit",
    "merge",
    "cache",
    "doctor",
    "recommend",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; gives the exit code."""
    parser = argparse.ArgumentParser(prog="tenpak", description="Gates for quantized language models.")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    modules = {name: import_module(f"{__package__}.{name}") for name in COMMANDS}
    for name, module in modules.items():
        help_line = (module.__doc__ or "").splitlines()[0]
        subparser = subparsers.add_parser(name, help=help_line, description=help_line)
        if hasattr(module, "add_arguments"):
            module.add_arguments(subparser)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show an arrow or a sign is no reason to fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    known, further = parser.parse_known_args(arguments)
    module = modules[known.command]
    if further and not getattr(module, "PYTEST_ARGUMENTS", False):
        parser.error(f"unrecognized arguments: {' '.join(further)}")
    if getattr(module, "COLLECTS", False):
        return _run_after_collection(module, known, further)
    options = [*getattr(module, "PYTEST_OPTIONS", ())]
    if hasattr(module, "pytest_options"):
        options += module.pytest_options(known)
    return int(pytest.main([*options, *further], plugins=[_Command(module, known)]))


def _run_after_collection(module: ModuleType, known: argparse.Namespace, further: Sequence[str]) -> int:
    """Collect the suite, without output unless that fails, and run a command on the result."""
    collection = _Collection()
    quiet = ["--collect-only", "-q", "-o", "tenpak_fail_unused=false"]
    with redirect_stdout(io.StringIO()) as printed:
        code = pytest.main([*quiet, *further], plugins=[collection])
    if collection.config is None or code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        print(printed.getvalue(), end="")
        return int(code)
    try:
        return int(module.run(known, collection.config))
    except TenpakError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return int(pytest.ExitCode.USAGE_ERROR)


class _Collection:
    """Holds the configuration of a pytest run that has collected."""

    config: pytest.Config | None = None

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Store the configuration once everything is collected."""
        self.config = session.config


class _Command:
    """Takes pytest's place once its configuration is read."""

    def __init__(self, module: ModuleType, arguments: argparse.Namespace) -> None:
        self._module = module
        self._arguments = arguments

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        """Run the command, and nothing else."""
        try:
            return int(self._module.run(self._arguments, config))
        except TenpakError as error:
            raise pytest.UsageError(str(error)) from None
