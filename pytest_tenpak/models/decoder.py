"""The decoder layers of a loaded model."""

from __future__ import annotations

from typing import Any


def decoder_layers(model: Any) -> Any:
    """Return a model's decoder layers in order: its outermost ModuleList, the longest of several."""
    from torch.nn import ModuleList

    lists = {name: module for name, module in model.named_modules() if isinstance(module, ModuleList)}
    return max(lists.items(), key=lambda item: (-item[0].count("."), len(item[1])), default=("", []))[1]
