"""Calibration samples: sequences of token ids, drawn from texts with a random generator of their own."""

from __future__ import annotations

import random

from ..errors import CorpusError
from ..spec import Option
from .base import Job
from .loading import load_tokenizer

#: Options of every method that calibrates, in addition to its own.
OPTIONS = (
    Option("samples", int, 128, "calibration samples to draw", minimum=1),
    Option("sample_length", int, 512, "tokens in a calibration sample", minimum=16),
    Option("seed", int, 0, "which samples are drawn", minimum=0),
)
#: Texts are joined with this before they are tokenized.
_JOIN = "\n\n"


def draw_samples(job: Job) -> list[list[int]]:
    """Draw ``samples`` sequences of ``sample_length`` token ids, each from a random place in the texts.

    The procedure of the GPTQ paper's code (arXiv 2210.17323), with a generator that no test plugin
    reseeds: the same texts, options and tokenizer give the same samples. Raises CorpusError when the
    texts are shorter than one sample.
    """
    tokenizer = load_tokenizer(job.model)
    ids: list[int] = tokenizer(_JOIN.join(job.calibration), verbose=False)["input_ids"]
    count, length, seed = (job.spec.options[name] for name in ("samples", "sample_length", "seed"))
    if len(ids) < length:
        raise CorpusError(
            "the calibration text is shorter than one sample",
            given=f"{len(ids)} tokens",
            accepted=f"at least {length} tokens (sample_length)",
            remedy="give a longer text as calibration, or lower sample_length",
        )
    # Only random() is guaranteed to give the same numbers on every version of Python.
    generator = random.Random(seed)
    starts = [int(generator.random() * (len(ids) - length + 1)) for _ in range(count)]
    return [ids[start : start + length] for start in starts]
