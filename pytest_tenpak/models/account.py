"""The loader's own account: which tensors the files had, and which ones the model has.

transformers fills in what is missing with random numbers, or with whatever the memory holds, and goes on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, named
from .ledger import is_buffer
from .safetensors_files import StoredTensor, shape_words


def require_all_loaded(
    model: Any, account: Mapping[str, Any], path: Path, stored: Mapping[str, StoredTensor]
) -> None:
    """Raise CheckpointError unless ``path`` had every tensor of the model, and no other of its modules.

    ``account`` is what ``from_pretrained`` returns as its loading info: it leaves out tied weights, buffers
    that are computed, and what an architecture is known to leave out. ``stored`` are the tensors of the
    files, where these are safetensors.
    """
    faults = {
        "lack tensors of the model": sorted(account["missing_keys"]),
        "have tensors of other shapes than the model's": [
            f"{name} (stored as {shape_words(here)}, expected {shape_words(wanted)})"
            for name, here, wanted in sorted(account["mismatched_keys"])
        ],
        "have tensors for which the model has no place": sorted(
            name for name in _unexpected(account, stored) if _belongs_to(model, name)
        ),
    }
    for what, names in faults.items():
        if names:
            raise CheckpointError(
                f"the weights in {path} {what}",
                given=named(names),
                accepted="every tensor that config.json describes, under the names that transformers expects",
                remedy="save the model again with save_pretrained(), or correct config.json",
            )


def unread_tensors(model: Any, account: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> list[str]:
    """List the stored tensors that belong to no part of the model, such as a vision half."""
    ignored = [*map(re.compile, getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())]
    loaded = model.state_dict().keys()
    left_out = {n for n in stored if n not in loaded and any(pattern.search(n) for pattern in ignored)}
    return sorted(_unexpected(account, stored) | left_out)


def _unexpected(account: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> set[str]:
    names: Collection[str] = account["unexpected_keys"]
    return {name for name in names if not (name in stored and is_buffer(stored[name]))}


def _belongs_to(model: Any, name: str) -> bool:
    """Return whether a stored tensor is of a part that the model has: a further layer, or a bias too many."""
    module, path = model, ""
    for step in name.split(".")[:-1]:
        inner = dict(module.named_children()).get(step)
        if inner is None:
            break
        module, path = inner, f"{path}{step}."
    if type(module).__name__ == "ModuleList":
        # Layers that predict further tokens are stored after the last one of the model.
        further = getattr(model.config.get_text_config(), "num_nextn_predict_layers", 0) or 0
        number = name.removeprefix(path).partition(".")[0]
        return not number.isdecimal() or int(number) >= len(module) + further
    inside = any(step.isdecimal() for step in path.split("."))
    return inside or not list(module.children())
