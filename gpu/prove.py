"""Prove pytest-tenpak on this machine, which needs Python, torch and a GPU, and no network.

Joins the kit's pieces, installs them into a folder beside the machine's torch, runs every step with a time
limit of its own, and writes ``gpu-proof.json`` and ``gpu-proof.md``. Exit code 0: every step passed; 1: one
did not, and the others were tried all the same; 3: pieces are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pieces import MANIFEST, PieceError, join, missing, read_manifest, receive
from running import PASSED, Result, run_steps
from steps import GATES, LIMITS, Setup, make_steps, prepare
from tables import document

PIECE = Path(__file__).resolve().parents[1]
#: A CI's variables would make gates fail for want of a baseline, and pip must not look for a network.
_UNSET = ("CI", "BUILD_NUMBER", "PYTEST_ADDOPTS", "PYTHONDONTWRITEBYTECODE")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "pieces", type=Path, nargs="*", help="their folders (default: this one and those beside it)"
    )
    parser.add_argument(
        "--receive", action="store_true", help="only keep the pieces in WORK, and say what is missing"
    )
    parser.add_argument("--work", type=Path, default=Path("gpu-proof"), help="folder for all that is made")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: the mechanics, on a CPU too")
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter that has torch (default: this one)"
    )
    parser.add_argument(
        "--steps", nargs="+", choices=LIMITS, metavar="STEP", help=f"only these: {', '.join(LIMITS)}"
    )
    return parser.parse_args()


def main() -> int:
    """Join the pieces, run the steps, write the reports."""
    given, started = parse(), time.monotonic()
    work = given.work.resolve()
    pieces = given.pieces or sorted(path.parent for path in PIECE.parent.glob(f"*/{MANIFEST}"))
    try:
        wholes = read_manifest(PIECE)
        if given.receive:
            for piece in pieces:
                receive(piece, work / "parts")
        folders = [*pieces, work / "parts"]
        if lacking := missing(wholes, folders):
            print(f"missing: {', '.join(lacking)}", file=sys.stderr)
            return 0 if given.receive else 3
        if given.receive:
            print("all pieces are here")
            return 0
        join(wholes, folders, work / "files")
    except PieceError as fault:
        print(fault, file=sys.stderr)
        return 3
    setup = Setup(given.python, work / "files", work, work / "out", given.device, given.quick)
    prepare(setup)
    steps = [step for step in make_steps(setup) if not given.steps or step.name in given.steps]

    def report(results: list[Result]) -> None:
        write(setup, results, time.monotonic() - started)
        print(f"{results[-1].name}: {results[-1].status}, {results[-1].seconds:.1f} s", flush=True)

    results = run_steps(steps, environment(setup), setup.out, report)
    print(f"figures and logs: {setup.out}")
    return 0 if all(result.status == PASSED for result in results) else 1


def environment(setup: Setup) -> dict[str, str]:
    """Return the environment of every step: the installed packages first, no network, no compiler."""
    ours = {
        "PYTHONPATH": str(setup.site),
        "PATH": f"{setup.site / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "XDG_CACHE_HOME": str(setup.cache),
        # Without it each of some twenty processes compiles torch and transformers for ten seconds and more.
        "PYTHONPYCACHEPREFIX": str(setup.work / "bytecode"),
        "PYTHONUNBUFFERED": "1",
        "PIP_NO_INDEX": "1",
        "HF_HUB_OFFLINE": "1",
        "TENPAK_TESTS_COLD": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # GPTQModel packs codes and updates blocks by torch in place of compiling extensions first.
        "GPTQMODEL_DISABLE_PACK_EXT": "1",
        "GPTQMODEL_DISABLE_GPTQ_CUDA": "1",
        "TENPAK_PROOF_KERNEL": "torch" if setup.device.startswith("cuda") else "auto",
    }
    return {**{name: value for name, value in os.environ.items() if name not in _UNSET}, **ours}


def write(setup: Setup, results: list[Result], seconds: float) -> None:
    """Write both reports, after each step: what was found so far stays if the machine goes away."""
    proof: dict[str, Any] = {
        "schema_version": 1,
        "device": setup.device,
        "quick": setup.quick,
        "seconds": seconds,
        "limit": sum(LIMITS.values()),
        "gates": list(GATES),
        "steps": [asdict(result) for result in results],
    }
    (setup.out / "gpu-proof.json").write_text(json.dumps(proof, indent=1), encoding="utf-8")
    (setup.out / "gpu-proof.md").write_text(document(proof), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
