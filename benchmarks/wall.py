"""What the demo's two gates take, cold and warm, in multiples of the forward passes that they need.

In each round, one after another on the same machine: the gates from a cache that holds nothing but the
converted model, the same gates again, a script with transformers' own loop and one with lm-eval (each loads
the model and measures it, loads it in NF4 and INT8, and measures these: no statistics, nothing saved),
lm-eval as its command line is used, two runs for each gate, and the bare forward passes of the windows that
our verdicts rest on. The passes are the unit, so that a machine whose speed drifts slows all alike.

Run it with the environment that has lm-eval; --pytest names the one with the plugin.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import subject
from tabulate import tabulate

DEMO = "demo/test_smollm2.py"
#: As the demo's settings have it.
CONTEXT = 256
_SCRIPTS: Mapping[str, Sequence[Sequence[str]]] = {
    # What each process of a peer measures; all three models where it names none.
    "transformers": [["transformers"]],
    "lm-eval": [["lm-eval"]],
    "runs": [
        ["lm-eval", "unquantized"],
        ["lm-eval", "nf4"],
        ["lm-eval", "unquantized"],
        ["lm-eval", "int8"],
    ],
}


def gates(pytest: Path, cache: Path) -> tuple[float, list[dict[str, Any]]]:
    """Run the demo's gates; return seconds and the outcomes of the JSON report."""
    report = cache / "report.json"
    command = [str(pytest), DEMO, "-q", f"--tenpak-cache-dir={cache}", f"--tenpak-json={report}"]
    began = time.perf_counter()
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if ran.returncode:
        sys.exit(ran.stdout + ran.stderr)
    outcomes: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["outcomes"]
    return seconds, outcomes


def passes(outcomes: list[dict[str, Any]]) -> dict[str, int]:
    """How many windows our verdicts rest on, of the model, of each checkpoint, and of the floors."""
    found: dict[str, int] = {}
    for outcome in outcomes:
        part = outcome["parts"][0]
        found["reference"] = max(found.get("reference", 0), len(part["reference"]["windows"]["tokens"]))
        found[outcome["checkpoint"]] = len(part["measurement"]["windows"]["tokens"])
        floor = sum(check.get("tokens") or 0 for check in outcome["verdict"]["checks"])
        found["floor"] = found.get("floor", 0) + round(floor / (CONTEXT - 1))
    return found


def scripted(name: str, model: Path) -> float:
    """Run the processes of a peer one after the other; return the seconds of all."""
    began = time.perf_counter()
    for script, *names in _SCRIPTS[name]:
        _child([script, str(model), *names])
    return time.perf_counter() - began


def _child(arguments: list[str]) -> str:
    script = Path(__file__).with_name("wall_scripts.py")
    ran = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(ran.stderr)
    return ran.stdout


def one_round(number: int, pytest: Path, seed: Path, model: Path) -> dict[str, float]:
    """Seconds of everything in one round; the scripts take turns in going first."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        shutil.copytree(seed / "models", cache / "models", copy_function=_link)
        found = {"cold": gates(pytest, cache)[0]}
        found["warm"], outcomes = gates(pytest, cache)
        for name in [*_SCRIPTS][:: -1 if number % 2 else 1]:
            found[name] = scripted(name, model)
        bare: Mapping[str, float] = json.loads(_child(["bare", str(model), json.dumps(passes(outcomes))]))
        return {**found, **bare}


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pytest", type=Path, default=Path(".venv/bin/pytest"))
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    subject.quiet()
    model = subject.find(subject.SMOLLM2)
    with tempfile.TemporaryDirectory() as folder:
        seed = Path(folder)
        _, outcomes = gates(given.pytest, seed)  # not counted: it converts the model and fills the page cache
        rounds = [one_round(number, given.pytest, seed, model) for number in range(given.rounds)]
    report(rounds, passes(outcomes))


def report(rounds: list[dict[str, float]], counts: dict[str, int]) -> None:
    """Print seconds and multiples of the passes, medians over the rounds."""
    rows = []
    titles = {
        "passes": "bare forward passes of our verdicts",
        "loads": "one load of each model",
        "cold": "both gates, cold",
        "warm": "both gates, warm",
        "transformers": "transformers' loop, three models",
        "lm-eval": "lm-eval, three models",
        "runs": "lm-eval, two runs for each gate",
    }
    for name, title in titles.items():
        ratios = [one[name] / one["passes"] for one in rounds]
        rows.append(
            [
                title,
                f"{statistics.median(one[name] for one in rounds):.1f}",
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f} … {max(ratios):.2f}",
            ]
        )
    most = [one["cold"] / (1.5 * one["passes"] + one["loads"]) for one in rounds]
    print(f"\n{len(rounds)} rounds; windows of {CONTEXT} tokens: {sum(counts.values())} of our verdicts\n")
    print(tabulate(rows, ("", "seconds", "of the passes", "range"), tablefmt="pipe", disable_numparse=True))
    print(f"\nCold, over 1.5 × the passes and one load of each model: {statistics.median(most):.2f}")


if __name__ == "__main__":
    main()
