"""Stored tensors that hold NaN or infinity, found in the bytes of the files. No torch."""

from __future__ import annotations

from pathlib import Path

from .safetensors_files import StoredTensor, read_tensors

#: Bytes of a number, and the bits of its exponent, which are all set in NaN and infinity.
_EXPONENTS = {"F16": (2, 0x7C00), "BF16": (2, 0x7F80), "F32": (4, 0x7F800000), "F64": (8, 0x7FF0 << 48)}


def nonfinite_tensors(directory: Path, most: int = 4) -> tuple[str, ...]:
    """Return the first tensors that hold NaN or infinity, as ``NAME in FILE``."""
    found = []
    for tensor in read_tensors(directory).values():
        if tensor.dtype in _EXPONENTS and _has_nonfinite(tensor):
            found.append(f"{tensor.name} in {tensor.path.name}")
            if len(found) == most:
                break
    return tuple(found)


def _has_nonfinite(tensor: StoredTensor) -> bool:
    import numpy as np

    size, exponent = _EXPONENTS[tensor.dtype]
    for chunk in tensor.chunks():
        bits = np.frombuffer(chunk, dtype=f"<u{size}")
        if bool(((bits & exponent) == exponent).any()):
            return True
    return False
