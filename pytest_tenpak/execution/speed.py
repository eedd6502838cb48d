"""Timing and weighing in a worker process: both models side by side, or the peak memory of one alone.

May run in another interpreter, like ``main.py``: no module that is imported here may need more at import time
than the standard library.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import UnavailableError
from ..evaluation.speed import Tokens, cut, run_once, time_rounds
from ..metrics.speed import Speed
from ..progress import Progress
from ..quantizers.loading import import_transformers, load_pretrained, load_tokenizer
from ..quantizers.locate import relocate
from ..quantizers.registry import loading_backend
from .jobs import MemoryJob, SpeedJob
from .load import load_subject
from .measure import describe_device, kernels
from .memory import own_bytes

#: What :class:`~.metrics.speed.Memory` calls the two kinds of memory.
_OF_GPU, _OF_HOST = "allocated on the GPU", "resident"
#: A model that fits into what the process had freed before took no less than this (bytes).
_PAGE = 4096


def time_pair(job: SpeedJob, progress: Progress) -> dict[str, Any]:
    """Load the reference and the checkpoint, and return their speeds in the plain form of ``Speed``."""
    tokens = _prepare(job)
    import torch

    reference = load_pretrained(job.model, job.device, job.dtype)
    checkpoint = load_subject(job).model
    phases = time_rounds(reference, checkpoint, tokens, job.least, job.rule, progress)
    speed = Speed(
        phases=phases,
        prompt=len(tokens.prompt),
        kernel=kernels(checkpoint, job.layers).get("kernel", ""),
        dtype=job.dtype,
        device=describe_device(job.device)["device"],
        threads=torch.get_num_threads(),
    )
    return speed.to_dict()


def weigh(job: MemoryJob, progress: Progress) -> dict[str, Any]:
    """Return ``bytes``, the peak memory of loading and running one model, and ``kind``, of which memory."""
    tokens = _prepare(job)
    _import_backend(job)
    kind, peak = _meter(job.device)
    run_once(load_subject(job).model, tokens)
    progress(1, 1, "models")
    return {"bytes": max(peak(), _PAGE), "kind": kind}


def _prepare(job: SpeedJob | MemoryJob) -> Tokens:
    """Import what loads models, set threads, and tokenize: with the reference's tokenizer for both models."""
    import_transformers()
    import torch

    if job.threads:
        torch.set_num_threads(job.threads)
    return cut(load_tokenizer(job.model)(job.text, verbose=False)["input_ids"], job.context, job.device)


def _import_backend(job: MemoryJob) -> None:
    """Import the libraries that load a checkpoint, so that they count for it as little as torch does."""
    backend = relocate(job.quantizer).backend(job.spec) if job.quantizer else loading_backend(job.directory)
    for name in backend.requires if backend else ():
        with suppress(ImportError):
            importlib.import_module(name.replace("-", "_").lower())


def _meter(device: str) -> tuple[str, Callable[[], int]]:
    """Begin to watch the memory of a device; return of which kind it is, and what returns its peak in bytes.

    Memory that the process has already does not count. Raises UnavailableError where nothing tells.
    """
    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        return _OF_GPU, lambda: int(torch.cuda.max_memory_allocated(device)) - before
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is what there is now
        resident = own_bytes("VmRSS")
    except (OSError, LookupError) as fault:
        raise UnavailableError(
            "the peak memory of a process cannot be measured on this system",
            given=f"{type(fault).__name__}: {fault}",
            accepted="Linux, with /proc/self/clear_refs and VmHWM in /proc/self/status; or a CUDA device",
            remedy="leave max_memory_ratio out of the marker, or set may_skip=True",
        ) from fault
    return _OF_HOST, lambda: own_bytes("VmHWM") - resident
