"""What a manifest of the shared store says, and how it is read: as input, of which nothing is believed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from .digest import file_digest, fingerprint
from .layout import ENTRY, MANIFEST
from .strict_json import parse_json

#: The name of a manifest, with the length of the entry.
MANIFEST_NAME = re.compile(r"manifest-(\d{7,12})\.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FORMAT = 1


class FileRecord(NamedTuple):
    """The size in bytes and the SHA-256 (64 hex digits) of a file of an entry."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a manifest says: ``count`` is the length of a growing entry, ``files`` are by relative name."""

    identity: Mapping[str, Any]
    facts: Mapping[str, Any]
    files: Mapping[str, FileRecord]
    count: int = 0


class RemoteEntry(NamedTuple):
    """An entry as a listing shows it, with all of its bytes.

    ``length`` is that of its longest manifest, None for an upload that has not ended.
    """

    kind: str
    key: str
    length: int | None
    size: int


def describe(
    folder: Path, names: list[str], digest: Callable[[Path], str] = file_digest
) -> dict[str, FileRecord]:
    """Return the size and SHA-256 of files of a folder, by name."""
    return {name: FileRecord((folder / name).stat().st_size, digest(folder / name)) for name in names}


def manifest_name(count: int) -> str:
    """Return the name of a manifest of an entry of that length; 0 for one that does not grow."""
    return f"manifest-{count:07}.json"


def render_manifest(kind: str, manifest: Manifest) -> str:
    """Write a manifest, with its digest; raises ValueError for numbers that JSON does not have."""
    plain = {
        "format": _FORMAT,
        "kind": kind,
        "count": manifest.count,
        "identity": manifest.identity,
        "facts": manifest.facts,
        "files": write_records(manifest.files),
    }
    return json.dumps({**plain, "digest": fingerprint(plain)}, indent=1, sort_keys=True, allow_nan=False)


def parse_manifest(text: bytes, kind: str, key: str, count: int) -> Manifest:
    """Read a manifest; raises ValueError, KeyError or TypeError where it is not one of this kind and key."""
    plain = parse_json(text.decode())
    files = read_records(plain["files"])
    told = plain.pop("digest")
    is_whole = (
        plain["format"] == _FORMAT
        and told == fingerprint(plain)
        and (plain["kind"], plain["count"]) == (kind, count)
        and fingerprint(plain["identity"])[:32] == key
    )
    if not is_whole:
        raise ValueError("not a whole manifest of this entry")
    return Manifest(plain["identity"], dict(plain["facts"]), files, count)


def write_records(files: Mapping[str, FileRecord]) -> dict[str, Any]:
    """Return the plain form of records of files."""
    return {name: record._asdict() for name, record in files.items()}


def read_records(plain: Mapping[str, Any]) -> dict[str, FileRecord]:
    """Read records of files; raises ValueError, KeyError or TypeError where one is none, or leads out."""
    files = {name: FileRecord(**row) for name, row in plain.items()}
    are_whole = (
        all(map(_is_plain, files))
        and not files.keys() & {str(above) for name in files for above in PurePosixPath(name).parents}
        and all(
            type(one.size) is int and one.size >= 0 and _SHA256.fullmatch(one.sha256)
            for one in files.values()
        )
    )
    if not are_whole:
        raise ValueError("not records of files of one folder")
    return files


def _is_plain(name: str) -> bool:
    """Return whether a file's name leads to a place in its folder, and says so plainly on every system."""
    parts = name.split("/")
    return (
        name != MANIFEST
        and name.isprintable()
        and not re.search(r'[\\:*?"<>|]', name)
        and all(part not in ("", ".", "..") and len(part.encode()) <= 200 for part in parts)
        and len(name) <= 1000
    )


def remote_entries(root: str, found: Mapping[str, Mapping[str, Any]]) -> list[RemoteEntry]:
    """Group a listing by entries; what has no place in the layout is left out."""
    counts: dict[tuple[str, str], list[int]] = {}
    sizes: Counter[tuple[str, str]] = Counter()
    for path, row in found.items():
        match path.removeprefix(root).strip("/").split("/"):
            case [kind, key, name] if ENTRY.fullmatch(key):
                sizes[kind, key] += int(row["size"] or 0)
                if found_name := MANIFEST_NAME.fullmatch(name):
                    counts.setdefault((kind, key), []).append(int(found_name[1]))
    return [RemoteEntry(*one, max(counts.get(one, ()), default=None), sizes[one]) for one in sorted(sizes)]
