"""The weights of a checkpoint beside the model's, tensor by tensor, without running either. No torch.

Files are read a few rows at a time: memory does not depend on the size of the model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..metrics.audit import COMPENSATED, ChangedTensor, LayerAudit, WeightAudit
from ..models.config import read_config
from ..models.ledger import (
    FLOATS,
    INPUT_EMBEDDINGS,
    OUTPUT_HEADS,
    corresponding_tensors,
    parts_of,
    quantized_layers,
)
from ..models.model import INPUTS_FIRST
from ..models.safetensors_files import StoredTensor, shape_words
from .folding import Folding
from .formats import read_layer
from .kept import difference, ranges
from .quantized_layer import QuantizedLayer, UnknownFormatError
from .values import CHUNK, Floats, floats

Rows = Callable[[int, int], Floats]


def audit_weights(
    checkpoint: Path,
    model: Path,
    folds: bool = False,
    may_change: Collection[str] = (),
    unread: Collection[str] = (),
    compensates: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> WeightAudit:
    """Compare every weight of a checkpoint with the model's.

    ``folds``: the method moves scales between layers, which is undone. ``may_change``: patterns of tensors
    that the method changes without quantizing them. ``unread``: tensors of the model's
    files that its loader does not read. ``compensates``: codes need not be the nearest, whatever the format.
    ``progress(done, total, unit)`` is called for each tensor; what it
    raises ends the audit. Raises CheckpointError for damaged files.
    """
    audit = _Audit(checkpoint, model, folds, may_change, unread, compensates)
    tasks = list(audit.tasks())
    found: list[_Answer] = []
    pool = ThreadPoolExecutor(threads or os.cpu_count() or 1)
    try:
        for answer in pool.map(lambda task: task(), tasks):
            found.append(answer)
            if progress:
                progress(len(found), len(tasks), "tensors")
    finally:
        pool.shutdown(cancel_futures=True)
    kept = [one for one in found if isinstance(one, _Kept)]
    return WeightAudit(
        layers=tuple(one for one in found if isinstance(one, LayerAudit)),
        kept=sum(one.is_equal for one in kept),
        rounded=tuple(one.name for one in kept if one.is_rounded),
        changed=tuple(one for one in found if isinstance(one, ChangedTensor)),
        allowed=tuple(one.name for one in kept if one.is_allowed),
        not_compared={one.name: one.why for one in found if isinstance(one, _NotCompared)},
    )


class _Kept(NamedTuple):
    name: str
    is_equal: bool = False
    is_rounded: bool = False
    is_allowed: bool = False


class _NotCompared(NamedTuple):
    name: str
    why: str


_Answer = LayerAudit | ChangedTensor | _Kept | _NotCompared


class _Audit:
    """The two directories, and what one comparison needs of another."""

    def __init__(
        self,
        checkpoint: Path,
        model: Path,
        folds: bool,
        may_change: Collection[str],
        unread: Collection[str],
        compensates: bool,
    ) -> None:
        self.whole, self.stored = corresponding_tensors(checkpoint, model, unread)
        self.layers = quantized_layers(self.whole, self.stored)
        self.config = read_config(checkpoint).get("quantization_config") or {}
        architecture = read_config(model)
        self.inputs_first = architecture.get("model_type") in INPUTS_FIRST
        self.folding = Folding(self.whole, self.stored, architecture) if folds else None
        self.may_change = (*may_change, *(self.folding.changed() if self.folding else ()))
        self.compensates = compensates
        self._output_scales: dict[str, Floats] = {}

    def tasks(self) -> Iterator[Callable[[], _Answer]]:
        """Yield the comparisons, each of one tensor or quantized layer."""
        for layer in self.layers:
            yield partial(self._compare_layer, layer)
        quantized = {f"{layer}.weight" for layer in self.layers}
        for name, own in self.whole.items():
            if name in self.stored and name not in quantized:
                yield partial(self._compare_kept, name, own)
            elif name not in quantized:
                yield partial(_NotCompared, name, "stored under other names")
        for name in self.stored.keys() - self.whole.keys():
            yield from self._added(name, self.stored[name])

    def _added(self, name: str, tensor: StoredTensor) -> Iterator[Callable[[], _Answer]]:
        """Yield comparisons of what only the checkpoint has: a head that was tied, biases that are 0."""
        if tensor.dtype not in FLOATS:
            return
        if name.endswith(OUTPUT_HEADS):
            tied = next((own for n, own in self.whole.items() if n.endswith(INPUT_EMBEDDINGS)), None)
            if tied is not None and not any(n.endswith(OUTPUT_HEADS) for n in self.whole):
                yield partial(self._compare_kept, name, tied)
        elif name.endswith(".bias") and name.removesuffix(".bias") in self.layers:
            yield partial(_compare_with_zero, name, tensor)

    # ------------------------------------------------------------ tensors that are kept

    def _compare_kept(self, name: str, own: StoredTensor) -> _Answer:
        stored = self.stored[name]
        if stored.shape != own.shape:
            return _other_shape(name, stored.shape, own)
        found = difference(stored, own)
        if found is None:
            return _Kept(name, is_equal=True)
        if any(fnmatchcase(name, pattern) for pattern in self.may_change):
            return _Kept(name, is_allowed=True)
        return _Kept(name, is_rounded=True) if found.is_rounding else found.named(name)

    # ------------------------------------------------------------ quantized layers

    def _compare_layer(self, name: str) -> _Answer:
        try:
            layer = read_layer(parts_of(name, self.stored), self.config)
        except UnknownFormatError as fault:
            return _NotCompared(name, str(fault))
        own = self.whole[f"{name}.weight"]
        if len(own.shape) != 2:
            return _NotCompared(name, f"of shape {shape_words(own.shape)} in the model")
        rows = self._model_rows(own, layer.shape)
        if rows is None:
            return _other_shape(f"{name}.weight", layer.shape, own)
        if self.compensates:
            layer = replace(layer, rounding=COMPENSATED)
        return _compared(name, layer, self._scaled(name, rows, layer))

    def _model_rows(self, own: StoredTensor, shape: tuple[int, int]) -> Rows | None:
        """Return how to read the model's weights of some outputs; None where the shapes do not correspond."""
        turned = tuple(reversed(own.shape))
        if shape == turned and (self.inputs_first or shape != own.shape):
            whole = np.ascontiguousarray(floats(own).T)
            return lambda start, stop: whole[start:stop]
        return (lambda start, stop: floats(own, start, stop)) if shape == own.shape else None

    def _scaled(self, name: str, rows: Rows, layer: QuantizedLayer) -> Rows:
        """Return the model's rows with the scales that the method folded into them."""
        if self.folding is None:
            return rows
        inputs = self._input_scales(name, layer.shape[1])
        if inputs is not None:
            rows = _times(rows, inputs)
        if not self.folding.is_source(name):
            return rows
        outputs = self._scales_of_outputs(name, rows, layer)
        return lambda start, stop: rows(start, stop) * outputs[start:stop, None]

    def _input_scales(self, name: str, inputs: int) -> Floats | None:
        assert self.folding is not None
        before = self.folding.source_of(name)
        if not before:
            return self.folding.norm_scales(name)
        if before not in self.layers:
            return None
        layer = read_layer(parts_of(before, self.stored), self.config)
        rows = self._model_rows(self.whole[f"{before}.weight"], layer.shape)
        scales = self.folding.norm_scales(before)
        if rows is None:
            return None
        rows = rows if scales is None else _times(rows, scales)
        return self.folding.spread(np.float32(1) / self._scales_of_outputs(before, rows, layer), inputs)

    def _scales_of_outputs(self, name: str, rows: Rows, layer: QuantizedLayer) -> Floats:
        """Estimate what each output was multiplied by: the least-squares fit to the model's weights."""
        if name not in self._output_scales:
            fits = []
            for start, stop in _chunks(layer):
                own, ours = rows(start, stop), layer.rows(start, stop)
                fits.append(np.einsum("oi,oi->o", own, ours) / np.einsum("oi,oi->o", own, own))
            found = np.concatenate(fits)
            self._output_scales[name] = np.where(np.isfinite(found) & (found > 0), found, 1).astype(
                np.float32
            )
        return self._output_scales[name]


