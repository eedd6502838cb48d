"""Blaming in a worker process: load both models, and put modules of one into the other.

May run in another interpreter, like ``main.py``: no module that is imported here may need more at import time
than the standard library.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any

from ..errors import MeasurementError
from ..evaluation.blame import Models, find_blame
from ..evaluation.kept_texts import read_documents
from ..evaluation.kept_tokens import tokens_of
from ..evaluation.perplexity import Scorer
from ..evaluation.trace import Trace
from ..progress import Progress
from ..quantizers.loading import import_transformers, load_pretrained, load_tokenizer
from ..quantizers.placement import within
from .jobs import BlameJob
from .load import load_subject, space_of


def blame(job: BlameJob, progress: Progress) -> dict[str, Any]:
    """Return what is to blame in the plain form of :class:`~.metrics.blame.Blame`."""
    began = time.monotonic()
    import_transformers()
    import torch

    if job.threads:
        torch.set_num_threads(job.threads)
    tokenizer = load_tokenizer(job.model)
    stream = tokens_of(tokenizer, partial(read_documents, job.text.documents), job.protocol, job.text.tokens)
    reference, trace = Trace(job.reference), Trace(job.trace)
    if stream.digest != trace.stream or trace.stream != reference.stream:
        raise MeasurementError("the model's tokenizer gives other tokens than were measured")
    with within(space_of(job)):
        model = load_pretrained(job.model, job.device, job.dtype)
    checkpoint = load_subject(job).model
    # Layers of LLM.int8() choose their outliers by batch, so windows run one by one, as they were measured.
    size = 1 if getattr(checkpoint, "is_loaded_in_8bit", False) else job.batch_size
    bos = tokenizer.bos_token_id if job.protocol.bos == "window" else None
    scorer = Scorer(model, stream.ids, bos=bos, batch_size=size)
    found = find_blame(
        Models(model, checkpoint, scorer, reference, trace),
        job.protocol.windows(len(stream.ids), 0, stream.starts)[: job.windows],
        budget=job.budget,
        whole_blocks=job.whole_blocks,
        progress=progress,
    )
    return replace(found, seconds=time.monotonic() - began).to_dict()
