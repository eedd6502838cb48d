"""A tensor that is kept unquantized, beside the model's: equal, rounded to 16 bit, or changed. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..metrics.audit import ChangedTensor
from ..models.safetensors_files import StoredTensor
from .values import CHUNK, PRECISION, Floats, floats, stored_values

#: Below this magnitude, numbers of float16 are spaced evenly.
_EVEN = np.float32(2.0**-14)


class Difference(NamedTuple):
    """How a kept tensor differs: squared error and size, elements beyond any rounding, and where."""

    error: float
    beyond: int
    numel: int
    rows: str
    is_rounding: bool

    def named(self, name: str) -> ChangedTensor:
        """Return it as that of a tensor, in words."""
        share = f"{self.beyond:,} of {self.numel:,} weights differ by more than any rounding"
        return ChangedTensor(name, self.error, share + (f", in row {self.rows}" if self.rows else ""))


def difference(stored: StoredTensor, own: StoredTensor) -> Difference | None:
    """Return how a kept tensor differs from the model's; None where its stored type explains it."""
    off = 0.0
    beyond = outside = 0
    rows: list[NDArray[Any]] = []
    for start, stop in _row_chunks(own):
        if stored.dtype == own.dtype and _same_bits(stored, own, start, stop):
            continue
        ours, wanted = floats(stored, start, stop), floats(own, start, stop)
        distance = np.abs(ours - wanted)
        unexplained = ~_is_of_type(distance, wanted, stored, own)
        broken = unexplained & ~_is_rounded(ours, distance, wanted, stored)
        outside += int(unexplained.sum())
        beyond += int(broken.sum())
        if broken.any():
            several = broken.reshape(broken.shape[0], -1).any(axis=1) if broken.ndim else broken.reshape(1)
            rows.append(np.flatnonzero(several) + start)
        off += float(np.square(distance, dtype=np.float64).sum())
    if not outside:
        return None
    where = ranges(np.concatenate(rows)) if rows and own.shape and own.shape[0] > 1 else ""
    return Difference((off / (_squared_size(own) or 1.0)) ** 0.5, beyond, own.numel, where, beyond == 0)


def _squared_size(tensor: StoredTensor) -> float:
    chunks = (floats(tensor, start, stop) for start, stop in _row_chunks(tensor))
    return sum(float(np.square(chunk, dtype=np.float64).sum()) for chunk in chunks)


def _is_of_type(distance: Floats, wanted: Floats, *tensors: StoredTensor) -> NDArray[np.bool_]:
    """Return which weights are equal, up to the coarser of two different types."""
    types = {tensor.dtype for tensor in tensors}
    if len(types) == 1:
        return np.equal(distance, 0)
    return _is_near(distance, wanted, max(types, key=PRECISION.__getitem__))


def _is_rounded(ours: Floats, distance: Floats, wanted: Floats, stored: StoredTensor) -> NDArray[np.bool_]:
    """Return which weights went through bfloat16, or through float16 before they were stored in 32 bits."""
    # The lower half of a number of bfloat16 is empty.
    found: NDArray[np.bool_] = _is_near(distance, wanted, "BF16") & (ours.view(np.uint32) & 0xFFFF == 0)
    if stored.dtype in ("F32", "F64"):
        with np.errstate(over="ignore"):
            found |= _is_near(distance, wanted, "F16") & (ours == ours.astype(np.float16))
    return found


def _is_near(distance: Floats, wanted: Floats, dtype: str) -> NDArray[np.bool_]:
    """Return which weights are no further apart than rounding to a type takes them."""
    found: NDArray[np.bool_] = distance <= PRECISION[dtype] * np.maximum(np.abs(wanted), _EVEN)
    return found


def _row_chunks(tensor: StoredTensor) -> Iterator[tuple[int, int]]:
    rows = tensor.shape[0] if tensor.shape else 1
    step = max(1, CHUNK * rows // max(tensor.numel, 1))
    for start in range(0, rows, step):
        yield start, min(rows, start + step)


def _same_bits(one: StoredTensor, other: StoredTensor, start: int, stop: int) -> bool:
    return stored_values(one, start, stop).tobytes() == stored_values(other, start, stop).tobytes()


def ranges(numbers: NDArray[Any]) -> str:
    """Return numbers in words: ``3``, ``64 to 127``, ``3, 9 and 12 more``."""
    first, last = int(numbers[0]), int(numbers[-1])
    if len(numbers) == 1:
        return str(first)
    if last - first + 1 == len(numbers):
        return f"{first:,} to {last:,}"
    return f"{first:,}, {int(numbers[1]):,}" + (f" and {len(numbers) - 2:,} more" if len(numbers) > 2 else "")
