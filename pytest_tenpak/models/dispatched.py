"""Loaded models whose modules are on several devices, or whose weights are brought to them when they run.

accelerate hooks into such modules: each moves its inputs to where it computes.
"""

from __future__ import annotations

from typing import Any


def device_of(module: Any) -> Any:
    """Return the torch device that a module computes on: where its weights are, or are brought to."""
    import torch

    hook = getattr(module, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    return next(module.parameters()).device if device is None else torch.device(device)


def input_device(model: Any) -> Any:
    """Return the torch device of a model's embeddings, which token ids are put on."""
    return device_of(model.get_input_embeddings())


def brings_weights(module: Any) -> bool:
    """Return whether a module's weights are in host memory or on disk, and brought to it when it runs."""
    return bool(getattr(getattr(module, "_hf_hook", None), "offload", False))
