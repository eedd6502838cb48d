"""The gates of this project: a real small language model, held to its baselines.

NF4 costs a model of 135 million parameters far more than the few per cent that papers quote for
7 billion and up, so the limits here are wide and the baselines do the gating.
"""

import pytest


@pytest.mark.quantize(method="nf4", max_ppl_delta=0.35, min_compression=2.2)
def test_nf4(quantized):
    """4-bit NormalFloat still answers a simple question."""
    assert "Paris" in quantized.generate("The capital of France is", max_new_tokens=8)


@pytest.mark.quantize(method="int8", max_ppl_delta=0.05, min_compression=1.6)
def test_int8():
    """LLM.int8() is gated by its figures alone."""
