"""Files cut into pieces of bounded size, each to be carried alone, and joined again; verified by digest.

Every piece is a folder with ``manifest.json``, which is the same in all of them and names every part of every
file. Needs the standard library alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MANIFEST = "manifest.json"
_BLOCK = 1 << 20


class PieceError(Exception):
    """A part is missing, or is not what was packed."""


@dataclass(frozen=True)
class Part:
    """A stretch of a file: its name in its piece, bytes, SHA-256."""

    piece: str
    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Whole:
    """A file as it was packed, and its parts in order."""

    name: str
    size: int
    sha256: str
    parts: tuple[Part, ...]


def cut(files: Sequence[Path], out: Path, limit: int, with_each: Sequence[Path] = ()) -> list[Path]:
    """Lay ``files`` end to end, cut them every ``limit`` bytes, and write folders ``piece-N`` in ``out``.

    ``with_each`` are files and folders that every piece holds as they are; they and the manifest count
    towards the limit. Raises ValueError where these leave no room.
    """
    taken = sum(map(_size, with_each)) + 1024 * (len(files) + 64)  # the manifest, on the safe side
    room = limit - taken
    if room < limit // 2:
        raise ValueError(f"{taken:,} of {limit:,} bytes are in every piece: raise the limit")
    wholes: list[Whole] = []
    number, left = 1, room
    for file in files:
        parts: list[Part] = []
        with file.open("rb") as stream:
            size = file.stat().st_size
            while not parts or stream.tell() < size:
                if not left:
                    number, left = number + 1, room
                parts.append(_write_part(stream, out / f"piece-{number}", file.name, len(parts) + 1, left))
                left -= parts[-1].size
        wholes.append(Whole(file.name, size, digest(file), tuple(parts)))
    pieces = [out / f"piece-{n}" for n in range(1, number + 1)]
    for piece in pieces:
        (piece / MANIFEST).write_text(json.dumps([asdict(one) for one in wholes]), encoding="utf-8")
        for given in with_each:
            _copy(given, piece / given.name)
    return pieces


def _write_part(stream: object, piece: Path, name: str, number: int, most: int) -> Part:
    piece.mkdir(parents=True, exist_ok=True)
    path = piece / f"{name}.part-{number}"
    with path.open("wb") as out:
        while most and (block := stream.read(min(most, _BLOCK))):  # type: ignore[attr-defined]
            out.write(block)
            most -= len(block)
    return Part(piece.name, path.name, path.stat().st_size, digest(path))


def _size(path: Path) -> int:
    return sum(one.stat().st_size for one in ([path] if path.is_file() else path.rglob("*")) if one.is_file())


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    else:
        shutil.copyfile(source, target)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(piece: Path) -> list[Whole]:
    """Read what was packed; raises PieceError for a folder that is no piece."""
    try:
        plain = json.loads((piece / MANIFEST).read_text(encoding="utf-8"))
        return [Whole(**{**one, "parts": tuple(Part(**part) for part in one["parts"])}) for one in plain]
    except (OSError, ValueError, TypeError, KeyError) as fault:
        raise PieceError(f"{piece} is no piece of a kit: {fault}") from fault


def missing(wholes: Sequence[Whole], folders: Sequence[Path]) -> list[str]:
    """Return the names of the pieces of which a part is in none of the folders."""
    lacking = {part.piece for whole in wholes for part in whole.parts if _find(part, folders) is None}
    return sorted(lacking, key=lambda name: (len(name), name))


def receive(piece: Path, store: Path) -> None:
    """Copy the parts that a piece holds to a folder, so that the piece may go; raises PieceError."""
    store.mkdir(parents=True, exist_ok=True)
    for part in (part for whole in read_manifest(piece) for part in whole.parts if part.piece == piece.name):
        source = piece / part.name
        if not source.is_file() or (digest(source) != part.sha256):
            raise PieceError(f"{source} is missing, or not what was packed")
        shutil.copyfile(source, store / part.name)


def join(wholes: Sequence[Whole], folders: Sequence[Path], out: Path) -> list[Path]:
    """Put the files together in ``out`` from parts in any of the folders; those that are there stay.

    Raises PieceError where a part is missing or a digest is another than was packed.
    """
    if lacking := missing(wholes, folders):
        raise PieceError(f"missing: {', '.join(lacking)}")
    out.mkdir(parents=True, exist_ok=True)
    return [_join(whole, folders, out / whole.name) for whole in wholes]


def _join(whole: Whole, folders: Sequence[Path], path: Path) -> Path:
    if path.is_file() and path.stat().st_size == whole.size and digest(path) == whole.sha256:
        return path
    half = path.with_name(f"{path.name}.half")
    with half.open("wb") as out:
        for part in whole.parts:
            out.writelines(_blocks(part, folders))
    if digest(half) != whole.sha256:
        raise PieceError(f"{whole.name} is not what was packed, although its parts are")
    return half.replace(path)


def _blocks(part: Part, folders: Sequence[Path]) -> Iterator[bytes]:
    source = _find(part, folders)
    assert source is not None
    if digest(source) != part.sha256:
        raise PieceError(f"{source} is not what was packed: carry {part.piece} again")
    with source.open("rb") as stream:
        while block := stream.read(_BLOCK):
            yield block


def _find(part: Part, folders: Sequence[Path]) -> Path | None:
    return next((path for folder in folders if (path := folder / part.name).is_file()), None)
