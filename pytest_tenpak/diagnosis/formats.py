"""Quantized layers as the common formats store them, dequantized a few outputs at a time. No torch.

Each format is recognized by the tensors that a layer has, as its library writes them:

- bitsandbytes: ``weight`` in 4 bits with ``weight.absmax``, or in 8 bits with ``SCB``;
- GPTQ: ``qweight`` packed along the inputs, ``qzeros``, ``scales``, and ``g_idx`` with each input's group;
- AWQ (layout gemm): ``qweight`` packed along the outputs in an order of its own, ``qzeros``, ``scales``;
- compressed-tensors and others: ``weight`` or ``weight_packed`` with ``weight_scale``;
- 8-bit floats in blocks: ``weight`` with ``weight_scale_inv``;
- our own INT4: ``codes`` and ``layout``, ``scales``, with or without zero points, input scales and outliers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache, partial
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..metrics.audit import CLIPPED, NEAREST, ROUNDED_SCALES
from .grids import Grid, e4m3_levels
from .int4 import read_int4
from .quantized_layer import Parts, QuantizedLayer, UnknownFormatError
from .values import Floats, floats, stored_values

#: The position of each output among the eight in one number of an AWQ layer.
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)


def read_layer(parts: Parts, config: Mapping[str, Any]) -> QuantizedLayer:
    """Return the layer whose tensors are ``parts``, by what follows its name.

    ``config`` is the checkpoint's quantization config, for what the tensors do not say. Raises
    UnknownFormatError.
    """
    for known, read in _FORMATS:
        if all(name in parts for name in known):
            return read(parts, config)
    state = next((name for name in parts if name.startswith(_STATE)), "")
    if state:
        return _bitsandbytes_4bit(parts, state)
    raise UnknownFormatError(f"stored as {', '.join(sorted(parts))}")


# ---------------------------------------------------------------- bitsandbytes

_STATE = "weight.quant_state.bitsandbytes__"


def _bitsandbytes_4bit(parts: Parts, state: str) -> QuantizedLayer:
    stored = json.loads(stored_values(parts[state]).tobytes())
    outputs, inputs = (int(size) for size in stored["shape"])
    block = int(stored["blocksize"])
    levels = floats(parts["weight.quant_map"])
    is_double = "weight.nested_absmax" in parts
    read = cache(lambda: (stored_values(parts["weight"]).reshape(-1), _block_maxima(parts, stored)))

    def rows(start: int, stop: int) -> Floats:
        packed, scales = read()
        first, last = start * inputs, stop * inputs
        pairs = packed[first // 2 : (last + 1) // 2]
        codes = np.empty(2 * len(pairs), np.uint8)
        codes[::2], codes[1::2] = pairs >> 4, pairs & 15
        values = levels[codes[: last - first]]
        blocks = scales[first // block : -(-last // block)]
        whole = len(values) // block * block
        values[:whole].reshape(-1, block)[:] *= blocks[: whole // block, None]
        values[whole:] *= blocks[-1]
        return values.reshape(stop - start, inputs)

    return QuantizedLayer(
        (outputs, inputs),
        Grid(4, block, levels=tuple(levels.tolist())),
        rows,
        {
            "quant_type": state.removeprefix(_STATE),
            "double_quant": is_double,
            "bits": 4,
        },
        step=2 * block // gcd(2 * block, inputs),
        rounding=ROUNDED_SCALES if is_double else NEAREST,
    )


def _block_maxima(parts: Parts, stored: Mapping[str, Any]) -> Floats:
    """Return the largest magnitude of each block, which double quantization stores in 8 bits."""
    if "weight.nested_absmax" not in parts:
        return floats(parts["weight.absmax"])
    levels, codes = floats(parts["weight.nested_quant_map"]), stored_values(parts["weight.absmax"])
    nested = np.repeat(floats(parts["weight.nested_absmax"]), int(stored["nested_blocksize"]))
    maxima: Floats = levels[codes] * nested[: len(codes)] + np.float32(stored["nested_offset"])
    return maxima


def _bitsandbytes_8bit(parts: Parts, config: Mapping[str, Any]) -> QuantizedLayer:  # noqa: ARG001
    weight, scales = parts["weight"], floats(parts["SCB"]).reshape(-1, 1) / np.float32(127)
    outputs, inputs = weight.shape
    return QuantizedLayer(
        (outputs, inputs),
        Grid(8, inputs),
        lambda start, stop: floats(weight, start, stop) * scales[start:stop],
        {"bits": 8},
        rounding=NEAREST,
    )


# ---------------------------------------------------------------- GPTQ and AWQ


def _gptq(parts: Parts, config: Mapping[str, Any]) -> QuantizedLayer:
    inputs = parts["g_idx"].shape[0]
    packed_rows, outputs = parts["qweight"].shape
    bits = 32 * packed_rows // inputs
    if bits not in (2, 3, 4, 8) or 32 * packed_rows != bits * inputs:
        raise UnknownFormatError(f"GPTQ with {32 * packed_rows / inputs:g} bits per weight")
    groups = stored_values(parts["g_idx"])
    read, scales = cache(partial(stored_values, parts["qweight"])), floats(parts["scales"])
    if int(groups.min()) < 0 or int(groups.max()) >= len(scales):
        raise UnknownFormatError(f"g_idx names group {groups.max()} of {len(scales)}")
    # The first version of the format stores zero points less one, and wraps around below zero.
    added = 0 if config.get("checkpoint_format") == "gptq_v2" else 1
    zeros = (_unpacked(stored_values(parts["qzeros"]), bits, axis=1) + added)[:, :outputs]
    symmetric = config.get("sym") is not False
    in_the_middle = bool((zeros == 2 ** (bits - 1)).all())

    def rows(start: int, stop: int) -> Floats:
        codes = _unpacked(np.ascontiguousarray(read()[:, start:stop]), bits, axis=0)
        values = (codes - zeros[groups, start:stop]).astype(np.float32)
        values *= scales[groups, start:stop]
        return np.ascontiguousarray(values.T)

    group = _usual_group(inputs, len(scales))
    return QuantizedLayer(
        (outputs, inputs),
        Grid(bits, group, symmetric, lowest=-(2 ** (bits - 1)) if symmetric else None),
        rows,
        {"bits": bits, "group_size": group, "desc_act": not _in_order(groups), "sym": in_the_middle},
    )


def _awq(parts: Parts, config: Mapping[str, Any]) -> QuantizedLayer:
    read, scales = cache(partial(stored_values, parts["qweight"])), floats(parts["scales"])
    (inputs, columns), outputs = parts["qweight"].shape, scales.shape[1]
    if 8 * columns != outputs:
        raise UnknownFormatError(f"qweight of {inputs}×{columns}: not the layout gemm of AWQ")
    group = _usual_group(inputs, len(scales))
    zeros = _unpacked(stored_values(parts["qzeros"]), 4, axis=1, order=_AWQ_ORDER)

    def rows(start: int, stop: int) -> Floats:
        codes = _unpacked(np.ascontiguousarray(read()[:, start // 8 : -(-stop // 8)]), 4, 1, _AWQ_ORDER)
        grouped = codes[:, : stop - start].reshape(len(scales), -1, stop - start)
        values = (grouped - zeros[:, None, start:stop]).astype(np.float32)
        values *= scales[:, None, start:stop]
        return np.ascontiguousarray(values.reshape(inputs, -1).T)

    return QuantizedLayer(
        (outputs, inputs),
        Grid(4, group, symmetric=config.get("zero_point") is False),
        rows,
        {"bits": 4, "group_size": group},
        step=8,
        rounding=CLIPPED,
    )


def _unpacked(
    numbers: NDArray[Any], bits: int, axis: int, order: tuple[int, ...] | None = None
) -> NDArray[np.int16]:
    """Return the unsigned integers of ``bits`` bits that 32-bit numbers hold along an axis, lowest first.

    ``order`` names the position in the number from which each is taken.
    """
    if 32 % bits:
        return _unpacked_bits(numbers, bits, axis)
    count = 32 // bits
    shifts = np.array(order or range(count), np.uint32) * np.uint32(bits)
    unsigned = numbers.view(np.uint32)
    shape = list(numbers.shape)
    shape[axis] *= count
    spread = (unsigned[:, None, :] >> shifts[:, None]) if axis == 0 else (unsigned[:, :, None] >> shifts)
    return (spread & np.uint32(2**bits - 1)).astype(np.int16).reshape(shape)


def _unpacked_bits(numbers: NDArray[Any], bits: int, axis: int) -> NDArray[np.int16]:
    """Return the integers that run on from one 32-bit number to the next, as with 3 bits."""
    last = np.ascontiguousarray(np.moveaxis(numbers, axis, -1)).view(np.uint8)
    spread = np.unpackbits(last, axis=-1, bitorder="little").reshape(*last.shape[:-1], -1, bits)
    found = (spread << np.arange(bits, dtype=np.uint8)).sum(axis=-1, dtype=np.int16)
    return np.moveaxis(found, -1, axis)


def _usual_group(inputs: int, groups: int) -> int:
    return -(-inputs // groups)


def _in_order(groups: NDArray[Any]) -> bool:
    return bool((np.diff(groups) >= 0).all())


# ---------------------------------------------------------------- compressed-tensors, and blocks of floats


def _scaled(parts: Parts, config: Mapping[str, Any]) -> QuantizedLayer:  # noqa: ARG001
    """Integers or 8-bit floats with a scale for the whole layer, each output, or each group of inputs."""
    weight, scales = parts["weight"], floats(parts["weight_scale"])
    outputs, inputs = weight.shape
    scales = scales.reshape(-1, scales.shape[-1]) if scales.ndim else scales.reshape(1, 1)
    if scales.shape[0] not in (1, outputs) or inputs % scales.shape[1] or "weight_zero_point" in parts:
        raise UnknownFormatError(f"{weight.dtype} weights with scales of {parts['weight_scale'].shape}")
    group = inputs // scales.shape[1]

    def rows(start: int, stop: int) -> Floats:
        own = scales if len(scales) == 1 else scales[start:stop]
        values = floats(weight, start, stop).reshape(stop - start, -1, group) * own[:, :, None]
        return values.reshape(stop - start, inputs)

    levels = e4m3_levels() if weight.dtype == "F8_E4M3" else ()
    return QuantizedLayer(
        (outputs, inputs), Grid(8, group, levels=levels, lowest=None if levels else -128), rows, {"bits": 8}
    )


def _packed(parts: Parts, config: Mapping[str, Any]) -> QuantizedLayer:  # noqa: ARG001
    """Integers of 4 or 8 bits, packed along the inputs, offset by half their range where there is no zero."""
    outputs, inputs = (int(size) for size in stored_values(parts["weight_shape"]))
    packed = parts["weight_packed"]
    bits = 32 * packed.shape[1] // inputs if packed.dtype == "I32" else 0
    scales = floats(parts["weight_scale"])
    if bits not in (4, 8) or "weight_g_idx" in parts or inputs % scales.shape[1]:
        raise UnknownFormatError(f"stored as {', '.join(sorted(parts))}")
    group = inputs // scales.shape[1]
    zeros = _packed_zeros(parts, bits, outputs)

    def rows(start: int, stop: int) -> Floats:
        codes = _unpacked(stored_values(packed, start, stop), bits, axis=1)[:, :inputs]
        grouped = codes.reshape(stop - start, -1, group)
        values = (grouped - (zeros[start:stop, :, None] if zeros is not None else 2 ** (bits - 1))).astype(
            np.float32
        )
        values *= scales[start:stop, :, None]
        return values.reshape(stop - start, inputs)

    symmetric = zeros is None
    return QuantizedLayer(
        (outputs, inputs),
        Grid(bits, group, symmetric, lowest=-(2 ** (bits - 1)) if symmetric else None),
        rows,
        {"bits": bits, "group_size": group},
    )


def _packed_zeros(parts: Parts, bits: int, outputs: int) -> NDArray[np.int16] | None:
    """Return the zero point of each output and group, which are packed along the outputs."""
    if "weight_zero_point" not in parts:
        return None
    return _unpacked(stored_values(parts["weight_zero_point"]), bits, axis=0)[:outputs]


def _blocks(parts: Parts, config: Mapping[str, Any]) -> QuantizedLayer:  # noqa: ARG001
    """8-bit floats with a scale for each block of outputs × inputs."""
    weight, scales = parts["weight"], floats(parts["weight_scale_inv"])
    outputs, inputs = weight.shape
    tall, wide = -(-outputs // scales.shape[0]), -(-inputs // scales.shape[1])

    def rows(start: int, stop: int) -> Floats:
        own = np.repeat(scales[np.arange(start, stop) // tall], wide, axis=1)[:, :inputs]
        values: Floats = floats(weight, start, stop) * own
        return values

    return QuantizedLayer((outputs, inputs), Grid(8, wide, levels=e4m3_levels()), rows, {"bits": 8})


_FORMATS: tuple[tuple[tuple[str, ...], Callable[[Parts, Mapping[str, Any]], QuantizedLayer]], ...] = (
    (("weight", "SCB"), _bitsandbytes_8bit),
    (("codes", "layout", "scales"), read_int4),
    (("qweight", "qzeros", "scales", "g_idx"), _gptq),
    (("qweight", "qzeros", "scales"), _awq),
    (("weight_packed", "weight_scale", "weight_shape"), _packed),
    (("weight", "weight_scale_inv"), _blocks),
    (("weight", "weight_scale"), _scaled),
)
