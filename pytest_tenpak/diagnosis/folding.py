"""Scales that a method moved between layers, undone: what a checkpoint's weights should be.

AWQ and SmoothQuant multiply the inputs of a layer by scales, and divide what comes before it by the same, so
that the product is unchanged (Lin et al., arXiv 2306.00978; Xiao et al., arXiv 2211.10438). Before a norm's
layers the scales are the quotient of the norm's old and new weights; between two layers they are estimated
from the first one's outputs, whose sizes they changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..models.config import read_config
from ..models.safetensors_files import StoredTensor
from .values import Floats, floats

#: The norms before each layer, by the last parts of their names; the first one that the model has counts.
_NORMS = {
    "self_attn.q_proj": ("input_layernorm", "self_attn_layer_norm"),
    "self_attn.k_proj": ("input_layernorm", "self_attn_layer_norm"),
    "self_attn.v_proj": ("input_layernorm", "self_attn_layer_norm"),
    "mlp.gate_proj": ("pre_feedforward_layernorm", "post_attention_layernorm"),
    "mlp.up_proj": ("pre_feedforward_layernorm", "post_attention_layernorm"),
    "fc1": ("final_layer_norm",),
}
#: The layer whose outputs are the inputs of another one, up to what keeps scales as they are; in experts too.
_BEFORE = {".o_proj": ".v_proj", ".down_proj": ".up_proj"}
#: Architectures whose norms multiply by one plus their weights.
_ONE_PLUS = ("gemma", "gemma2", "gemma3", "gemma3_text")

#: Formats whose libraries move scales between layers, by ``quant_method`` in config.json.
_MOVING = ("awq", "compressed-tensors")


def moves_scales(checkpoint: Path) -> bool:
    """Return whether the format of a checkpoint is one whose libraries move scales between layers."""
    return (read_config(checkpoint).get("quantization_config") or {}).get("quant_method") in _MOVING


class Folding:
    """The scales of a checkpoint's layers, by what was folded into the model's tensors."""

    def __init__(
        self,
        whole: Mapping[str, StoredTensor],
        stored: Mapping[str, StoredTensor],
        architecture: Mapping[str, Any],
    ) -> None:
        self._whole, self._stored = whole, stored
        self._one_plus = architecture.get("model_type") in _ONE_PLUS
        inner = architecture.get("text_config", architecture)
        heads = inner.get("num_attention_heads") or 1
        self._head_size = inner.get("head_dim") or (inner.get("hidden_size") or 0) // heads

    def is_source(self, layer: str) -> bool:
        """Return whether the outputs of a layer may have been divided by the scales of the next one."""
        return any(layer.endswith(name) for name in _BEFORE.values())

    def source_of(self, layer: str) -> str:
        """Return the layer that comes before this one, with nothing between that changes scales."""
        for name, before in _BEFORE.items():
            if layer.endswith(name):
                found = layer.removesuffix(name) + before
                return found if f"{found}.weight" in self._whole else ""
        return ""

    def norm_scales(self, layer: str) -> Floats | None:
        """Return what a layer's inputs were multiplied by, from the norm before it; None for nothing."""
        name = self._norm_before(layer)
        if not name or name not in self._stored:
            return None
        old, new = floats(self._whole[name]), floats(self._stored[name])
        if np.array_equal(old, new):
            return None
        if self._one_plus:
            old, new = old + 1, new + 1
        with np.errstate(divide="ignore", invalid="ignore"):
            scales = old / new
        return np.where(np.isfinite(scales), scales, 1).astype(np.float32)

    def spread(self, scales: Floats, inputs: int) -> Floats | None:
        """Return the scales of a layer's outputs as those of the next one's inputs; None where none fit.

        With grouped queries, several heads read the outputs of one.
        """
        if len(scales) == inputs:
            return scales
        size = self._head_size
        if not size or inputs % len(scales) or len(scales) % size:
            return None
        return np.repeat(scales.reshape(-1, 1, size), inputs // len(scales), axis=1).reshape(-1)

    def changed(self) -> Iterator[str]:
        """Yield the tensors that folding may change: norms that are known to be before layers, and biases."""
        norms = {name for names in _NORMS.values() for name in names}
        for name in self._whole:
            module, _, leaf = name.rpartition(".")
            if module.rpartition(".")[2] in norms or leaf == "bias":
                yield name

    def _norm_before(self, layer: str) -> str:
        """Return the weight of the norm whose outputs a layer reads; empty where that is not known."""
        head, _, expert = layer.partition(".experts.")
        if expert:
            layer = f"{head}.{expert.rpartition('.')[2]}"
        for name, norms in _NORMS.items():
            if layer.endswith(f".{name}"):
                block = layer.removesuffix(name)
                weights = (f"{block}{norm}.weight" for norm in norms)
                return next((weight for weight in weights if weight in self._whole), "")
        return ""
