"""Activation-aware scaling: inputs that are large get finer steps (AWQ, Lin et al., arXiv 2306.00978).

A weight of input j is multiplied by s_j before rounding, and the product divided by it again. With s_j a
power of the input's mean magnitude, the power is searched for the least squared error of the layer's output,
in which inputs count as uncorrelated: Σ_j E[x_j²] Σ_i ΔW_ij². The scales are stored beside the codes, so that
no other layer has to change.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_POWERS = tuple(step / 10 for step in range(11))
#: Bounds of a scale, so that float16 holds it with all its digits.
_LEAST, _MOST = 1e-3, 1e3


def candidate_scales(magnitudes: Any) -> Iterator[Any]:
    """Yield |x|^power for powers from 0 to 1, with a geometric middle of 1, as float16 (inputs)."""
    for power in _POWERS:
        raised = magnitudes.clamp(min=1e-8).pow(power)
        yield (raised / (raised.max() * raised.min()).sqrt()).clamp(_LEAST, _MOST).half()


def output_error(difference: Any, squares: Any) -> float:
    """Return the mean squared error of outputs for a difference of weights (outputs, inputs)."""
    return float((difference.square() * squares).sum())
