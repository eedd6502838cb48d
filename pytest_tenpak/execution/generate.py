"""Generating text in a worker process, where a kernel's crash or a backend's patches are its own."""

from __future__ import annotations

from typing import Any

from ..errors import SpecError
from ..models.dispatched import input_device
from ..progress import Progress
from ..quantizers.loading import import_transformers, load_tokenizer
from .jobs import GenerateJob
from .load import load_once


def generate(job: GenerateJob, progress: Progress) -> dict[str, Any]:
    """Return ``texts``: what the model says after each prompt, without the prompt."""
    import_transformers()
    tokenizer = load_tokenizer(job.directory)
    model = load_once(job).model
    texts = []
    # One by one: padding, and LLM.int8()'s choice of outliers by batch, would make them depend on each other.
    for prompt in job.prompts:
        inputs = tokenizer(prompt, return_tensors="pt").to(input_device(model))
        try:
            ids = model.generate(**inputs, **{"do_sample": False, **job.options})
        except (TypeError, ValueError) as fault:
            raise SpecError(
                "transformers refuses what quantized.generate() was given",
                given=f"{job.options or 'no options'}: {type(fault).__name__}: {fault}",
                accepted="options of transformers' generate()",
                remedy="correct the options; quantized.model is the model itself, for all else",
            ) from fault
        answer = ids[0, inputs["input_ids"].shape[1] :]
        texts.append(tokenizer.decode(answer, skip_special_tokens=True))
        progress(len(texts), len(job.prompts), "prompts")
    return {"texts": texts}
