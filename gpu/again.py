"""Run gates that must find everything in their cache: quantizing or measuring anything is a failure."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

#: What quantizing and measuring leave: models, checkpoints, blocks of traces.
#: Summaries are computed of what was measured: with a baseline a verdict is clear after fewer windows.
_MADE = "*.safetensors"


def kept(cache: Path) -> set[str]:
    """Return the files of a cache that were quantized or measured."""
    return {str(path.relative_to(cache)) for path in cache.rglob(_MADE)}


def main() -> None:
    """Run, compare, write how long it took and what was made as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("cache", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    before, started = kept(given.cache), time.monotonic()
    code = subprocess.run([sys.executable, *given.command], check=False).returncode
    made = sorted(kept(given.cache) - before)
    figures = {"seconds": time.monotonic() - started, "files_before": len(before), "made": made}
    given.out.write_text(json.dumps(figures), encoding="utf-8")
    if made:
        print("made although it was cached:", *made, sep="\n")
    sys.exit(code or (1 if made or not before else 0))


if __name__ == "__main__":
    main()
