"""Named recipes: TenPak's presets, each a method with some of its options fixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

#: Groups and nothing else: round-to-nearest.
_ROUNDING: Mapping[str, Any] = {
    "outlier_fraction": 0.0,
    "activation_scaling": False,
    "clip": False,
    "allocation": "uniform",
}
#: What TenPak v0.1 had in common in its recipes for INT4.
_TENPAK: Mapping[str, Any] = {**_ROUNDING, "sym": True, "outlier_fraction": 0.005, "activation_scaling": True}
#: Method and fixed options of each preset. What a preset leaves open, a marker may still set.
PRESETS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "gptq-quality": ("gptq", {"group_size": 128}),
    "gptq-balanced": ("gptq", {"group_size": 256}),
    "gptq-size": ("gptq", {"group_size": 512}),
    "awq-quality": ("awq", {"group_size": 128}),
    "awq-balanced": ("awq", {"group_size": 256}),
    "bnb-nf4": ("nf4", {}),
    "bnb-int8": ("int8", {}),
    "rtn": ("int4", _ROUNDING),
    "tenpak-v10": ("int4", {**_TENPAK, "group_size": {"attn": 256, "mlp": 2048}}),
    "tenpak-v60": ("int4", {**_TENPAK, "group_size": {"attn": 512, "mlp": 4096}}),
}


def presets_of(method: str, fits: Callable[[Mapping[str, Any]], bool]) -> list[str]:
    """List the names of a method's presets whose options fit."""
    return [name for name, (own, options) in PRESETS.items() if own == method and fits(options)]
