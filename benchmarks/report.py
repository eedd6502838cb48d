"""What the HTML report of a large run costs: seconds, bytes, and whether torch was imported for it.

    python benchmarks/report.py [CASES]

The cases are made up, as full as real ones get: long texts, many layers, a past for each baseline.
"""

from __future__ import annotations

import math
import random
import sys
import time

from pytest_tenpak.baselines.entry import Entry, Figures
from pytest_tenpak.baselines.history import Past
from pytest_tenpak.gate.case import Case
from pytest_tenpak.gate.outcome import Outcome, Part
from pytest_tenpak.gate.summary import Summary
from pytest_tenpak.metrics.measurement import (
    Divergence,
    Layers,
    Ledger,
    Measurement,
    Provenance,
    Robust,
    Windows,
)
from pytest_tenpak.reports.html.page import render
from pytest_tenpak.spec import QuantizeSpec
from pytest_tenpak.verdict.checks import Limits, Tolerances
from pytest_tenpak.verdict.compare import compare
from pytest_tenpak.verdict.comparison import Comparison
from pytest_tenpak.verdict.update import Request, decide

WINDOWS, TOKENS, LAYERS, COMMITS = 2000, 255, 32, 100


def measured(draw: random.Random, worse: float, layer_bytes: int) -> Measurement:
    """A measurement, ``worse`` nats per token above a text that is the same for all."""
    text = random.Random(0)
    nll = tuple(TOKENS * (text.gauss(3.0, 0.4) + draw.gauss(worse, 0.2)) for _ in range(WINDOWS))
    kld = tuple(TOKENS * abs(draw.gauss(worse, 0.05)) for _ in range(WINDOWS))
    others = tuple(TOKENS * min(worse, 0.3) for _ in range(WINDOWS))
    row = tuple(draw.gauss(1.0, 0.03) for _ in range(LAYERS))
    return Measurement(
        windows=Windows(nll, (TOKENS,) * WINDOWS, (0,) * WINDOWS, "stream", None, kld, others),
        ledger=Ledger(
            7_000_000_000, layer_bytes + 262_144_000, layer_bytes + 262_200_000, 6_738_000_000, layer_bytes
        ),
        identity={
            "model": "sha256:" + "a" * 64,
            "corpus": "sha256:" + "c" * 64,
            "protocol": {"context": 256},
        },
        weights_digest="d" * 64,
        provenance=Provenance({"torch": "2.13.0", "transformers": "5.23.0"}, {"device": "NVIDIA H100"}),
        loader="transformers 5.23.0",
        budget=WINDOWS * TOKENS,
        robust=Robust(2.9, 2.1, 0.004),
        divergence=Divergence("exact", worse, 0.001, worse / 2, 9 * worse, 20 * worse, 40 * worse, 0.9, 0.04),
        layers=Layers(row, tuple(abs(x - 1) for x in row)),
    )


def outcome(number: int) -> Outcome:
    """One case of a matrix of methods; every tenth got worse."""
    draw = random.Random(number)
    worse = draw.uniform(0.005, 0.2)
    layer_bytes = int(6_738_000_000 * draw.uniform(0.5, 1.1) * (1 - worse))
    ours, reference = measured(draw, worse, layer_bytes), measured(random.Random(0), 0.0, 0)
    entry = Entry.of(
        measured(random.Random(number), worse - (0.05 if number % 10 == 0 else 0), layer_bytes), reference
    )
    case = Case(
        nodeid=f"tests/quantization/test_matrix.py::test_recipe[group-{number}]",
        file="tests/quantization/test_matrix.py",
        line=12,
        name=f"tests/quantization/test_matrix/test_recipe.group-{number}",
        spec=QuantizeSpec("gptq", {"bits": 4, "group_size": number}),
        model="models/seven-billion",
        checkpoint=None,
        corpus=("wikitext",),
        calibration=None,
        max_overlap=0.01,
        max_reference_nll=1.1,
        protocol="gptq",
        context=256,
        stride=None,
        max_tokens=0,
        dtype="auto",
        limits=Limits(max_ppl_delta=0.3, min_compression={"whole_vs_16bit": 2.0}, max_kld=0.5, min_top1=0.5),
        tolerances=Tolerances(),
        may_skip=False,
    )
    comparison = Comparison(case.limits, case.tolerances, ours.identity, ours.weights_digest, entry)
    verdict = compare(ours, reference, comparison)
    part = Part("wikitext", case.name, ours, reference, ("torch 2.12.0 → 2.13.0",))
    return Outcome(
        case=case,
        verdict=verdict,
        update=decide(verdict, Request(), False),
        device_class="cuda-sm90",
        baseline=f"baselines/{case.name}.json",
        parts=(part,),
        quantizing={"seconds": 812.5, "peak_bytes": 30_000_000_000},
    )


def past(number: int) -> list[Past]:
    """What a baseline was, over many commits."""
    draw = random.Random(number)
    rows = []
    for commit in range(COMMITS):
        figures = Figures(8 + math.sin(commit / 9) + draw.random() / 5, 7.5, 4.25, 3.46, 0.02, 0.95)
        rows.append(
            Past(
                f"{draw.getrandbits(160):040x}",
                f"2026-01-{commit % 28 + 1:02}T00:00:00+00:00",
                "cuda-sm90",
                figures,
            )
        )
    return rows


def main(count: int) -> None:
    """Print time, size and what was imported."""
    outcomes = tuple(outcome(number) for number in range(count))
    summary = Summary(
        outcomes=outcomes,
        expected=tuple(one.title for one in outcomes),
        trends={one.case.name: past(number) for number, one in enumerate(outcomes)},
    )
    started = time.perf_counter()
    page = render(summary)
    seconds = time.perf_counter() - started
    imported = "torch was imported" if "torch" in sys.modules else "torch was not imported"
    print(f"{count} cases: {seconds:.2f} s, {len(page.encode()):,} bytes, {imported}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
