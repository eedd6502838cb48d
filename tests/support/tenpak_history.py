"""What went wrong in TenPak v0.1, and classic slips, as quantizers: for tests and benchmarks only.

Each is ``int4`` with one thing wrong, either in the weights that are quantized, or in what was saved.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pytest_tenpak import Job, QuantizeSpec
from pytest_tenpak.quantizers.int4.method import Int4

Tensors = dict[str, torch.Tensor]
_LINEAR = ("_proj.weight",)
_FILE = "model.safetensors"


def edit(file: Path, change: Callable[[Tensors], None]) -> None:
    """Change the tensors of a safetensors file."""
    tensors = load_file(file)
    change(tensors)
    save_file({name: row.contiguous().clone() for name, row in tensors.items()}, file, {"format": "pt"})


def linear_names(tensors: Tensors) -> list[str]:
    """The weights of the decoder's linear layers, in order of the layers."""
    found = [name for name in tensors if name.endswith(_LINEAR)]
    return sorted(found, key=lambda name: (int(name.split(".layers.")[1].split(".")[0]), name))


def each(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], None]:
    """Change every linear layer's weights (outputs, inputs), in float32."""

    def apply(tensors: Tensors) -> None:
        for name in linear_names(tensors):
            tensors[name] = change(tensors[name].float()).to(tensors[name].dtype)

    return apply


@contextmanager
def changed_model(model: Path, change: Callable[[Tensors], None]) -> Iterator[Path]:
    """A copy of a model with other weights."""
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "model"
        shutil.copytree(model, copied, ignore=shutil.ignore_patterns("tenpak-manifest.json"))
        edit(copied / _FILE, change)
        yield copied


class Wrong(Int4):
    """``int4`` whose weights are changed before, or whose checkpoint is changed after."""

    def before(self, tensors: Tensors, spec: QuantizeSpec) -> None:
        """Change the model's weights, which are then quantized."""

    def after(self, tensors: Tensors) -> None:
        """Change what was saved."""

    def quantize(self, job: Job) -> None:
        """Quantize what :meth:`before` makes of the model, and let :meth:`after` change the result."""
        with changed_model(job.model, lambda tensors: self.before(tensors, job.spec)) as model:
            super().quantize(replace(job, model=model))
        edit(job.out / _FILE, self.after)


# ---------------------------------------------------------------- TenPak's own


