"""GPTQ and AWQ through GPTQModel, the maintained successor of AutoGPTQ and AutoAWQ. On CPU and CUDA."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import SpecError
from ...models.decoder import decoder_layers
from ...progress import Progress
from ...spec import QuantizeSpec
from ..base import Job
from ..calibration import draw_samples
from ..kernels import AUTO, Kernel
from ..loading import architecture_of

_HALF = ("bfloat16", "float16")
_ANY = ("float32", *_HALF)
_SMALL = (-1, 16, 32, 64, 128)
_LARGE = (*_SMALL, 256, 512, 1024)
_FEW = (-1, 32, 64, 128)
#: Kernels as GPTQModel 7.6 declares them.
GPTQ_KERNELS: Mapping[str, Kernel] = {
    "torch": Kernel((2, 3, 4, 8), ("cpu", "cuda"), _HALF, _LARGE),
    "torch_fused": Kernel((4,), ("cpu",), _ANY, _SMALL),
    "torch_int8": Kernel((2, 4, 8), ("cpu",), _ANY, _SMALL, automatic=False),
    "torch_aten": Kernel((4,), ("cpu",), _HALF, _SMALL[1:]),
    "triton": Kernel((2, 4, 8), ("cuda",), _HALF, _LARGE),
    "exllama_v2": Kernel((4,), ("cuda",), _HALF, _FEW),
    "marlin": Kernel((4, 8), ("cuda",), _HALF, _FEW, symmetric_only=True),
    "machete": Kernel((4, 8), ("cuda",), _HALF, (-1, 64, 128)),
}
AWQ_KERNELS: Mapping[str, Kernel] = {
    "torch": Kernel((4,), ("cpu", "cuda"), _HALF, _SMALL),
    "torch_fused": Kernel((4,), ("cpu",), _ANY, _SMALL),
    "torch_int8": Kernel((4,), ("cpu",), _ANY, _SMALL, automatic=False),
    "torch_aten": Kernel((4,), ("cpu",), _HALF, _SMALL[1:]),
    "gemm": Kernel((4,), ("cuda",), _HALF, _SMALL),
    "exllama_v2": Kernel((4,), ("cuda",), _HALF, _FEW),
    "marlin": Kernel((4,), ("cuda",), _HALF, _FEW),
    "machete": Kernel((4,), ("cuda",), _HALF, _FEW),
}


def quantize(job: Job) -> None:
    """Quantize by the method of ``job.spec`` and save."""
    _set_environment()
    import torch
    from gptqmodel import GPTQModel
    from gptqmodel.models.auto import MODEL_MAP

    architecture_of(job.model, MODEL_MAP, "gptqmodel")
    samples = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in draw_samples(job)]
    wrapped = GPTQModel.load(
        str(job.model), _recipe(job), device=job.device, dtype=getattr(torch, _dtype(job)), backend="auto"
    )
    if job.spec.method == "awq" and not job.spec.options["clip"]:
        _leave_out_clipping()
    total = len(decoder_layers(wrapped.model))
    wrapped.subset_callback = _watch(job.progress, total)
    # Codes of AWQ are packed alike by all kernels. On a GPU the default is one that is compiled first, for a
    # minute, by a compiler that has to be there.
    packing = {"backend": "awq_torch"} if job.spec.method == "awq" else {}
    # In their own order: the backend's default, sorting by length, leaves the order of equal lengths open.
    wrapped.quantize(samples, batch_size=1, calibration_sort=None, **packing)
    job.progress(total, total, "layers")
    wrapped.save(str(job.out))


def load(spec: QuantizeSpec, checkpoint: Path, device: str, dtype: str) -> Any:
    """Load the checkpoint with the spec's kernel, without GPTQModel's wrapper."""
    _set_environment()
    import torch
    from gptqmodel import GPTQModel

    kernel = spec.options["kernel"]
    chosen = kernel if kernel == AUTO else f"{spec.method}_{kernel}"
    return GPTQModel.load(str(checkpoint), device=device, dtype=getattr(torch, dtype), backend=chosen).model


def _set_environment() -> None:
    """Set a variable that GPTQModel reads when it is imported.

    GPTQModel sizes its pool of CPU workers without regard to the machine, and raises on one with few cores
    ("virtual pool …").
    """
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(max(1, min(4, os.cpu_count() or 1))))


def _recipe(job: Job) -> Any:
    """Return the spec as GPTQModel's own configuration."""
    from gptqmodel import QuantizeConfig
    from gptqmodel.quantization import AWQConfig

    options = job.spec.options
    shared = {"bits": options["bits"], "group_size": options["group_size"], "offload_to_disk": False}
    if job.spec.method == "awq":
        return AWQConfig(sym=not options["zero_point"], format=options["version"], **shared)
    return QuantizeConfig(
        sym=options["sym"],
        desc_act=options["desc_act"],
        # Its own default, except for whole rows, where it would raise: there are no groups to be aware of.
        act_group_aware=not options["desc_act"] and options["group_size"] != -1,
        damp_percent=options["damp_percent"],
        **shared,
    )


def _dtype(job: Job) -> str:
    """Return the type to quantize in: exact where that is fast, and 16 bit where it has to be.

    AWQ's packing kernel takes 16 bit only, and float32 would be wrong even with another kernel: GPTQModel's
    search copies tensors by converting them to float32, which copies nothing if that is their type, and then
    scales the weights themselves in place. CPUs are slow in float16.
    """
    from transformers import AutoConfig

    if job.device == "cpu":
        return "bfloat16" if job.spec.method == "awq" else "float32"
    stored = str(AutoConfig.from_pretrained(job.model, local_files_only=True).dtype)
    return "bfloat16" if stored.endswith("bfloat16") else "float16"


def _leave_out_clipping() -> None:
    """Make the AWQ of this process scale only: GPTQModel searches for clipping and has no setting for it."""
    from gptqmodel.looper.awq_processor import AWQProcessor

    if not hasattr(AWQProcessor, "_search_best_clip"):
        raise SpecError(
            "the clipping search of this GPTQModel cannot be left out",
            given="clip=False",
            remedy="leave clip out, or install the GPTQModel that pytest-tenpak requires (>=7.6)",
        )
    AWQProcessor._search_best_clip = lambda *_, **__: []


def _watch(progress: Progress, total: int) -> Any:
    """Report finished layers, from the events that GPTQModel sends when it begins a part of a layer."""

    def subset_event(layer_idx: int, **_: Any) -> None:
        progress(layer_idx, total, "layers")

    return subset_event
