"""Where a quantization config contradicts the weights beside it: other loaders believe the config."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..models.config import read_config
from ..models.ledger import corresponding_tensors, parts_of, quantized_layers
from .formats import read_layer
from .quantized_layer import UnknownFormatError

#: The names of options in configs, by the libraries' own, for what the stored tensors say.
_NAMES = {
    "bits": ("bits", "w_bit"),
    "group_size": ("group_size", "q_group_size"),
    "desc_act": ("desc_act",),
    "sym": ("sym",),
    "quant_type": ("bnb_4bit_quant_type",),
    "double_quant": ("bnb_4bit_use_double_quant",),
}
#: The second place in which GPTQ's libraries write, and some loaders read, the same options.
_SECOND = "quantize_config.json"


def contradictions(checkpoint: Path, model: Path) -> list[str]:
    """List the options of a checkpoint's quantization config that its stored tensors contradict."""
    config = read_config(checkpoint).get("quantization_config")
    if not isinstance(config, Mapping):
        return []
    whole, stored = corresponding_tensors(checkpoint, model)
    found: Counter[str] = Counter()
    layers = quantized_layers(whole, stored)
    skipped = config.get("modules_to_not_convert") or config.get("llm_int8_skip_modules") or ()
    for layer in layers:
        try:
            read = read_layer(parts_of(layer, stored), config)
        except UnknownFormatError:
            continue
        found.update(_against(config, {**read.details, "inputs": read.shape[1]}))
        named = [name for name in skipped if f".{name}." in f".{layer}." or layer.startswith(f"{name}.")]
        found.update(f"{name!r} is to be left unquantized, but is stored quantized" for name in named)
    lines = [f"{line} ({count} of {len(layers)} layers)" for line, count in sorted(found.items())]
    return [*lines, *_between_files(config, checkpoint / _SECOND)]


def _against(config: Mapping[str, Any], details: Mapping[str, Any]) -> Iterator[str]:
    given = {**config, "bits": config.get("bits", _bits_of_bitsandbytes(config))}
    for name, stored in details.items():
        for option in _NAMES.get(name, ()):
            value = given.get(option)
            whole_rows = name == "group_size" and value == -1 and stored == details["inputs"]
            # Groups in order are also right for a loader that expects them shuffled, and zero points in the
            # middle for one that expects any.
            general = (name == "desc_act" and value) or (name == "sym" and not value)
            if value is None or value == stored or whole_rows or general:
                continue
            yield f"{option} is {json.dumps(value)}, but the weights have {json.dumps(stored)}"


def _bits_of_bitsandbytes(config: Mapping[str, Any]) -> int | None:
    if config.get("load_in_4bit"):
        return 4
    return 8 if config.get("load_in_8bit") else None


def _between_files(config: Mapping[str, Any], second: Path) -> Iterator[str]:
    """Yield options that the second file has otherwise."""
    if not second.is_file():
        return
    other = _read(second)
    for name in ("bits", "group_size", "sym", "desc_act", "zero_point", "checkpoint_format", "version"):
        if name in config and name in other and config[name] != other[name]:
            values = f"{json.dumps(config[name])} in config.json, but {json.dumps(other[name])}"
            yield f"{name} is {values} in {second.name}"


def _read(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}
