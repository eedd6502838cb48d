"""The decoder layers of a loaded model, and hooks on its modules for a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


def decoder_layers(model: Any) -> Any:
    """Return a model's decoder layers in order: its outermost ModuleList, the longest of several."""
    from torch.nn import ModuleList

    lists = {name: module for name, module in model.named_modules() if isinstance(module, ModuleList)}
    return max(lists.items(), key=lambda item: (-item[0].count("."), len(item[1])), default=("", []))[1]


@contextmanager
def removed_after(hooks: Iterable[Any]) -> Iterator[None]:
    """Remove registered hooks when the context ends."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