def _other_shape(name: str, shape: tuple[int, ...], own: StoredTensor) -> ChangedTensor:
    words = f"has the shape {shape_words(shape)}, the model's has {shape_words(own.shape)}"
    return ChangedTensor(name, 1.0, words)


def _times(rows: Rows, inputs: Floats) -> Rows:
    return lambda start, stop: rows(start, stop) * inputs


# ---------------------------------------------------------------- quantized layers


def _chunks(layer: QuantizedLayer) -> Iterator[tuple[int, int]]:
    """Yield ranges of outputs that are compared at once."""
    outputs, inputs = layer.shape
    step = max(layer.step, CHUNK // inputs // layer.step * layer.step)
    for start in range(0, outputs, step):
        yield start, min(outputs, start + step)


class _Sums:
    """Sums over the outputs and over the inputs of a layer, added up chunk by chunk."""

    def __init__(self, outputs: int, inputs: int) -> None:
        self.by_output: NDArray[np.float64] = np.zeros(outputs)
        self.by_input: NDArray[np.float64] = np.zeros(inputs)

    def add(self, start: int, stop: int, products: Floats) -> None:
        self.by_output[start:stop] = products.sum(axis=1)
        self.by_input += products.sum(axis=0)

    @property
    def total(self) -> float:
        return float(self.by_output.sum())


def _compared(name: str, layer: QuantizedLayer, rows: Rows) -> LayerAudit:
    """Compare a dequantized layer with the model's rows, and these with themselves rounded to nearest."""
    own, ours, along, off, rounded, rounded_along = (_Sums(*layer.shape) for _ in range(6))
    shift = 0.0
    for start, stop in _chunks(layer):
        wanted, found = rows(start, stop), layer.rows(start, stop)
        nearest = layer.nearest(wanted, start, stop)
        own.add(start, stop, wanted * wanted)
        ours.add(start, stop, found * found)
        along.add(start, stop, wanted * found)
        rounded_along.add(start, stop, wanted * nearest)
        found -= wanted
        shift += float(np.square(found.sum(axis=1, dtype=np.float64)).sum())
        off.add(start, stop, found * found)
        nearest -= wanted
        rounded.add(start, stop, nearest * nearest)
    size = own.total or 1.0
    worst, error, of_rounding = _worst_output(own, off, rounded)
    return LayerAudit(
        name=name,
        error=(off.total / size) ** 0.5,
        gain=along.total / size,
        rounded_error=(rounded.total / size) ** 0.5,
        rounded_gain=rounded_along.total / size,
        offset=(shift / layer.shape[1] / size) ** 0.5,
        rounding=layer.rounding,
        dead=tuple(_dead(own, ours, rounded)),
        worst_output=worst,
        output_error=error,
        output_rounded=of_rounding,
    )


def _worst_output(own: _Sums, off: _Sums, rounded: _Sums) -> tuple[int, float, float]:
    """Return the output whose error is largest in multiples of rounding's, that error, and rounding's."""
    least = own.by_output.mean() * 1e-6 + 1e-30
    factors = (off.by_output + least * 1e-6) / (rounded.by_output + least)
    worst = int(np.nan_to_num(factors, nan=np.inf).argmax())
    size = own.by_output[worst] + least
    return worst, float((off.by_output[worst] / size) ** 0.5), float((rounded.by_output[worst] / size) ** 0.5)


def _dead(own: _Sums, ours: _Sums, rounded: _Sums) -> Iterator[str]:
    """Yield the outputs and inputs that are all zero in the checkpoint, and would not be after rounding."""
    for word, wanted, found, off in (
        ("output", own.by_output, ours.by_output, rounded.by_output),
        ("input", own.by_input, ours.by_input, rounded.by_input),
    ):
        gone = np.flatnonzero((found == 0) & (off < wanted / 2))
        if len(gone):
            yield f"{word} {ranges(gone)}"


def _compare_with_zero(name: str, tensor: StoredTensor) -> _Answer:
    if not floats(tensor).any():
        return _Kept(name, is_equal=True)
    return ChangedTensor(name, 1.0, "is added by the checkpoint, and not zero")
