"""The method is gated like any other. It stores 16 bits, so the floor by stored bits is switched off."""

import pytest


@pytest.mark.quantize(method="rounded", bits=6, max_rtn_factor=0, max_ppl_delta=0.2)
def test_rounded():
    """Six bits are nearly the model."""
