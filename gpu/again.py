"""Run gates that must find everything in their cache: quantizing or measuring anything is a failure.

Those gates run again that passed before: one that failed costs only itself.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

#: What quantizing and measuring leave: models, checkpoints, blocks of traces.
#: Summaries are computed of what was measured: with a baseline a verdict is clear after fewer windows.
_MADE = "*.safetensors"
_PASSED = {"new", "passed", "improved"}


def kept(cache: Path) -> set[str]:
    """Return the files of a cache that were quantized or measured."""
    return {str(path.relative_to(cache)) for path in cache.rglob(_MADE)}


def has_passed(report: Path) -> bool:
    """Return whether the one gate of a JSON report passed."""
    with suppress(OSError, ValueError):
        (outcome,) = json.loads(report.read_text(encoding="utf-8"))["outcomes"]
        return outcome["verdict"]["status"] in _PASSED
    return False


def main() -> None:
    """Run, compare, write how long it took and what was made as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="beside the first runs' reports, GATE.json")
    parser.add_argument("--gates", nargs="+", required=True)
    parser.add_argument("cache", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    gates = [name for name in given.gates if has_passed(given.out.with_name(f"{name}.json"))]
    tests = [f"test_gates.py::test_{name}" for name in gates]
    before, started = kept(given.cache), time.monotonic()
    code = subprocess.run([sys.executable, *given.command, *tests], check=False).returncode if tests else 1
    made = sorted(kept(given.cache) - before)
    figures = {"gates": gates, "seconds": time.monotonic() - started, "made": made}
    given.out.write_text(json.dumps(figures), encoding="utf-8")
    if made:
        print("made although it was cached:", *made, sep="\n")
    sys.exit(code or bool(made))


if __name__ == "__main__":
    main()
