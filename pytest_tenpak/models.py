"""The model under test: a directory, a GGUF file, a hub id, or a user's own model and tokenizer."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .errors import ModelError
from .store.atomic import installed_file
from .store.digest import fingerprint, labelled
from .store.store import Store
from .weights import read_tensors

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w./-]+)?")
_VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
#: Files that make up a tokenizer; what a checkpoint is given beside its weights.
TOKENIZER_FILES = (
    *_VOCABULARIES,
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
_INPUTS_FIRST = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
#: Matrices that are looked up or are the output head: no method here quantizes them.
_EMBEDDINGS = (
    "embed_tokens.weight",
    "embed_positions.weight",
    "embed_in.weight",
    "embed_out.weight",
    "wte.weight",
    "wpe.weight",
    "lm_head.weight",
    "embeddings.weight",
)
_FORMS = (
    "a directory with config.json, *.safetensors and a tokenizer; a .gguf file; package:NAME/FILE.gguf; "
    "a hub id"
)


@dataclass(frozen=True)
class Model:
    """An unquantized model on disk. ``architecture`` is its config.json."""

    path: Path
    digest: str
    tokenizer_digest: str
    architecture: Mapping[str, Any]

    @property
    def maximum(self) -> int:
        """The longest context it takes, in tokens (2048 where the config does not say)."""
        inner = self.architecture.get("text_config", {})
        for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
            for fields in (self.architecture, inner):
                if isinstance(fields.get(name), int):
                    return int(fields[name])
        return 2048

    @cached_property
    def widths(self) -> Mapping[str, int]:
        """Input width of each linear layer, embeddings and output head left out, from the stored shapes."""
        # These families store their layers the other way round (transformers' Conv1D).
        axis = 0 if self.architecture.get("model_type") in _INPUTS_FIRST else 1
        return {
            name.removesuffix(".weight"): tensor.shape[axis]
            for name, tensor in read_tensors(self.path).items()
            if name.endswith(".weight") and len(tensor.shape) == 2 and not name.endswith(_EMBEDDINGS)
        }

    @property
    def dtype(self) -> str:
        """The type its weights are meant for, by name (``float32`` where the config does not say)."""
        return str(self.architecture.get("dtype") or self.architecture.get("torch_dtype") or "float32")


def locate_model(reference: str, root: Path) -> Path:
    """The directory or GGUF file that ``reference`` names; relative paths start at ``root``.

    A hub id is downloaded into the hub's own cache. Raises ModelError for what does not exist.
    """
    path = installed_file(reference) or root / Path(reference).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    if path.is_file():
        raise ModelError(f"the model {reference!r} is a file of no known kind", given=path, accepted=_FORMS)
    if path.suffix == ".gguf" or not _HUB_ID.fullmatch(reference):
        raise ModelError(f"there is no model {reference!r}", given=f"{path} does not exist", accepted=_FORMS)
    return _download(reference, path)


def _download(reference: str, tried: Path) -> Path:
    import huggingface_hub

    name, _, revision = reference.partition("@")
    wanted = ["*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json"]
    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision or None, allow_patterns=[*wanted, *TOKENIZER_FILES]
        )
    except Exception as fault:  # the hub client's errors have no common base
        raise ModelError(
            f"there is no model {reference!r}, neither as a directory nor on the hub",
            given=f"{tried} does not exist; hub: {type(fault).__name__}: {str(fault).splitlines()[0][:200]}",
            accepted=_FORMS,
            remedy="correct the path, or download the model elsewhere and pass its directory",
        ) from None
    return Path(folder)


def describe_model(path: Path, store: Store, source: Path | None = None) -> Model:
    """Check a model directory and digest it.

    ``source`` is the GGUF file it was converted from: its bytes are then the identity, since those of
    the conversion change with the library that converts. Raises ModelError for what is missing.
    """
    architecture = _read_architecture(path)
    if "quantization_config" in architecture:
        raise ModelError(
            f"the model in {path} is quantized already, and cannot be the reference",
            given=f"quantization_config in {path / 'config.json'}",
            remedy="give the unquantized model as model=, and this directory as checkpoint=",
        )
    if not any((path / name).is_file() for name in _VOCABULARIES):
        raise ModelError(
            f"the model directory {path} has no tokenizer",
            accepted=", ".join(_VOCABULARIES),
            remedy=f"save it beside the model: tokenizer.save_pretrained({str(path)!r})",
        )
    if source is not None:
        digest = labelled(store.file_digest(source))
        return Model(path, digest, digest, architecture)
    weights = {p.name: store.file_digest(p) for p in sorted(path.glob("*.safetensors"))}
    if not weights:
        raise ModelError(
            f"the model directory {path} has no weights",
            accepted="*.safetensors",
            remedy="save the model with save_pretrained(), which writes safetensors",
        )
    tokenizer = {n: store.file_digest(path / n) for n in TOKENIZER_FILES if (path / n).is_file()}
    volatile = ("transformers_version", "_name_or_path")
    lasting = {name: value for name, value in architecture.items() if name not in volatile}
    digest = labelled(fingerprint({"weights": weights, "architecture": lasting}))
    return Model(path, digest, labelled(fingerprint(tokenizer)), architecture)


def _read_architecture(path: Path) -> Mapping[str, Any]:
    try:
        plain = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"the model directory {path} has no config.json", accepted=_FORMS) from None
    except (OSError, ValueError) as fault:
        raise ModelError(f"{path / 'config.json'} cannot be read", given=str(fault)) from None
    if not isinstance(plain, dict):
        raise ModelError(f"{path / 'config.json'} is not a JSON object", given=type(plain).__name__)
    return plain


def copy_tokenizer(model: Path, checkpoint: Path) -> None:
    """Give a checkpoint its model's tokenizer, byte for byte."""
    for name in TOKENIZER_FILES:
        if (model / name).is_file():
            shutil.copyfile(model / name, checkpoint / name)


def convert_gguf(file: Path, out: Path) -> None:
    """Dequantize a GGUF file to float16 safetensors with its tokenizer. Runs in a worker.

    float16 is what GGUF's own scales are stored in, and the common type of unquantized checkpoints.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    # What is left of the GGUF reader would make save_pretrained refuse a model that is now plain.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(torch.float16).save_pretrained(out)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(out)


def save_pair(pair: tuple[Any, Any], store: Store) -> Path:
    """Save a user's own (model, tokenizer) as a model directory, once for the same weights and tokenizer."""
    import torch

    model, tokenizer = pair
    if getattr(model.config, "quantization_config", None) is not None:
        raise ModelError(
            "the model of the pair is quantized already, and cannot be the reference",
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


def decoder_layers(model: Any) -> Any:
    """The decoder layers of a model, in order: the outermost list of modules, and of several the longest."""
    from torch.nn import ModuleList

    lists = {name: module for name, module in model.named_modules() if isinstance(module, ModuleList)}
    return max(lists.items(), key=lambda item: (-item[0].count("."), len(item[1])), default=("", []))[1]
