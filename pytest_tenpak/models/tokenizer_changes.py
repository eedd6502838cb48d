"""What differs between the tokenizer files of two directories, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .locate import TOKENIZER_FILES

_SHORT = 40


def tokenizer_changes(model: Path, checkpoint: Path) -> list[str]:
    """List how the checkpoint's tokenizer files differ from the model's, a line for each file or field."""
    return [line for name in TOKENIZER_FILES for line in _file_changes(model / name, checkpoint / name)]


def _file_changes(one: Path, other: Path) -> Iterator[str]:
    if one.is_file() != other.is_file():
        yield f"{one.name} is {'only in the model' if one.is_file() else 'only in the checkpoint'}"
        return
    if not one.is_file() or one.read_bytes() == other.read_bytes():
        return
    old, new = _fields(one), _fields(other)
    changed = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    for name in changed:
        yield f"{one.name}: {name} {_shown(old.get(name))} → {_shown(new.get(name))}"
    if not changed and one.suffix != ".json":
        yield f"{one.name} has other contents"


def _fields(file: Path) -> dict[str, Any]:
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return plain if isinstance(plain, dict) else {}


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHORT else "(…)"
