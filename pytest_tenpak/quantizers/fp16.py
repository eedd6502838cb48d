"""No quantization: the model at 16 bit, to compare with, and as a gate for the plain checkpoint."""

from __future__ import annotations

from .base import Job, Quantizer
from .loading import load_pretrained


class Fp16(Quantizer):
    """Every weight rounded to float16."""

    method = "fp16"
    may_change = ()

    def quantize(self, job: Job) -> None:
        """Round to float16 and save."""
        load_pretrained(job.model, "cpu", "float16").save_pretrained(job.out)
        job.progress(1, 1, "steps")
