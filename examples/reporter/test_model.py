"""A gate to report: the model as it is, which takes seconds."""

import pytest


@pytest.mark.quantize(method="fp16")
def test_unquantized():
    """Every weight at 16 bit."""
