"""Install the kit's packages into a folder, beside the machine's own torch: no index, no dependencies."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path


def install(site: Path, packages: list[Path], *options: str) -> None:
    """Install packages with this interpreter's pip; raises CalledProcessError."""
    if packages:
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--no-compile",
        ]
        places = ["--no-cache-dir", "--upgrade", "--target", str(site)]
        subprocess.run([*command, *places, *options, *map(str, packages)], check=True)


def main() -> None:
    """Install wheels, then build what has none: where that fails, the wheels are there all the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("site", type=Path)
    parser.add_argument("packages", type=Path, nargs="*")
    given = parser.parse_args()
    wheels = [path for path in given.packages if path.suffix == ".whl"]
    sources = [path for path in given.packages if path.suffix != ".whl"]
    install(given.site, wheels)
    for source in sources:
        install(given.site, [source], "--no-build-isolation")
    figures = {"packages": len(given.packages), "bytes": sum(path.stat().st_size for path in given.packages)}
    given.out.write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
