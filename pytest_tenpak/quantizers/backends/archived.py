"""What the adapters of AutoGPTQ and AutoAWQ, both archived upstream, have in common.

Neither library will follow torch or transformers any further, so the adapters patch names into them and mend
what they do. Every patch is undone when the library has returned, wherever that is possible, and is applied
only where something is missing.
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
    """Set attributes of a module or object for a while; what was there before comes back."""
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
    """Set, for a while, those of the names that ``owner`` lacks."""
    with patched(owner, **{name: value for name, value in names.items() if not hasattr(owner, name)}):
        yield


def restore_dtype(model: Any, source: Path) -> None:
    """Give everything that was not quantized the type in which ``source`` stores it.

    Quantizing ran in a type of its own.
    """
    import torch

    fields = json.loads((source / "config.json").read_text(encoding="utf-8"))
    set_dtype(model, getattr(torch, str(fields.get("dtype") or fields.get("torch_dtype") or "float32")))


def set_dtype(model: Any, dtype: Any) -> None:
    """Change the type of everything but the quantized layers: these hold buffers, and no parameters."""
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
    """Keep the model's own generation settings: the backends drop them, or change them."""
    name = "generation_config.json"
    (checkpoint / name).unlink(missing_ok=True)
    if (source / name).is_file():
        shutil.copyfile(source / name, checkpoint / name)


def adopt_generation(model: Any, checkpoint: Path) -> None:
    """Make a loaded model generate as its checkpoint says; the backends build it from config.json alone."""
    from transformers import GenerationConfig

    if (checkpoint / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(checkpoint, local_files_only=True)
