"""Texts in the cache: jobs name them, in place of carrying them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

#: The documents one after the other in UTF-8, and the bytes of each.
_TEXT, _SIZES = "documents.txt", "sizes.json"


def save_documents(documents: Sequence[str], folder: Path) -> dict[str, int]:
    """Write documents to an empty folder; return their number, which is all there is to say of them."""
    sizes = []
    with (folder / _TEXT).open("wb") as stream:
        for document in documents:
            sizes.append(stream.write(document.encode()))
    (folder / _SIZES).write_text(json.dumps(sizes), encoding="utf-8")
    return {"documents": len(sizes)}


def read_documents(folder: Path) -> list[str]:
    """Return the documents that :func:`save_documents` wrote."""
    sizes: list[int] = json.loads((folder / _SIZES).read_text(encoding="utf-8"))
    with (folder / _TEXT).open("rb") as stream:
        return [stream.read(size).decode() for size in sizes]
