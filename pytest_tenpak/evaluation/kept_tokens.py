"""Token ids in the cache: a text is tokenized once for each tokenizer, and not again for each process.

What tells tokenizers apart is what they are once they are loaded, and not their files: which class reads
these, and how, depends on the model's config and on transformers too.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..store.atomic import open_atomically
from ..store.digest import fingerprint
from .protocol import Protocol
from .tokenize import Stream, tokenize

#: Increased whenever a change of this package changes which tokens a text has, or the form of the file.
TOKENS_VERSION = 1
#: What reading a file raises that is not whole, or is another.
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def tokens_of(tokenizer: Any, read: Callable[[], Sequence[str]], protocol: Protocol, folder: Path) -> Stream:
    """Return the tokens of the text that ``folder`` is for, as :func:`~.tokenize.tokenize` makes them.

    They are taken from the folder where they are whole there, or else made of the documents that ``read``
    returns, and put there. Two processes at once write the same. Tokenizers that are not of the tokenizers
    library are asked each time: nothing tells them apart for certain.
    """
    key = _key(tokenizer, protocol)
    if key is None:
        return tokenize(tokenizer, read(), protocol)
    file = folder / f"{key}.npz"
    kept = _load(file)
    if kept is not None:
        return kept
    stream = tokenize(tokenizer, read(), protocol)
    with suppress(OSError):  # where they cannot be kept, they are made again next time
        _save(stream, file)
    return stream


def _key(tokenizer: Any, protocol: Protocol) -> str | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not getattr(tokenizer, "is_fast", False):
        return None
    special = tokenizer.bos_token_id, tokenizer.eos_token_id, getattr(tokenizer, "split_special_tokens", None)
    found = {
        "version": TOKENS_VERSION,
        "libraries": [version("transformers"), version("tokenizers")],
        "class": f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}",
        "tokenizer": fingerprint(backend.to_str()),
        "special": special,
        "joined": [protocol.join, protocol.bos == "document"],
    }
    return fingerprint(found)[:32]


def _load(file: Path) -> Stream | None:
    """Return what was saved; None where there is nothing, or it does not agree with its checksums."""
    import numpy as np

    try:
        with np.load(file, allow_pickle=False) as saved:
            ids, starts, digest = saved["ids"], saved["starts"], str(saved["digest"])
    except _DAMAGED:
        return None
    return Stream(ids.tolist(), tuple(starts.tolist()), digest)


def _save(stream: Stream, file: Path) -> None:
    import numpy as np

    with open_atomically(file) as out:
        np.savez(
            out,
            ids=np.asarray(stream.ids, dtype=np.uint32),
            starts=np.asarray(stream.starts, dtype=np.uint64),
            digest=np.asarray(stream.digest),
        )