def pruned(kept: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Keep the ``kept`` largest of each four weights along the inputs."""

    def prune(rows: torch.Tensor) -> torch.Tensor:
        fours = rows.reshape(rows.shape[0], -1, 4)
        gone = fours.abs().topk(4 - kept, dim=2, largest=False).indices
        return fours.scatter(2, gone, 0.0).reshape(rows.shape)

    return prune


class Sparse24(Wrong):
    """v20, v21: 2:4 structured sparsity before INT4."""

    method = "sparse-2-4"

    def before(self, tensors: Tensors, _: QuantizeSpec) -> None:
        """Set half of the weights to zero."""
        each(pruned(2))(tensors)


class Sparse34(Wrong):
    """v63: 3:4 structured sparsity before INT4."""

    method = "sparse-3-4"

    def before(self, tensors: Tensors, _: QuantizeSpec) -> None:
        """Set a quarter of the weights to zero."""
        each(pruned(3))(tensors)


def rotated(rows: torch.Tensor) -> torch.Tensor:
    """Rotate inputs by Hadamard matrices of the largest power of two that divides their number."""
    size = rows.shape[1] & -rows.shape[1]
    turned = rows.reshape(rows.shape[0], -1, size)
    half = 1
    while half < size:
        pairs = turned.unflatten(2, (-1, 2, half))
        sums = (pairs[:, :, :, 0] + pairs[:, :, :, 1], pairs[:, :, :, 0] - pairs[:, :, :, 1])
        turned = torch.stack(sums, dim=3).flatten(2)
        half *= 2
    return (turned / size**0.5).reshape(rows.shape)


class Hadamard(Wrong):
    """v62: weights are rotated, and the forward pass is not."""

    method = "hadamard"

    def before(self, tensors: Tensors, _: QuantizeSpec) -> None:
        """Rotate every matrix."""
        each(rotated)(tensors)


def fed_back(rows: torch.Tensor, group: int) -> torch.Tensor:
    """Round column by column, each column's error added whole to all that follow, as if inputs were equal."""
    result, carried = torch.empty_like(rows), torch.zeros(rows.shape[0])
    for start in range(0, rows.shape[1], group):
        block = rows[:, start : start + group]
        scale = block.abs().amax(1).clamp(min=1e-9) / 7
        for column in range(block.shape[1]):
            wanted = block[:, column] + carried
            found = (wanted / scale).round().clamp(-8, 7) * scale
            carried = carried + (wanted - found)
            result[:, start + column] = found
    return result


class GptqLite(Wrong):
    """v67: error feedback without the inverse Hessian that would bound it."""

    method = "gptq-lite"

    def before(self, tensors: Tensors, spec: QuantizeSpec) -> None:
        """Feed errors forward within each row."""
        each(lambda rows: fed_back(rows, spec.options["group_size"]))(tensors)


# ---------------------------------------------------------------- classic slips


class ZerosOffByOne(Wrong):
    """Zero points stored less one, and read as they are: GPTQ's first format without its correction."""

    method = "zeros-off-by-one"

    def after(self, tensors: Tensors) -> None:
        """Lower every zero point by one, where it is above zero."""
        for name in [name for name in tensors if name.endswith(".zeros")]:
            low, high = tensors[name] & 15, tensors[name] >> 4
            lowered = [(half.int() - 1).clamp(min=0).to(torch.uint8) for half in (low, high)]
            tensors[name] = lowered[0] | (lowered[1] << 4)


class NeighboursScales(Wrong):
    """Each layer has the scales of the next one."""

    method = "neighbours-scales"

    def after(self, tensors: Tensors) -> None:
        """Move scales up by one decoder layer."""
        found = {name: row for name, row in tensors.items() if name.endswith(".scales")}
        for name in found:
            head, _, rest = name.partition(".layers.")
            number, _, tail = rest.partition(".")
            other = f"{head}.layers.{int(number) + 1}.{tail}"
            tensors[name] = found.get(other, found[f"{head}.layers.0.{tail}"])


class TransposedGroups(Wrong):
    """Scales written by group and output, and read by output and group."""

    method = "transposed-groups"

    def after(self, tensors: Tensors) -> None:
        """Write the scales in the other order."""
        for name in [name for name in tensors if name.endswith(".scales")]:
            tensors[name] = tensors[name].T.contiguous().reshape(tensors[name].shape)


class ForeignShard(Wrong):
    """The last quarter of the layers is another model's: the same function, in another basis."""

    method = "foreign-shard"

    def before(self, tensors: Tensors, _: QuantizeSpec) -> None:
        """Renumber the residual stream of the last layers."""
        names = linear_names(tensors)
        order: dict[int, torch.Tensor] = {}
        for name in names[3 * len(names) // 4 :]:
            axis = 0 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1
            width = tensors[name].shape[axis]
            generator = torch.Generator().manual_seed(0)
            order.setdefault(width, torch.randperm(width, generator=generator))
            tensors[name] = tensors[name].index_select(axis, order[width])


class GroupOrderIgnored(Wrong):
    """Columns are sorted before they are grouped (act-order), and are read in their old places."""

    method = "group-order-ignored"

    def before(self, tensors: Tensors, _: QuantizeSpec) -> None:
        """Sort inputs by their size."""
        each(lambda rows: rows[:, rows.norm(dim=0).argsort(descending=True)])(tensors)


WRONG: tuple[type[Any], ...] = (
    *(Sparse24, Sparse34, Hadamard, GptqLite),
    *(ZerosOffByOne, NeighboursScales, TransposedGroups, ForeignShard, GroupOrderIgnored),
)
