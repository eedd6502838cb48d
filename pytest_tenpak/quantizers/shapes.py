"""Widths of layers, and checks that a number divides them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import SpecError


def require_divisible(widths: Mapping[str, int], divisor: int, remedy: str, side: str = "input") -> None:
    """Raise SpecError, naming the layer, unless ``divisor`` divides every width."""
    for name, width in widths.items():
        if width % divisor:
            raise SpecError(
                f"{divisor} does not divide the {side} width {width} of {name}",
                given=f"{name}: {side} width {width}",
                accepted=f"{side} widths that {divisor} divides",
                remedy=remedy,
            )


def widths(layer: Any) -> tuple[int, int]:
    """Return input and output width of a linear layer, also of GPT-2's Conv1D, which is transposed."""
    rows, columns = layer.weight.shape
    return (rows, columns) if type(layer).__name__ == "Conv1D" else (columns, rows)
