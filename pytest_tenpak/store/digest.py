"""Digests: one canonical JSON and one hash, so that equal values have equal digests everywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_CHUNK = 1 << 22


def canonical_json(plain: Any) -> str:
    """Render JSON with sorted keys and no spare white space; raise ValueError for NaN and infinities."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(plain: Any) -> str:
    """Return the SHA-256 (64 hex digits) of the canonical JSON of a plain value."""
    return hashlib.sha256(canonical_json(plain).encode()).hexdigest()


def texts_fingerprint(texts: Iterable[str]) -> str:
    """Return :func:`fingerprint` of a list of texts, without a second copy of any of them in memory."""
    sha = hashlib.sha256(b"[")
    for number, text in enumerate(texts):
        sha.update(b',"' if number else b'"')
        for start in range(0, len(text), _CHUNK):
            # JSON escapes characters one by one, so pieces may be rendered by themselves.
            sha.update(canonical_json(text[start : start + _CHUNK])[1:-1].encode())
        sha.update(b'"')
    sha.update(b"]")
    return sha.hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 (64 hex digits) of a file's bytes, read in chunks."""
    sha = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def labelled(hex_digest: str) -> str:
    """Return a digest as it is stored and shown: ``sha256:`` and 64 hex digits."""
    return f"sha256:{hex_digest}"
