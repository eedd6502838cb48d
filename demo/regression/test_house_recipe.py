"""A planted regression: `make demo-regression` ends red, against a baseline from better days."""

import pytest


@pytest.mark.quantize(method="house", max_ppl_delta=0.5, min_compression=2.2)
def test_house_recipe():
    """The recipe still fits under its limits, but it got worse than what was accepted."""
