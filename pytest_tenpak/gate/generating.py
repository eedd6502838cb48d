"""Text from a case's checkpoint, for the test that gates it: generated in a worker process."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import SpecError
from ..execution.jobs import GenerateJob
from ..quantizers.locate import locate
from ..spec import CHECKPOINT
from .outcome import Outcome
from .run import Run


def generate(outcome: Outcome, run: Run, prompts: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """Return what the checkpoint of an outcome says after each prompt, greedily unless options say otherwise.

    Raises SpecError for options that are no plain values or that transformers refuses, WorkerError for a
    process that crashes, hangs past the run's limit, or runs out of memory.
    """
    _require_plain(prompts, options)
    spec = outcome.case.spec
    quantizer = None if spec.method == CHECKPOINT else run.registry[spec.method]
    assert outcome.measurement is not None
    job = GenerateJob(
        directory=Path(outcome.checkpoint),
        quantizer=locate(quantizer) if quantizer else None,
        spec=spec,
        device=run.choose_device().torch_name,
        dtype=outcome.measurement.identity["dtype"],
        placement=run.placement,
        prompts=tuple(prompts),
        options=dict(options),
    )
    python = run.interpreter(quantizer, spec)
    with run.show_progress(f"generating with {spec.title}") as progress:
        texts: list[str] = run.do(job, progress, python)["texts"]
    return texts


def _require_plain(prompts: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raise SpecError for what cannot be sent to another process as JSON."""
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise SpecError(
                "quantized.generate() takes a prompt, or a list of prompts",
                given=f"{prompt!r} ({type(prompt).__name__})",
                accepted="strings",
            )
    for name, value in options.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise SpecError(
                f"quantized.generate() cannot send {name} to the process that generates",
                given=f"{name}={value!r} ({type(value).__name__})",
                accepted="numbers, strings, True, False, None, and lists or mappings of these",
                remedy="use quantized.model.generate(), which runs in pytest's own process",
            ) from None
