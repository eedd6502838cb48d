"""Measurements with made-up figures, for what is pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pytest_tenpak.baselines.entry import Baseline, Entry
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
from pytest_tenpak.spec import QuantizeSpec
from pytest_tenpak.verdict.checks import Check, Limits, Status, Tolerances, Verdict
from pytest_tenpak.verdict.compare import compare
from pytest_tenpak.verdict.comparison import Comparison
from pytest_tenpak.verdict.update import Request, Update, decide

IDENTITY = {
    "spec": {"method": "nf4", "options": {"bits": 4, "threshold": 1e-9}},
    "model": "sha256:" + "a" * 64,
    "tokenizer": "sha256:" + "b" * 64,
    "corpus": "sha256:" + "c" * 64,
    "calibration": None,
    "protocol": {"name": "gptq", "context": 4, "join": "\n\n"},
    "dtype": "float32",
    "metrics_version": 2,
}

NO_LIMITS, DEFAULT_TOLERANCES = Limits(), Tolerances()


def measured(
    nll=(9.0, 10.0, 11.0), *, tokens=None, tensor_bytes=500, nonfinite=0, stream="s", weights="d", **versions
) -> Measurement:
    """A measurement of windows of 4 tokens, and a ledger of 1000 weights."""
    counts = (4,) * len(nll) if tokens is None else tokens
    return Measurement(
        windows=Windows(tuple(nll), counts, (nonfinite, *(0,) * (len(counts) - 1)), stream),
        ledger=Ledger(1000, tensor_bytes, tensor_bytes + 8, 900, 450),
        identity=IDENTITY,
        weights_digest=weights * 64,
        provenance=Provenance({"torch": "2.13.0", **versions}, {"device": "x86_64"}),
        loader="transformers",
    )


def reference(nll=(8.0, 9.0, 10.0), **rest) -> Measurement:
    """The unquantized model beside :func:`measured`."""
    return replace(measured(nll, **rest), ledger=Ledger(1000, 2000, 2008))


def accepted(**rest) -> Entry:
    """A baseline entry of :func:`measured`."""
    return Entry.of(measured(**rest), reference())


def judged(
    measurement: Measurement,
    reference: Measurement,
    entry: Entry | None = None,
    limits: Limits = NO_LIMITS,
    tolerances: Tolerances = DEFAULT_TOLERANCES,
    rounded: Measurement | None = None,
    **rest,
) -> Verdict:
    """The verdict on a measurement beside a reference and a baseline entry; ``rest`` goes to Comparison."""
    return compare(
        measurement, reference, comparison(measurement, entry, limits, tolerances, **rest), rounded
    )


def comparison(
    measurement: Measurement,
    entry: Entry | None = None,
    limits: Limits = NO_LIMITS,
    tolerances: Tolerances = DEFAULT_TOLERANCES,
    **rest,
) -> Comparison:
    """What a measurement is compared with."""
    return Comparison(limits, tolerances, measurement.identity, measurement.weights_digest, entry, **rest)


def case(nodeid="test_a.py::test_a", file="test_a.py", line=7, **rest) -> Case:
    """A case with the default tolerances, and a limit that it keeps."""
    fields = {
        "name": "test_a/test_a",
        "spec": QuantizeSpec.build("nf4", (), {}),
        "model": "models/m",
        "checkpoint": None,
        "corpus": ("text.txt",),
        "calibration": None,
        "max_overlap": 0.01,
        "max_reference_nll": 1.1,
        "protocol": "gptq",
        "context": None,
        "stride": None,
        "max_tokens": 0,
        "dtype": "auto",
        "limits": Limits(max_ppl_delta=5.0),
        "tolerances": Tolerances(),
        "may_skip": False,
    }
    return Case(nodeid=nodeid, file=file, line=line, **{**fields, **rest})


def outcome(
    nodeid="test_a.py::test_a", factor=1.0, entry="accepted", in_ci=True, mode=None, **rest
) -> Outcome:
    """The outcome of a checkpoint ``factor`` times as perplexed as the accepted one; ``entry`` None: new."""
    asked = case(nodeid, **rest)
    nll = tuple(nll + 4 * math.log(factor) for nll in (9.0, 10.0, 11.0))
    ours = replace(
        measured(nll, weights="d" if factor == 1.0 else "e"),
        robust=Robust(2.4, 2.2, 0.01),
        divergence=Divergence("exact", 0.02, 0.001, 0.01, 0.2, 0.5, 1.5, 0.9, 0.03),
        layers=Layers((1.0, 0.99), (0.1, 0.2)),
        budget=12,
    )
    before = replace(accepted(), layers=ours.layers) if entry else None
    verdict = judged(ours, reference(), before, asked.limits, asked.tolerances)
    part = Part("text.txt", asked.name, ours, reference(), ("torch 2.12.0 → 2.13.0",))
    update = decide(verdict, Request(mode, "fine" if mode else None), in_ci)
    return Outcome(
        asked, verdict, update, "cpu", f"baselines/{asked.name}.json", "/c", (part,), {"seconds": 1.5}
    )


def unmeasured(
    nodeid="test_a.py::test_a",
    problem="the worker crashed\n  | ::error::x",
    skipped=False,
    evidence="",
    **rest,
):
    """The outcome of a case that could not be measured; ``evidence`` is its problem's first line if none is given."""
    check = Check("measured", Status.ERROR, evidence=evidence or problem.partition("\n")[0])
    verdict = Verdict((check,))
    return Outcome(case(nodeid, **rest), verdict, Update(False, False), problem=problem, skipped=skipped)


