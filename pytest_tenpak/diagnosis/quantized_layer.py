"""A quantized layer as a reader of formats returns it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..metrics.audit import COMPENSATED
from ..models.safetensors_files import StoredTensor
from .grids import Grid
from .values import Floats

#: The tensors of a layer, by what follows its name.
Parts = Mapping[str, StoredTensor]


@dataclass(frozen=True)
class QuantizedLayer:
    """A quantized layer: the shape of its weights (outputs, inputs), the grid, and how to dequantize them.

    ``rows(start, stop)`` returns the weights of some outputs, and is what reads the codes; ``step`` divides
    every start. ``details`` are what the stored tensors themselves say of the format, by the names that
    configs use. ``rounding``: how the format's codes are chosen, as in :mod:`~.metrics.audit`.
    ``round_rows`` rounds a model's weights where that takes more than the grid.
    """

    shape: tuple[int, int]
    grid: Grid
    rows: Callable[[int, int], Floats]
    details: Mapping[str, Any]
    step: int = 1
    rounding: str = COMPENSATED
    round_rows: Callable[[Floats, int, int], Floats] | None = None

    def nearest(self, rows: Floats, start: int, stop: int) -> Floats:
        """Return the model's weights of some outputs rounded to nearest, as this layer could store them."""
        return self.round_rows(rows, start, stop) if self.round_rows else self.grid.round(rows)


class UnknownFormatError(ValueError):
    """The parts of a layer are of no format that can be dequantized here; the text says what they are."""
