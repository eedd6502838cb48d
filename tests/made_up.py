"""Measurements with made-up figures, for what is pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pytest_tenpak.baseline import Baseline, Entry
from pytest_tenpak.measurement import Ledger, Measurement, Provenance, Windows

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


def better(entry: Entry, factor: float, same_weights: bool = False) -> Entry:
    """The entry that would stand there had a checkpoint of ``factor`` times less perplexity been accepted.

    Of other weights than the entry's, or of the same ones, which a better kernel ran.
    """
    rows = zip(entry.nll, entry.tokens, strict=True)
    nll = tuple(round(window - tokens * math.log(factor), 6) for window, tokens in rows)
    figures = replace(entry.figures, perplexity=math.exp(sum(nll) / sum(entry.tokens)))
    digest = entry.weights_digest if same_weights else "sha256:" + "0" * 64
    return replace(entry, nll=nll, figures=figures, weights_digest=digest)


def rewrite(path: Path, change: Callable[[Entry], Entry], device_class: str = "cpu") -> bytes:
    """Change an entry of a baseline file as if that had been accepted; the file's new bytes."""
    baseline = Baseline.read(path)
    assert baseline is not None
    baseline.with_entry(device_class, change(baseline.entries[device_class])).write(path)
    return path.read_bytes()
