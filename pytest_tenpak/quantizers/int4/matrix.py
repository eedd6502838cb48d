"""One matrix: scale its inputs, keep its outliers, round the rest in groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from .grid import Groups, pack, round_to_groups
from .scaling import candidate_scales, output_error

#: Columns are stored in 16 bits where they fit.
_NARROW = 2**15


@dataclass(frozen=True)
class Recipe:
    """How one matrix is quantized: weights per group, share of outliers, and what is searched for."""

    group: int
    outliers: float = 0.0
    sym: bool = True
    clip: bool = False
    scaled: bool = False

    def count(self, outputs: int, inputs: int) -> int:
        """Return the number of outliers of a matrix."""
        return round(self.outliers * outputs * inputs)

    def bits(self, outputs: int, inputs: int) -> int:
        """Return the bits that a matrix of that shape takes on disk."""
        groups = -(-inputs // self.group)
        zeros = 0 if self.sym else 8 * outputs * -(-groups // 2)
        codes = 8 * outputs * -(-inputs // 2)
        scales = 16 * outputs * groups + (16 * inputs if self.scaled else 0)
        count = self.count(outputs, inputs)
        index = 16 if inputs <= _NARROW else 32
        kept = count * (16 + index) + 32 * (outputs + 1) if count else 0
        return codes + zeros + scales + kept + 2 * 32


class Statistics(NamedTuple):
    """What calibration found about one matrix; None what was not asked for.

    ``magnitudes``, ``squares``: mean of |x| and x² of each input (inputs). ``fisher``: mean squared gradient
    of the log-likelihood by each weight (outputs, inputs).
    """

    magnitudes: Any = None
    squares: Any = None
    fisher: Any = None

    @property
    def importance(self) -> Any:
        """The weight of each weight's squared error: Fisher's, else the input's mean square, else None."""
        if self.fisher is not None:
            return self.fisher
        return None if self.squares is None else self.squares.unsqueeze(0)


class Outliers(NamedTuple):
    """Weights kept in float16, in order of rows: ``starts`` of each row (outputs + 1), columns, values."""

    starts: Any
    columns: Any
    values: Any


class QuantizedMatrix(NamedTuple):
    """A matrix in groups, the scales of its inputs, and its outliers, each None where it has none."""

    groups: Groups
    inputs: Any
    outliers: Outliers | None

    def weights(self) -> Any:
        """Return what it computes with, float32 (outputs, inputs)."""
        return assemble(self.groups.weights(), self.inputs, self.outliers)

    def tensors(self) -> dict[str, Any]:
        """Return what is stored, by name."""
        import torch

        groups = self.groups
        parts = {
            "codes": pack(groups.codes),
            "scales": groups.scales,
            "zeros": None if groups.zeros is None else pack(groups.zeros),
            "layout": torch.tensor([groups.codes.shape[1], groups.group], dtype=torch.int32),
            "input_scales": self.inputs,
        }
        if self.outliers is not None:
            parts |= {f"outlier_{name}": row for name, row in self.outliers._asdict().items()}
        return {name: row.contiguous() for name, row in parts.items() if row is not None}


def assemble(weights: Any, inputs: Any, outliers: Outliers | None) -> Any:
    """Undo the scales of inputs in a dequantized matrix, and put its outliers in place; changes it."""
    import torch

    if inputs is not None:
        weights /= inputs.float()
    if outliers is not None:
        counts = outliers.starts.diff().long()
        rows = torch.arange(len(counts), device=counts.device)
        # Told their number, a GPU need not be asked for it.
        rows = rows.repeat_interleave(counts, output_size=len(outliers.columns))
        weights[rows, outliers.columns.long()] = outliers.values.to(weights.dtype)
    return weights


def quantize_matrix(weights: Any, recipe: Recipe, statistics: Statistics) -> QuantizedMatrix:
    """Quantize a matrix (outputs, inputs); ``statistics`` has magnitudes and squares where it is scaled."""
    weights = weights.float()
    if not recipe.scaled:
        return _quantize(weights, recipe, statistics, None)
    candidates = (
        _quantize(weights, recipe, statistics, scales) for scales in candidate_scales(statistics.magnitudes)
    )
    return min(candidates, key=lambda one: output_error(one.weights() - weights, statistics.squares))


def _quantize(weights: Any, recipe: Recipe, statistics: Statistics, inputs: Any) -> QuantizedMatrix:
    scaled = weights if inputs is None else weights * inputs.float()
    places = _largest(scaled, recipe.count(*weights.shape))
    # Outliers do not widen their groups.
    rest = scaled if places is None else scaled.masked_fill(places, 0)
    importance = statistics.importance
    if importance is not None and inputs is not None:
        importance = importance / inputs.float().square()
    groups = round_to_groups(rest, recipe.group, sym=recipe.sym, clip=recipe.clip, importance=importance)
    return QuantizedMatrix(groups, inputs, None if places is None else _kept(weights, places))


def _largest(weights: Any, count: int) -> Any:
    """Return where the ``count`` largest magnitudes are, as a mask; None for none."""
    import torch

    if not count:
        return None
    mask = torch.zeros(weights.numel(), dtype=torch.bool, device=weights.device)
    mask[weights.abs().flatten().topk(count).indices] = True
    return mask.reshape(weights.shape)


def _kept(weights: Any, places: Any) -> Outliers:
    import torch

    rows, columns = places.nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=weights.shape[0])
    starts = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    narrow = torch.int16 if weights.shape[1] <= _NARROW else torch.int32
    return Outliers(starts.to(torch.int32), columns.to(narrow), weights[rows, columns].half())
