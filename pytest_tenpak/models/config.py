"""The fields of a config.json that can change what a model computes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

#: Fields that say where a model came from, or how its weights are stored: the spec and the files say that.
_ASIDE = frozenset(
    (
        "_name_or_path",
        "architectures",
        "auto_map",
        "dtype",
        "quantization_config",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    )
)


def read_config(directory: Path) -> dict[str, Any]:
    """Return a directory's config.json."""
    plain: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return plain


def computing_fields(directory: Path) -> dict[str, str]:
    """Return the fields of a directory's config as text by name, nested ones dotted."""
    return dict(_flat(read_config(directory)))


def _flat(plain: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for name, value in plain.items():
        if name in _ASIDE:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", json.dumps(value, ensure_ascii=False)