def summary(*outcomes: Outcome, **rest) -> Summary:
    """A run with these outcomes, all of them expected."""
    expected = tuple(sorted(outcome.title for outcome in outcomes))
    return Summary(**{"outcomes": tuple(outcomes), "expected": expected, **rest})


def better(entry: Entry, factor: float, same_weights: bool = False) -> Entry:
    """The entry that would stand there had a checkpoint of ``factor`` times less perplexity been accepted.

    Of other weights than the entry's, or of the same ones, which a better kernel ran.
    """
    rows = zip(entry.nll, entry.tokens, strict=True)
    nll = tuple(round(window - tokens * math.log(factor), 6) for window, tokens in rows)
    figures = replace(entry.figures, perplexity=math.exp(sum(nll) / sum(entry.tokens)))
    digest = entry.weights_digest if same_weights else "sha256:" + "0" * 64
    anchor = replace(entry.anchor, drift=round(entry.anchor.drift - math.log(factor), 6))
    return replace(entry, nll=nll, figures=figures, weights_digest=digest, anchor=anchor)


def rewrite(path: Path, change: Callable[[Entry], Entry], device_class: str = "") -> bytes:
    """Change an entry of a baseline file, its first or a named one, as if that had been accepted; its new bytes."""
    baseline = Baseline.read(path)
    assert baseline is not None
    device_class = device_class or next(iter(baseline.entries))
    baseline.with_entry(device_class, change(baseline.entries[device_class])).write(path)
    return path.read_bytes()


#: Names that a terminal, a page, a Markdown renderer or a runner might obey.
HOSTILE = {
    "html": "test_a.py::test[<script>alert(1)</script><img src=x onerror=alert(1)>]",
    "markdown": "test_a.py::test[a|b `code` ``` **bold** [x](http://evil) @somebody #1 </details>]",
    "pipe": "test_a.py::test[\\|]",
    "command": "test_a.py::test[%0A::error title=x::pwned]",
    "newline": "test_a.py::test[\n::error title=x::pwned\r\n##[error]pwned\n| a | b |\n```\n</details>]",
    "start": "::error title=x::pwned",
    "ansi": "test_a.py::test[\x1b[31mred\x1b]0;title\x07\x9b2J]",
    "bidi": "test_a.py::test[\u202egnp.exe\u2066\u200f]",
    "surrogate": "test_a.py::test[\udcff]",
    "long": "test_a.py::test[" + "x" * 10_000 + "]",
}
