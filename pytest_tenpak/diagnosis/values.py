"""The numbers in stored tensors, as numpy arrays, a few rows at a time. No torch.

numpy knows neither bfloat16 nor the 8-bit floats: bfloat16 is the upper half of a float32, and there are only
256 values of 8 bits, so these are looked up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models.safetensors_files import StoredTensor

Floats = NDArray[np.float32]
#: Weights that are compared at once: few enough to stay in a processor's cache.
CHUNK = 1 << 19
#: numpy's type of each stored type that it has, or whose bits are looked up.
_PLAIN = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "F8_E4M3": "u1",
    "F8_E5M2": "u1",
    "F8_E8M0": "u1",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
#: Relative distance of neighbouring numbers of each type.
PRECISION = {"F64": 2.0**-52, "F32": 2.0**-23, "BF16": 2.0**-7, "F16": 2.0**-10}


def stored_values(tensor: StoredTensor, start: int = 0, stop: int | None = None) -> NDArray[Any]:
    """Return rows of a tensor as they are stored: integers as integers, bfloat16 and 8-bit floats as bits.

    The shape is that of the tensor, with ``start`` to ``stop`` of its first dimension.
    """
    plain = np.dtype(_PLAIN[tensor.dtype])
    if not tensor.shape:
        return np.fromfile(tensor.path, plain, 1, offset=tensor.start).reshape(())
    stop = tensor.shape[0] if stop is None else min(stop, tensor.shape[0])
    row = math.prod(tensor.shape[1:])
    found = np.fromfile(
        tensor.path, plain, (stop - start) * row, offset=tensor.start + start * row * plain.itemsize
    )
    return found.reshape(stop - start, *tensor.shape[1:])


def floats(tensor: StoredTensor, start: int = 0, stop: int | None = None) -> Floats:
    """Return rows of a tensor of any type as float32."""
    found = stored_values(tensor, start, stop)
    decode = _DECODERS.get(tensor.dtype)
    values: Floats = decode(found) if decode else found.astype(np.float32)
    return values


def _from_bfloat16(bits: NDArray[Any]) -> Floats:
    values: Floats = (bits.astype(np.uint32) << 16).view(np.float32)
    return values


def _from_table(table: Callable[[], Floats]) -> Callable[[NDArray[Any]], Floats]:
    return lambda bits: table()[bits]


@cache
def e4m3() -> Floats:
    """Return the 256 values of 8-bit floats with 4 bits of exponent, without infinities (OCP, 2023)."""
    values = _small_floats(exponent_bits=4, bias=7)
    values[[0x7F, 0xFF]] = np.nan
    return values


@cache
def _e5m2() -> Floats:
    values = _small_floats(exponent_bits=5, bias=15)
    for sign, first in ((1, 0x7C), (-1, 0xFC)):
        values[first] = sign * np.inf
        values[first + 1 : first + 4] = np.nan
    return values


@cache
def _e8m0() -> Floats:
    values = np.exp2(np.arange(256) - 127.0)
    values[255] = np.nan
    return np.asarray(values, np.float32)


def _small_floats(exponent_bits: int, bias: int) -> Floats:
    bits = np.arange(256)
    mantissa_bits = 7 - exponent_bits
    exponent = bits >> mantissa_bits & (1 << exponent_bits) - 1
    mantissa = (bits & (1 << mantissa_bits) - 1) / (1 << mantissa_bits)
    size = np.where(exponent, (1 + mantissa) * np.exp2(exponent - bias), mantissa * np.exp2(1 - bias))
    values: Floats = np.where(bits >> 7, -size, size).astype(np.float32)
    return values


_DECODERS: dict[str, Callable[[NDArray[Any]], Floats]] = {
    "BF16": _from_bfloat16,
    "F8_E4M3": _from_table(e4m3),
    "F8_E5M2": _from_table(_e5m2),
    "F8_E8M0": _from_table(_e8m0),
}
