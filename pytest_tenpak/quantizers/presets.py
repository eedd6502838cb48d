"""Named recipes: TenPak's presets, each a method with some of its options fixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

#: Method and fixed options of each preset. What a preset leaves open, a marker may still set.
PRESETS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "gptq-quality": ("gptq", {"group_size": 128}),
    "gptq-balanced": ("gptq", {"group_size": 256}),
    "gptq-size": ("gptq", {"group_size": 512}),
    "awq-quality": ("awq", {"group_size": 128}),
    "awq-balanced": ("awq", {"group_size": 256}),
    "bnb-nf4": ("nf4", {}),
    "bnb-int8": ("int8", {}),
}


def presets_of(method: str, fits: Callable[[Mapping[str, Any]], bool]) -> list[str]:
    """List the names of a method's presets whose options fit."""
    return [name for name, (own, options) in PRESETS.items() if own == method and fits(options)]
