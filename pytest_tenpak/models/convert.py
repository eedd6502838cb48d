"""Model directories made from a GGUF file or a (model, tokenizer) pair; copies of tokenizers."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import ModelError
from ..store.digest import fingerprint
from ..store.store import Store
from .account import require_all_loaded
from .locate import TOKENIZER_FILES
from .preflight import require_fetched

#: Increased whenever a change of this module changes its output; part of cache keys.
CONVERSION_VERSION = 2


def copy_tokenizer(model: Path, checkpoint: Path) -> None:
    """Copy the model's tokenizer into a checkpoint, byte for byte."""
    for name in TOKENIZER_FILES:
        if (model / name).is_file():
            shutil.copyfile(model / name, checkpoint / name)


def convert_gguf(file: Path, out: Path) -> None:
    """Dequantize a GGUF file to float16 safetensors with its tokenizer. Runs in a worker.

    float16 is what GGUF's own scales are stored in, and the common type of unquantized checkpoints. Raises
    ModelError for one part of a file that was split, CheckpointError for a file without all tensors.
    """
    _require_one_file(file)
    # Alone in a folder, since transformers reads configs and tokenizer files that lie beside it.
    with TemporaryDirectory() as alone:
        link = Path(alone) / file.name
        link.symlink_to(file.resolve())
        _convert(link, out, file)


def _require_one_file(file: Path) -> None:
    from gguf import GGUFReader

    require_fetched(file)
    try:
        field = GGUFReader(file).get_field("split.count")
        count = int(field.contents()) if field is not None else 1
    except (ValueError, LookupError, TypeError, OSError) as fault:
        raise ModelError(
            f"{file.name} cannot be read",
            given=f"{file}: {str(fault)[:200]}",
            accepted="a whole GGUF file",
            remedy="copy or download it again",
        ) from None
    if count > 1:
        raise ModelError(
            f"{file.name} is one part of a GGUF file that was split into {count}",
            given=file,
            accepted="a whole GGUF file",
            remedy="join the parts: llama-gguf-split --merge FIRST-PART WHOLE.gguf",
        )


def _convert(link: Path, out: Path, file: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model, account = AutoModelForCausalLM.from_pretrained(
        link.parent,
        gguf_file=link.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
    )
    require_all_loaded(model, account, file, {})
    # These leftovers of the GGUF reader would make save_pretrained refuse a model that is plain now.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(torch.float16).save_pretrained(out)
    AutoTokenizer.from_pretrained(link.parent, gguf_file=link.name).save_pretrained(out)


def save_pair(pair: tuple[Any, Any], store: Store) -> Path:
    """Save a (model, tokenizer) pair as a model directory, once for the same weights and tokenizer."""
    import torch

    model, tokenizer = pair
    if getattr(model.config, "quantization_config", None) is not None:
        raise ModelError(
            "the model of the (model, tokenizer) pair is already quantized and cannot be the reference",
            given=type(model).__name__,
            remedy="give the unquantized model, and the quantized one's directory as checkpoint=",
        )
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())

    def save(folder: Path) -> dict[str, Any]:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return {}

    identity = {
        "weights": sha.hexdigest(),
        "tokenizer": fingerprint(vocabulary),
        "architecture": type(model).__name__,
    }
    return store.directory("models", identity, save).path
