"""Gates as a team would write them: limits taken from what was measured once."""

import pytest


@pytest.mark.quantize(method="nf4", max_ppl_delta=0.35, min_compression=2.2)
@pytest.mark.quantize(method="int8", max_ppl_delta=0.05, min_compression=1.6)
def test_it_still_speaks(quantized):
    """Each marker is a case of its own; the body runs for both, on the reloaded model."""
    assert "Paris" in quantized.generate("The capital of France is", max_new_tokens=12)
