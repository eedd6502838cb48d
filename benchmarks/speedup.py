"""Speed and peak memory of quantized checkpoints beside the unquantized model, as Markdown.

Each is timed and weighed as a gate with ``min_speedup=1, max_memory_ratio=1`` does it: rounds end once it is
decided whether prefill and decode are both as fast as the model's own, or one is not. Checkpoints come from
the cache where they are known. Absolute speeds are those of this machine and moment.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from faults import run_of
from platformdirs import user_cache_path
from subject import SMOLLM2, quiet
from tabulate import tabulate

from pytest_tenpak.errors import TenpakError
from pytest_tenpak.gate.inputs import find_source, set_up
from pytest_tenpak.gate.marker import read_marker
from pytest_tenpak.gate.run import Run
from pytest_tenpak.gate.timing import time_checkpoint, weigh_checkpoint
from pytest_tenpak.metrics.speed import PhaseSpeed
from pytest_tenpak.quantizers.base import Quantizer
from pytest_tenpak.store.store import Store

#: The recipes, as markers write them.
RECIPES: dict[str, dict[str, Any]] = {
    "fp16": {"method": "fp16"},
    "nf4": {"method": "nf4"},
    "int8": {"method": "int8"},
    "rtn": {"method": "rtn", "group_size": 64},
    "tenpak-v10": {"method": "tenpak-v10"},
    # How fast weights are does not depend on how well they were calibrated.
    "gptq": {"method": "gptq", "group_size": 64, "samples": 8},
}
HEADERS = ("recipe", "layers run through", "prefill", "decode", "peak memory")


def row(name: str, model: str, dtype: str, run: Run) -> list[str]:
    """One line of the table; of a recipe that cannot run here, why."""
    given = {**RECIPES[name], "model": model, "dtype": dtype, "min_speedup": 1.0, "max_memory_ratio": 1.0}
    try:
        return [name, *_cells(given, run)]
    except TenpakError as error:
        print(error, file=sys.stderr)
        return [name, error.problem.splitlines()[0], "—", "—", "—"]


def _cells(given: dict[str, Any], run: Run) -> Iterator[str]:
    case = read_marker(
        (), given, registry=run.registry, defaults={}, nodeid="speedup", file="speedup.py", line=1
    )
    (experiment,) = set_up(case, run, run.choose_device())
    source = find_source(experiment)
    subject = experiment.quantize(source) if isinstance(source, Quantizer) else source
    speed, memory = time_checkpoint(experiment, subject), weigh_checkpoint(experiment, subject)
    assert speed is not None
    assert memory is not None
    yield speed.kernel or "Linear"
    yield from (_phase(one, run) for one in speed.phases)
    yield f"{memory.ratio:.2f}× ({memory.checkpoint / 2**20:,.0f} of {memory.reference / 2**20:,.0f} MiB)"


def _phase(one: PhaseSpeed, run: Run) -> str:
    """The ratio with its interval, speeds of both, and rounds."""
    ratio, low, high = one.interval(run.rule)
    speeds = f"{one.checkpoint_speed:,.1f} against {one.reference_speed:,.1f} tokens/s"
    return f"{ratio:.2f}× ({low:.2f} to {high:.2f}; {speeds}, {one.rounds} rounds)"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=SMOLLM2)
    parser.add_argument("--dtype", default="auto", help="as the marker's dtype")
    parser.add_argument("--only", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    given = parser.parse_args()
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        run = replace(run_of(Path(folder), "off"), store=Store(user_cache_path("pytest-tenpak")))
        rows = [row(name, given.model, given.dtype, run) for name in given.only]
        run.workers.close()
    print(f"\n{Path(given.model).name}, dtype={given.dtype!r}, {torch.get_num_threads()} thread(s)\n")
    print(tabulate(rows, HEADERS, tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main()
