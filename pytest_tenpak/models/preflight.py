"""What is wrong with a directory of weights, as far as its files show before anything is loaded.

Each of these would end in the traceback of a library that names neither the file nor the cause.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..store.git_lfs import POINTER
from .locate import TOKENIZER_FILES, VOCABULARIES
from .safetensors_files import StoredTensor, read_tensors, shape_words, weight_files

#: Files that transformers reads if they are there, besides those of tokenizers.
_JSON = (
    "config.json",
    "generation_config.json",
    "quantize_config.json",
    "quant_config.json",
    "adapter_config.json",
)
_DTYPES = ("float32", "float16", "bfloat16", "float64", "auto")
#: What tensors of a quantized layer are called, in every format that has a config here.
_PARTS = (".qweight", ".absmax", ".SCB", ".weight_packed", ".weight_scale", ".weight_scale_inv")
#: Layouts of GPTQ and AWQ in which codes and scales have the shapes that are checked.
_LAYOUTS = ("gptq", "gptq_v2", "gemm")
#: Methods whose checkpoints always have such tensors.
_PACKED = ("bitsandbytes", "gptq", "awq")


def require_readable(directory: Path) -> dict[str, Any]:
    """Check the files of a directory of weights and return its config.

    Raises CheckpointError as :func:`require_parsable` does, for a dtype that does not exist, and where there
    is no tokenizer or no whole weights.
    """
    require_parsable(directory)
    if not any((directory / name).is_file() for name in VOCABULARIES):
        raise CheckpointError(
            f"the directory {directory} has no tokenizer",
            accepted=", ".join(VOCABULARIES),
            remedy=f"save it in the same directory: tokenizer.save_pretrained({str(directory)!r})",
        )
    config: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    for name in ("dtype", "torch_dtype"):
        given = config.get(name)
        if given is not None and given not in _DTYPES and not isinstance(given, dict):
            raise CheckpointError(
                f"{directory / 'config.json'} names a dtype that does not exist",
                given=f"{name}: {given!r}",
                accepted=", ".join(_DTYPES),
                remedy="correct it: the name of a torch type, without torch. in front",
            )
    read_tensors(directory)
    return config


def require_parsable(directory: Path) -> None:
    """Raise CheckpointError for a file that a loader reads and that is a git-lfs pointer or no valid JSON."""
    small = [directory / name for name in (*_JSON, *TOKENIZER_FILES) if (directory / name).is_file()]
    # Others may lie beside them that no loader reads: nobody has to fetch these.
    for path in (*small, *filter(Path.is_file, weight_files(directory))):
        require_fetched(path)
    for path in small:
        if path.suffix == ".json":
            _require_json(path)


def require_fetched(path: Path) -> None:
    """Raise CheckpointError for a pointer of git-lfs in place of a file."""
    with path.open("rb") as stream:
        if stream.read(len(POINTER)) == POINTER:
            raise CheckpointError(
                f"{path} is a pointer of git-lfs, not the file itself",
                remedy="run in that repository: git lfs install && git lfs pull",
            )


def _require_json(path: Path) -> None:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as fault:
        raise CheckpointError(
            f"{path} is not valid JSON",
            given=str(fault)[:200],
            remedy="copy, download or save it again",
        ) from None


def require_consistent(directory: Path, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError where config and tensors disagree on whether, and how, weights are quantized."""
    stored = read_tensors(directory)
    quantized = [name for name in stored if _is_part(name)]
    recipe = config.get("quantization_config")
    if quantized and not recipe and not (directory / "quantize_config.json").is_file():
        raise CheckpointError(
            f"the tensors in {directory} are quantized, but its config.json has no quantization_config",
            given=quantized[0],
            accepted="a config.json that says how the weights are quantized",
            remedy="copy the config.json that was saved with these tensors",
        )
    if not isinstance(recipe, Mapping):
        return
    method = recipe.get("quant_method")
    if method in _PACKED and not quantized:
        raise CheckpointError(
            f"config.json in {directory} says that the weights are quantized, but none of them is",
            given=f"quantization_config with quant_method {method!r}; tensors in floating types only",
            remedy="remove quantization_config from config.json, or copy the quantized tensors too",
        )
    if method in ("gptq", "awq"):
        _require_shapes(directory, recipe, stored)


def _is_part(name: str) -> bool:
    return name.endswith(_PARTS) or ".weight.absmax" in name


def _require_shapes(directory: Path, recipe: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> None:
    """Check bits and group size of a GPTQ or AWQ config by the shapes of codes and scales.

    GPTQ packs codes along the inputs (inputs · bits / 32, outputs), AWQ along the outputs
    (inputs, outputs · bits / 32); both have scales of (groups, outputs).
    """
    bits, group = (
        recipe.get("bits", recipe.get("w_bit")),
        recipe.get("group_size", recipe.get("q_group_size")),
    )
    layout = str(recipe.get("checkpoint_format") or recipe.get("version") or "gemm").lower()
    if recipe.get("dynamic") or layout not in _LAYOUTS:
        return  # its loader knows
    if not (isinstance(bits, int) and isinstance(group, int) and bits > 0):
        return
    for name, codes in stored.items():
        layer = name.removesuffix(".qweight")
        scales = stored.get(f"{layer}.scales")
        if layer == name or scales is None or len(codes.shape) != 2 or len(scales.shape) != 2:
            continue
        groups, outputs = scales.shape
        is_gptq = recipe.get("quant_method") == "gptq"
        inputs = (_inputs(stored, layer) or 32 * codes.shape[0] // bits) if is_gptq else codes.shape[0]
        # Codes are padded to whole words where 32 bits do not hold a whole number of them.
        packed = (
            codes.shape == (-(-inputs * bits // 32), outputs)
            if is_gptq
            else (codes.shape == (inputs, -(-outputs * bits // 32)))
        )
        if not packed:
            _refuse_shape(directory, name, codes, f"bits={bits}")
        if groups != (1 if group == -1 else -(-inputs // group)):
            _refuse_shape(directory, f"{layer}.scales", scales, f"group_size={group}")


def _inputs(stored: Mapping[str, StoredTensor], layer: str) -> int:
    """Return a layer's number of inputs where g_idx, the group of each, is stored; else 0."""
    index = stored.get(f"{layer}.g_idx")
    return index.numel if index is not None else 0


def _refuse_shape(directory: Path, name: str, tensor: StoredTensor, said: str) -> None:
    raise CheckpointError(
        f"the quantization_config in {directory} does not fit its tensors",
        given=f"{said}, but {name} has the shape {shape_words(tensor.shape)}",
        accepted="bits and group_size as the weights were quantized with",
        remedy="restore the config.json that was saved with these tensors",
    )
