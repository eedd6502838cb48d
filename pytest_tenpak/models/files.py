"""Which files of a directory of weights a loader may read."""

from __future__ import annotations

from pathlib import Path

from ..store.layout import MANIFEST

#: Folders that loaders look into, besides the directory itself.
_FOLDERS = ("additional_chat_templates",)
#: Code that is never run: nothing here trusts remote code.
_UNREAD = (".py",)


def files_to_load(directory: Path) -> list[Path]:
    """List the files that a loader may read from a directory of weights, sorted.

    Which ones it reads depends on the library, its version and what the files say, so all count: weights,
    index, config, generation config, tokenizer, chat templates, quantization files, adapters.
    """
    found = [path for folder in ("", *_FOLDERS) for path in (directory / folder).glob("*")]
    return sorted(
        path
        for path in found
        if path.is_file()
        and path.name != MANIFEST
        and not path.name.startswith(".")
        and path.suffix not in _UNREAD
    )
