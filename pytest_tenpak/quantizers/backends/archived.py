"""The common part of the adapters of AutoGPTQ and AutoAWQ, both archived upstream.

Neither library will be updated for newer versions of torch or transformers, so the adapters patch missing
names into them and fix their results. Every patch is undone when the library has returned, wherever that is
possible, and is applied only where something is missing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_ABSENT = object()


@contextmanager
def patched(owner: Any, **names: Any) -> Iterator[None]:
    """Set attributes of a module or object inside the context; restore them after it."""
    before = {name: vars(owner).get(name, _ABSENT) for name in names}
    for name, value in names.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


@contextmanager
def patched_if_missing(owner: Any, **names: Any) -> Iterator[None]:
    """Set, inside the context, those of the names that ``owner`` lacks."""
    with patched(owner, **{name: value for name, value in names.items() if not hasattr(owner, name)}):
        yield


def restore_dtype(model: Any, source: Path) -> None:
    """Give all unquantized tensors the type in which ``source`` stores them.

    Quantizing used a type of its own.
    """
    import torch

    fields = json.loads((source / "config.json").read_text(encoding="utf-8"))
    set_dtype(model, getattr(torch, str(fields.get("dtype") or fields.get("torch_dtype") or "float32")))


def set_dtype(model: Any, dtype: Any) -> None:
    """Change the type of everything but the quantized layers, which hold buffers and no parameters."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype


def halve_scales(model: Any) -> None:
    """Make the scales and biases of the quantized layers float16, whatever the rest of the model is."""
    import torch

    for layer in model.modules():
        if hasattr(layer, "qweight"):
            for name in ("scales", "bias"):
                if isinstance(getattr(layer, name, None), torch.Tensor):
                    setattr(layer, name, getattr(layer, name).to(torch.float16))


def copy_generation(source: Path, checkpoint: Path) -> None:
    """Copy the model's own generation settings, which the backends drop or change."""
    name = "generation_config.json"
    (checkpoint / name).unlink(missing_ok=True)
    if (source / name).is_file():
        shutil.copyfile(source / name, checkpoint / name)


def adopt_generation(model: Any, checkpoint: Path) -> None:
    """Set a loaded model's generation settings from its checkpoint; the backends read config.json alone."""
    from transformers import GenerationConfig

    if (checkpoint / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(checkpoint, local_files_only=True)
