"""Layers of our own INT4, dequantized some outputs at a time and rounded as they could be stored; numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..metrics.audit import COMPENSATED, NEAREST
from .grids import Grid
from .quantized_layer import Parts, QuantizedLayer
from .values import Floats, floats, stored_values

#: The code that means zero on a symmetric grid.
_MIDDLE = 8


def read_int4(parts: Parts, config: Mapping[str, Any]) -> QuantizedLayer:
    """Return the layer whose tensors are ``parts``, as :mod:`~.quantizers.int4.matrix` makes them."""
    inputs, group = (int(number) for number in stored_values(parts["layout"]))
    outputs = parts["codes"].shape[0]
    scales = floats(parts["scales"])
    symmetric = "zeros" not in parts
    zeros = None if symmetric else _nibbles(stored_values(parts["zeros"]), scales.shape[1])
    scaled = floats(parts["input_scales"]) if "input_scales" in parts else np.float32(1)
    grid, outliers = Grid(4, group, symmetric, half=True), cache(lambda: _outliers(parts, outputs))

    def spread(by_group: NDArray[Any]) -> NDArray[Any]:
        return np.repeat(by_group, group, axis=1)[:, :inputs]

    def rows(start: int, stop: int) -> Floats:
        codes = _nibbles(stored_values(parts["codes"], start, stop), inputs)
        zero = _MIDDLE if zeros is None else spread(zeros[start:stop])
        values: Floats = (codes - zero).astype(np.float32) * spread(scales[start:stop]) / scaled
        places, kept = outliers()(start, stop)
        values[places] = kept
        return values

    def nearest(wanted: Floats, start: int, stop: int) -> Floats:
        places, _ = outliers()(start, stop)
        rest = wanted * scaled
        rest[places] = 0
        rounded: Floats = grid.round(rest) / scaled
        rounded[places] = wanted[places]
        return rounded

    return QuantizedLayer(
        (outputs, inputs),
        grid,
        rows,
        {"bits": 4, "sym": symmetric},
        # The search for clipping weighs errors by activations, and accepts larger ones where these are small.
        rounding=COMPENSATED if config.get("clip") else NEAREST,
        round_rows=nearest,
    )


def _outliers(parts: Parts, outputs: int) -> Callable[[int, int], tuple[Any, Any]]:
    """Return how to find the outliers of some outputs: their places in these rows, and their values."""
    stored: list[NDArray[Any]] = [np.zeros(outputs + 1, int), np.zeros(0, int), np.zeros(0, np.float32)]
    if "outlier_starts" in parts:
        stored = [stored_values(parts[f"outlier_{name}"]) for name in ("starts", "columns", "values")]
    starts, columns, values = stored

    def found(start: int, stop: int) -> tuple[Any, Any]:
        rows = np.repeat(np.arange(stop - start), np.diff(starts[start : stop + 1]))
        own = slice(starts[start], starts[stop])
        return (rows, columns[own]), values[own]

    return found


def _nibbles(packed: NDArray[Any], count: int) -> NDArray[np.int16]:
    """Return the codes of 4 bits that bytes hold, the first of each two in the lower half."""
    codes = np.stack((packed & 15, packed >> 4), axis=2).reshape(len(packed), -1)
    return codes[:, :count].astype(np.int16)
