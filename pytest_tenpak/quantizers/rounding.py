"""Round-to-nearest, in memory: the cheap quantization that every method has to beat."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

from ..models.dispatched import brings_weights
from ..spec import for_module
from .int4.grid import split

#: Group size where the compared method has none of its own.
GROUP = 128


#: Increased whenever a change of this module changes its output; part of cache keys.
#: 2: a last group may be shorter, in place of groups of the greatest common divisor.
ROUNDING_VERSION = 2


def round_to_nearest(model: Any, layers: Collection[str], bits: int, group_size: Any) -> int:
    """Round the weights of a model's layers to a symmetric grid, in place; return how many were found.

    ``layers`` names modules; ``group_size`` weights of one output share a scale (-1: all of them), a number
    or a mapping from parts of names; a last group may be shorter. The grid has 2^bits - 1 levels
    from minus to plus the group's largest magnitude (round-to-nearest, "RTN", as in Frantar et al.,
    arXiv 2210.17323). The weights stay in the model's own type.
    """
    import torch

    modules = dict(model.named_modules())
    found = [name for name in layers if getattr(modules.get(name), "weight", None) is not None]
    with torch.no_grad():
        for name in found:
            module, wanted = modules[name], for_module("group_size", group_size, name)
            if brings_weights(module):
                hook = module._hf_hook
                rounded = partial(_rounded, module=module, bits=bits, wanted=wanted)
                hook.weights_map = _RoundedWeights(hook.weights_map, rounded)
            else:
                module.weight.copy_(_rounded(module.weight, module, bits, wanted))
    return len(found)


def _rounded(weight: Any, module: Any, bits: int, wanted: int) -> Any:
    """Return a module's weight rounded, in groups of ``wanted``, in the weight's own type."""
    steps = 2 ** (bits - 1) - 1
    # Conv1D of transformers stores (inputs, outputs), everything else (outputs, inputs).
    inputs_first = type(module).__name__ == "Conv1D"
    rows = (weight.T if inputs_first else weight).float()
    grouped = split(rows, rows.shape[1] if wanted == -1 else min(wanted, rows.shape[1]))
    scale = grouped.abs().amax(dim=2, keepdim=True).clamp(min=1e-12) / steps
    rounded = ((grouped / scale).round() * scale).flatten(1)[:, : rows.shape[1]]
    return (rounded.T if inputs_first else rounded).to(weight.dtype)


class _RoundedWeights(Mapping[str, Any]):
    """The tensors of a module that are brought to it when it runs, its weight rounded each time."""

    def __init__(self, tensors: Mapping[str, Any], rounded: Callable[[Any], Any]) -> None:
        self._tensors = tensors
        self._rounded = rounded

    def __getitem__(self, name: str) -> Any:
        tensor = self._tensors[name]
        return self._rounded(tensor) if name == "weight" else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
