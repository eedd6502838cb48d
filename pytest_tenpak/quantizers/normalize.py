"""Normalizing checkpoints after a backend saved them: types of unquantized tensors, order of metadata."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..models.safetensors_files import StoredTensor, read_tensors, weight_files
from ..store.atomic import write_atomically

_FLOATS = {"F32", "F16", "BF16"}


def normalize_checkpoint(model: Path, checkpoint: Path) -> None:
    """Give a checkpoint that a backend saved the model's own unquantized tensors, and sorted metadata.

    The generation config is the model's too: GPTQModel switches sampling on.
    """
    restore_unquantized(model, checkpoint)
    restore_generation(model, checkpoint)
    for file in weight_files(checkpoint):
        sort_metadata(file)


def restore_unquantized(model: Path, checkpoint: Path) -> None:
    """Give the checkpoint's unquantized tensors the type that the model stores them in.

    Backends compute in the type that is fast or right for them, and save embeddings and norms in it:
    float32 doubles their bytes, bfloat16 costs digits. A tensor that equals the model's, rounded, gets
    the model's own bytes; one that the method changed (AWQ scales norms) is converted.
    """
    stored = read_tensors(model)
    names = [name for name, tensor in read_tensors(checkpoint).items() if _differs(tensor, stored.get(name))]
    if not names:
        return
    for path in weight_files(checkpoint):
        _restore(path, {name: stored[name] for name in names})
    written = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    own = json.loads((model / "config.json").read_text(encoding="utf-8"))
    name = own.get("dtype") or own.get("torch_dtype")
    if name:
        written["dtype"] = name
        write_atomically(checkpoint / "config.json", json.dumps(written, indent=2, sort_keys=True) + "\n")


def restore_generation(model: Path, checkpoint: Path) -> None:
    """Give the checkpoint the model's own generation config, or none where the model has none."""
    own, written = (directory / "generation_config.json" for directory in (model, checkpoint))
    if own.is_file():
        shutil.copyfile(own, written)
    else:
        written.unlink(missing_ok=True)


def _differs(tensor: StoredTensor, own: StoredTensor | None) -> bool:
    return own is not None and {own.dtype, tensor.dtype} <= _FLOATS and own.dtype != tensor.dtype


def _restore(path: Path, originals: Mapping[str, StoredTensor]) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        metadata = file.metadata()
    for name in tensors.keys() & originals.keys():
        with safe_open(originals[name].path, "pt") as source:
            own = source.get_tensor(name)
        untouched = torch.equal(own.to(tensors[name].dtype), tensors[name])
        tensors[name] = own if untouched else tensors[name].to(own.dtype)
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata)
    temporary.replace(path)


def sort_metadata(file: Path) -> None:
    """Sort the metadata of a safetensors file by name, in place."""
    # safetensors writes them in the order of a hash table with another seed in every process, so that
    # the same tensors would give different bytes.
    with file.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        plain = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        # Readers accept a header padded with blanks; a longer one would shift the tensors.
        if len(plain) <= size:
            stream.seek(8)
            stream.write(plain.ljust(size))
