"""Loading a checkpoint with transformers: from safetensors, on one device, without remote code."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load_pretrained(directory: Path, device: str, dtype: str, **options: Any) -> Any:
    """A causal language model from a local directory, in evaluation mode.

    ``dtype`` is a torch type by name, or ``auto`` for the type the weights are stored in. Further
    keyword arguments go to ``from_pretrained``.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=dtype if dtype == "auto" else getattr(torch, dtype),
        device_map={"": device},
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        **options,
    )
    return model.eval()
