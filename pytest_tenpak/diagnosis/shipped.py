"""What is shipped beside the weights, as transformers reads it: configs, tokenizer, chat template.

Read where transformers is, since only it knows which defaults stand for what a file leaves out. The answer is
flat text by name, nested names dotted, so that two directories can be compared without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..models.config import read_config

#: Texts that are longer than this are described by length and digest.
_LONG = 120
#: Sections of a tokenizer that are lists or tables: described by how many entries they have, and a digest.
_TABLES = ("vocab", "merges", "added_tokens")
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
_TOKENIZER = ("model_max_length", "padding_side", "truncation_side", "clean_up_tokenization_spaces")


def read_shipped(directory: Path, tokenizer: Any) -> dict[str, str]:
    """Return what the files mean, as ``config.*``, ``generation.*``, ``tokenizer.*``, ``quantization.*``.

    ``tokenizer`` is the directory's own, loaded.
    """
    from transformers import AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    if (directory / "generation_config.json").is_file():
        generation = GenerationConfig.from_pretrained(directory, local_files_only=True)
    else:
        generation = GenerationConfig.from_model_config(config)
    # A model of several modalities keeps the config of its text half inside.
    plain = {**config.get_text_config().to_dict(), "architectures": config.architectures}
    recipe = read_config(directory).get("quantization_config") or {}
    plain.pop("quantization_config", None)
    return dict(
        (
            *_flat(plain, "config."),
            *_flat({n: x for n, x in generation.to_dict().items() if x is not None}, "generation."),
            *_flat(_tokenizer(tokenizer), "tokenizer."),
            *_flat(recipe, "quantization."),
        )
    )


def read_directory(directory: Path) -> dict[str, str]:
    """Return what a directory's files mean, as :func:`read_shipped` does, with its tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    return read_shipped(directory, tokenizer)


def _tokenizer(tokenizer: Any) -> dict[str, Any]:
    """Return what a tokenizer does, apart from the name of its class."""
    named = {name: getattr(tokenizer, name, None) for name in (*_SPECIAL, *_TOKENIZER)}
    ids = {f"{name}_id": getattr(tokenizer, f"{name}_id", None) for name in _SPECIAL}
    found: dict[str, Any] = {**named, **ids, "chat_template": getattr(tokenizer, "chat_template", None)}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return {**found, "vocab": _table(tokenizer.get_vocab())}
    sections = json.loads(backend.to_str())
    model = sections.pop("model")
    for name in ("version", "truncation", "padding"):
        sections.pop(name, None)
    plain = {**sections, **{name: value for name, value in model.items() if name not in sections}}
    return {**found, **{name: _table(x) if name in _TABLES else x for name, x in plain.items()}}


def _table(entries: Any) -> str:
    """Describe a table: ``49,152 entries, sha256:0123456789ab``."""
    text = json.dumps(entries, sort_keys=True, ensure_ascii=False)
    return f"{len(entries):,} entries, {_digest(text)}"


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def _flat(plain: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for name, value in plain.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}{name}.")
            continue
        if isinstance(value, list) and len(value) == 1:  # one id, or a list of it
            (value,) = value
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        short = text if len(text) <= _LONG else f"{len(text):,} characters, {_digest(text)}"
        yield f"{path}{name}", short
