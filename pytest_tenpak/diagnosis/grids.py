"""Round-to-nearest on the grid of a format: what the cheapest quantizer would make of the same weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from .values import Floats, e4m3

#: Cells of the table that finds the nearest level: fine enough that what it misplaces changes no figure.
_CELLS = 4096


@dataclass(frozen=True)
class Grid:
    """The values that a format can hold in one group of weights, up to the group's scale.

    ``group`` weights along the inputs of one output share a scale. Without ``levels`` these are the integers
    of ``bits`` bits: around zero where ``symmetric``, else from the least to the largest weight of the group.
    ``levels`` are those of a codebook, from -1 to 1, which the group's largest magnitude scales.
    ``lowest`` is the most negative integer of a symmetric grid. ``half``: scales are stored in 16 bit, which
    decides where weights go that lie between two values, as many do in a model that was quantized before.
    """

    bits: int
    group: int
    symmetric: bool = True
    levels: tuple[float, ...] = ()
    lowest: int | None = None
    half: bool = False

    def round(self, rows: Floats) -> Floats:
        """Return the rows (outputs, inputs) rounded to the nearest value of the grid."""
        width = rows.shape[1]
        group = self.group if 0 < self.group <= width else width
        missing = -width % group
        padded = np.pad(rows, ((0, 0), (0, missing))) if missing else rows
        grouped = padded.reshape(rows.shape[0], -1, group)
        rounded: Floats = self._rounded(grouped).reshape(padded.shape)
        return rounded[:, :width] if missing else rounded

    def _rounded(self, grouped: Floats) -> Floats:
        if not self.symmetric and not self.levels:
            return self._between_extremes(grouped)
        largest = np.maximum(np.abs(grouped).max(axis=2, keepdims=True), np.float32(1e-12))
        if self.levels:
            nearest: Floats = _to_levels(grouped / largest, self.levels) * largest
            return nearest
        highest = 2 ** (self.bits - 1) - 1
        lowest = -highest if self.lowest is None else self.lowest
        # With a lowest level of its own, the steps are spread over the whole range, as GPTQ does.
        steps = highest if self.lowest is None else (highest - lowest) / 2
        scale = self._stored(largest / np.float32(steps))
        codes: Floats = np.rint(grouped / scale)
        np.clip(codes, lowest, highest, out=codes)
        codes *= scale
        return codes

    def _stored(self, scale: Floats) -> Floats:
        if not self.half:
            return scale
        return np.maximum(scale.astype(np.float16).astype(np.float32), np.float32(2.0**-24))

    def _between_extremes(self, grouped: Floats) -> Floats:
        steps = np.float32(2**self.bits - 1)
        low = np.minimum(grouped.min(axis=2, keepdims=True), 0)
        high = np.maximum(grouped.max(axis=2, keepdims=True), 0)
        scale = self._stored(np.maximum((high - low) / steps, np.float32(1e-12)))
        zero = np.rint(-low / scale)
        codes: Floats = np.rint(grouped / scale)
        codes += zero
        np.clip(codes, 0, steps, out=codes)
        codes -= zero
        codes *= scale
        return codes


def _to_levels(shares: Floats, levels: tuple[float, ...]) -> Floats:
    """Return the nearest level to each share of a group's largest magnitude, between -1 and 1."""
    cells = shares + np.float32(1)
    cells *= np.float32(_CELLS / 2)
    return _nearest(levels)[cells.astype(np.int16)]


@cache
def _nearest(levels: tuple[float, ...]) -> Floats:
    """Return the level that is nearest to the middle of each cell between -1 and 1."""
    ordered = np.array(sorted(levels), np.float32)
    middles = (np.arange(_CELLS + 1) + 0.5) / (_CELLS / 2) - 1
    return ordered[np.searchsorted((ordered[1:] + ordered[:-1]) / 2, middles)]


def e4m3_levels() -> tuple[float, ...]:
    """Return the finite values of 8-bit floats (E4M3) as shares of the largest, 448."""
    values = e4m3()
    return tuple(sorted({float(value) / 448 for value in values[np.isfinite(values)]}))
