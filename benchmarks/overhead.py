"""What the plugin adds to a run without gates, as ratios measured side by side in one run.

Each pair alternates pytest with and without the plugin (``-p no:tenpak``), so that a machine whose speed
drifts slows both sides alike. Prints the median seconds of each side and the median of the paired ratios.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 15


def seconds(*args: str, cwd: Path) -> float:
    """Wall time of one pytest process."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", *args]
    started = time.perf_counter()
    subprocess.run(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - started


def compare(title: str, *args: str, cwd: Path) -> None:
    """Print one row: without, with, added milliseconds, ratio."""
    seconds(*args, cwd=cwd)
    pairs = [(seconds("-p", "no:tenpak", *args, cwd=cwd), seconds(*args, cwd=cwd)) for _ in range(ROUNDS)]
    without, having = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    added = 1000 * statistics.median(b - a for a, b in pairs)
    print(f"{title:<34}{without:>9.3f} s{having:>9.3f} s{added:>+9.0f} ms{ratio:>9.2f}×")


def main() -> None:
    """Compare ``--version`` and collecting suites without a marked test."""
    print(f"{'median of ' + str(ROUNDS) + ' pairs':<34}{'without':>11}{'with':>11}{'added':>12}{'ratio':>10}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        compare("pytest --version", "--version", cwd=path)
        compare("collecting an empty suite", "--collect-only", cwd=path)
        lines = "\n".join(f"def test_{number}(): pass" for number in range(1000))
        (path / "test_many.py").write_text(lines, encoding="utf-8")
        compare("collecting 1000 unmarked tests", "--collect-only", cwd=path)


if __name__ == "__main__":
    main()
