"""NF4 and LLM.int8() through bitsandbytes and transformers' integration of it, on CPU and CUDA.

NF4: Dettmers et al., QLoRA (arXiv 2305.14314). LLM.int8(): Dettmers et al. (arXiv 2208.07339).
"""

from __future__ import annotations

import inspect
import re
from typing import Any, ClassVar

from ..errors import SpecError
from ..spec import Option
from .base import Job, Quantizer
from .loading import load_pretrained
from .shared_options import FOUR_BITS, SKIP_MODULES, require_named

#: Output heads that stay unquantized; naming modules to skip replaces the integration's own list.
_HEADS = ("lm_head", "embed_out")
#: The backend's own default, in weights.
_BLOCKSIZE = 64


class _BitsAndBytes(Quantizer):
    #: 2: parts of names in ``skip_modules`` that are neither their beginning nor their end count.
    adapter_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("bitsandbytes", "accelerate")
    may_change: ClassVar[tuple[str, ...]] = ()
    #: transformers would leave them unquantized.
    offloads: ClassVar[bool] = False
    install: ClassVar[str] = "pip install 'pytest-tenpak[bitsandbytes]'"

    def _save(self, job: Job, **options: Any) -> None:
        """Quantize while loading and save; unquantized tensors keep their stored type."""
        from transformers import BitsAndBytesConfig

        skip = job.spec.options["skip_modules"]
        # transformers matches names from their start or at their end; a part of a name is a pattern.
        anywhere = [f".*{re.escape(name)}.*" for name in skip]
        skipped = [*skip, *anywhere, *_HEADS] if skip else None
        recipe = BitsAndBytesConfig(llm_int8_skip_modules=skipped, **options)
        model = load_pretrained(job.model, job.device, "auto", quantization_config=recipe)
        require_named("skip_modules", skip, [name for name, _ in model.named_modules()], "module")
        job.progress(1, 2, "steps")
        model.save_pretrained(job.out)
        job.progress(2, 2, "steps")


class Nf4(_BitsAndBytes):
    """4-bit NormalFloat in blocks, each with an absolute maximum (itself quantized with double_quant)."""

    method = "nf4"
    options = (
        FOUR_BITS,
        Option("double_quant", bool, False, "quantize the block maxima too"),
        Option(
            "blocksize",
            int,
            _BLOCKSIZE,
            "weights per block",
            choices=(32, 64, 128, 256, 512, 1024, 2048, 4096),
        ),
        Option(
            "compute_dtype",
            str,
            "auto",
            "type of the matrix products; auto: the type the checkpoint is measured in",
            choices=("auto", "float32", "bfloat16", "float16"),
        ),
        SKIP_MODULES,
    )

    def quantize(self, job: Job) -> None:
        """Quantize to NF4 and save."""
        import torch

        options = job.spec.options
        compute = job.dtype if options["compute_dtype"] == "auto" else options["compute_dtype"]
        _set_blocksize(options["blocksize"])
        self._save(
            job,
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=options["double_quant"],
            bnb_4bit_compute_dtype=getattr(torch, compute),
        )


class Int8(_BitsAndBytes):
    """8-bit rows, each with its absolute maximum; larger activations stay in 16 bit."""

    method = "int8"
    options = (
        Option("bits", int, 8, "the only width of the method", choices=(8,)),
        Option("threshold", float, 6.0, "activations above it are outliers, in 16 bit; 0: none", minimum=0),
        SKIP_MODULES,
    )

    def quantize(self, job: Job) -> None:
        """Quantize to LLM.int8() and save."""
        self._save(job, load_in_8bit=True, llm_int8_threshold=job.spec.options["threshold"])


def _set_blocksize(blocksize: int) -> None:
    """Make ``blocksize`` the default of new 4-bit parameters, in this worker process.

    transformers' BitsAndBytesConfig has no field for it and uses the default of the parameter's class.
    Loading needs no such change: the block size is stored with the quantized state.
    """
    import bitsandbytes as bnb

    if blocksize == _BLOCKSIZE:
        return
    make = bnb.nn.Params4bit.__new__
    names = list(inspect.signature(make).parameters.values())
    defaults = [(p.name, p.default) for p in names if p.default is not inspect.Parameter.empty]
    if "blocksize" not in dict(defaults):
        raise SpecError(
            "the block size of this bitsandbytes cannot be set",
            given=f"blocksize={blocksize}",
            accepted="the default",
            remedy="upgrade bitsandbytes, or leave blocksize out",
        )
    make.__defaults__ = tuple(blocksize if name == "blocksize" else default for name, default in defaults)
