"""Round-to-nearest, in memory: the cheap quantization that every method has to beat."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

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

    steps = 2 ** (bits - 1) - 1
    modules = dict(model.named_modules())
    found = [name for name in layers if getattr(modules.get(name), "weight", None) is not None]
    with torch.no_grad():
        for name in found:
            module, wanted = modules[name], for_module("group_size", group_size, name)
            weight = module.weight
            # Conv1D of transformers stores (inputs, outputs), everything else (outputs, inputs).
            inputs_first = type(module).__name__ == "Conv1D"
            rows = (weight.T if inputs_first else weight).float()
            grouped = split(rows, rows.shape[1] if wanted == -1 else min(wanted, rows.shape[1]))
            scale = grouped.abs().amax(dim=2, keepdim=True).clamp(min=1e-12) / steps
            rounded = ((grouped / scale).round() * scale).flatten(1)[:, : rows.shape[1]]
            weight.copy_(rounded.T if inputs_first else rounded)
    return len(found)
