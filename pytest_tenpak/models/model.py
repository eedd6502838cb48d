"""An unquantized model on disk: checked, described, digested."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..store.digest import fingerprint, labelled
from ..store.store import Store
from .ledger import EMBEDDINGS
from .locate import FORMS, TOKENIZER_FILES, VOCABULARIES
from .preflight import require_readable
from .safetensors_files import read_tensors, weight_files

#: Architectures that store their layers' weights as (inputs, outputs).
INPUTS_FIRST = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")


@dataclass(frozen=True)
class Model:
    """An unquantized model on disk. ``architecture`` is its config.json."""

    path: Path
    digest: str
    tokenizer_digest: str
    architecture: Mapping[str, Any]

    @property
    def maximum(self) -> int:
        """The longest context of the model, in tokens (2048 where the config has none)."""
        inner = self.architecture.get("text_config", {})
        for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
            for fields in (self.architecture, inner):
                if isinstance(fields.get(name), int):
                    return int(fields[name])
        return 2048

    @cached_property
    def widths(self) -> Mapping[str, int]:
        """Input width of each linear layer except embeddings and output head, from the stored shapes."""
        # These families store their weights transposed (transformers' Conv1D).
        axis = 0 if self.architecture.get("model_type") in INPUTS_FIRST else 1
        return {
            name.removesuffix(".weight"): tensor.shape[axis]
            for name, tensor in read_tensors(self.path).items()
            if name.endswith(".weight") and len(tensor.shape) == 2 and not name.endswith(EMBEDDINGS)
        }

    @property
    def dtype(self) -> str:
        """The dtype of the weights by name, from the config (``float32`` where it has none)."""
        return str(self.architecture.get("dtype") or self.architecture.get("torch_dtype") or "float32")


def describe_model(path: Path, store: Store, source: Path | None = None) -> Model:
    """Check a model directory and digest it.

    ``source`` is the GGUF file that it was converted from: the file's bytes are then the identity, since
    converted bytes depend on the version of the converting library. Raises ModelError for a missing file.
    """
    architecture = _read_architecture(path)
    if architecture.get("quantization_config"):
        raise ModelError(
            f"the model in {path} is already quantized and cannot be the reference",
            given=f"quantization_config in {path / 'config.json'}",
            remedy="give the unquantized model as model=, and this directory as checkpoint=",
        )
    if not any((path / name).is_file() for name in VOCABULARIES):
        raise ModelError(
            f"the model directory {path} has no tokenizer",
            accepted=", ".join(VOCABULARIES),
            remedy=f"save it in the same directory: tokenizer.save_pretrained({str(path)!r})",
        )
    if not any(path.glob("*.safetensors")):
        raise ModelError(
            f"the model directory {path} has no weights",
            accepted="*.safetensors",
            remedy="save the model with save_pretrained(), which writes safetensors",
        )
    require_readable(path)
    if source is not None:
        digest = labelled(store.file_digest(source))
        return Model(path, digest, digest, architecture)
    weights = {file.name: store.file_digest(file) for file in weight_files(path)}
    tokenizer = {n: store.file_digest(path / n) for n in TOKENIZER_FILES if (path / n).is_file()}
    volatile = ("transformers_version", "_name_or_path")
    lasting = {name: value for name, value in architecture.items() if name not in volatile}
    digest = labelled(fingerprint({"weights": weights, "architecture": lasting}))
    return Model(path, digest, labelled(fingerprint(tokenizer)), architecture)


def _read_architecture(path: Path) -> Mapping[str, Any]:
    try:
        plain = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"the model directory {path} has no config.json", accepted=FORMS) from None
    except (OSError, ValueError) as fault:
        raise ModelError(f"{path / 'config.json'} cannot be read", given=str(fault)) from None
    if not isinstance(plain, dict):
        raise ModelError(f"{path / 'config.json'} is not a JSON object", given=type(plain).__name__)
    return plain
