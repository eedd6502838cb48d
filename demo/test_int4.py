"""The demo where bitsandbytes is not installed: TenPak's own recipe, which needs nothing but torch."""

import pytest


@pytest.mark.quantize(
    method="tenpak-v10", samples=8, sample_length=256, max_ppl_delta=0.35, min_compression=2.3
)
def test_tenpak_v10(quantized):
    """INT4 with scaled inputs and outliers still answers a simple question."""
    assert "Paris" in quantized.generate("The capital of France is", max_new_tokens=8)
