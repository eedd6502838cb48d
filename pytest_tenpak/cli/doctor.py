"""Print what is installed and which methods can run here; further options go to pytest."""

from __future__ import annotations

import argparse

import pytest

from ..gate.doctor import diagnose
from ..plugin.run_state import open_session

PYTEST_ARGUMENTS = True


def run(arguments: argparse.Namespace, config: pytest.Config) -> int:
    """Print versions, device, methods and the cache."""
    del arguments
    print(*diagnose(open_session(config).run), sep="\n")
    return 0
