"""Registers what went wrong, and records how long each gate took, in all its phases."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))

from tenpak_history import WRONG


def pytest_tenpak_register_quantizers(register):
    """Make the wrong ones known, for this folder only."""
    for quantizer in WRONG:
        register(quantizer)


def pytest_runtest_logreport(report):
    """Write the seconds of each gate to the file that the benchmark reads."""
    with Path(os.environ["TENPAK_HISTORY_SECONDS"]).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps([report.nodeid, report.duration]) + "\n")
