"""List the baselines that no test uses; --yes removes them.

It collects the suite, and passes further arguments (folders, -p, -o) to pytest.
"""

from __future__ import annotations

import argparse

import pytest

from ..baselines.unused import remove
from ..errors import BaselineError
from ..plugin import options
from ..plugin.run_state import unused_key
from ..reports.wording import unused_lines

PYTEST_ARGUMENTS = True
COLLECTS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--yes``."""
    parser.add_argument("--yes", action="store_true", help="remove them; further arguments go to pytest")


def run(arguments: argparse.Namespace, config: pytest.Config) -> int:
    """List what is unused (exit code 1 if anything is), or remove it."""
    folder = options.baseline_folder(config)
    if not folder.is_dir():
        print(f"there are no baselines in {folder}")
        return 0
    unused = config.stash.get(unused_key, None)
    if unused is None:
        raise BaselineError(
            "unused baselines cannot be determined",
            given=f"baselines in {folder}, tests below {config.rootpath}",
            accepted="a baseline folder below the rootdir, and a collection without --lf or --sw",
        )
    if not unused:
        print("this collection finds no unused baseline")
    elif not arguments.yes:
        print(*unused_lines(unused), sep="\n")
        return 1
    else:
        _remove(unused, config)
    return 0


def _remove(unused: tuple[str, ...], config: pytest.Config) -> None:
    for shown in unused:
        try:
            remove(config.rootpath / shown, options.baseline_folder(config))
        except OSError as fault:
            raise BaselineError(f"the baseline {shown} cannot be removed", given=str(fault)) from None
        print(f"removed {shown}")
