"""Safetensors files on disk, read by their headers: names, shapes, bytes, digests. No torch.

The layout is that of the safetensors format: eight bytes of header length (little endian), a JSON
header with ``dtype``, ``shape`` and ``data_offsets`` per tensor, then the tensors' bytes.

Headers are parsed by hand because the safetensors library neither says what is wrong with a damaged file nor
where in a file a tensor's bytes are, which is all that a digest and a ledger need.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError

_CHUNK = 1 << 22
#: The file that says which shard holds which tensor.
INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file: its type, its shape, and the position of its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Stored bytes."""
        return self.stop - self.start

    @property
    def numel(self) -> int:
        """Number of elements (1 for a scalar)."""
        return math.prod(self.shape)

    def chunks(self) -> Iterator[bytes]:
        """Yield the stored bytes, a few MiB at a time."""
        with self.path.open("rb") as stream:
            stream.seek(self.start)
            for offset in range(0, self.size, _CHUNK):
                yield stream.read(min(_CHUNK, self.size - offset))


def shape_words(shape: Collection[int]) -> str:
    """Return a shape for a message: ``64×32``."""
    return "×".join(map(str, shape)) or "a number"


def weight_files(directory: Path) -> list[Path]:
    """List the safetensors files that a loader reads from a checkpoint directory, sorted by name.

    That is model.safetensors, else what the index names; other files beside them are not loaded. Without
    either, every safetensors file: some libraries have names of their own. Raises CheckpointError where there
    are none, since other formats can run code on loading and are not read, and for an index or shards that
    are not complete.
    """
    single, index = directory / "model.safetensors", directory / INDEX
    if single.is_file():
        return [single]
    if index.is_file():
        return [directory / name for name in sorted(set(_weight_map(index).values()))]
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        others = sorted(path.name for suffix in ("bin", "pt") for path in directory.glob(f"*.{suffix}"))
        raise CheckpointError(
            f"no weights in {directory}",
            given=", ".join(others) or "no *.safetensors file",
            accepted="*.safetensors",
            remedy="save the model with save_pretrained(), which writes safetensors",
        )
    if any(_SHARD.search(path.name) for path in files):
        raise CheckpointError(
            f"the checkpoint in {directory} has shards, but no {INDEX}, which says what is in them",
            given=", ".join(path.name for path in files[:4]) + (" …" if len(files) > 4 else ""),
            remedy=f"copy or download {INDEX} too, or save the model again",
        )
    return files


def _weight_map(index: Path) -> dict[str, str]:
    """Read an index: the file of each tensor. Raises CheckpointError where it cannot be read."""
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not all(isinstance(one, str) for row in named.items() for one in row) or not named:
            raise ValueError("weight_map has to map names of tensors to names of files")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as fault:
        raise CheckpointError(
            f"{index} cannot be read",
            given=str(fault)[:200],
            accepted='a JSON object with "weight_map": the file of each tensor',
            remedy="copy, download or quantize the checkpoint again",
        ) from None
    return dict(named)


def read_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Read every tensor that a loader reads of a checkpoint directory by name, from the headers alone.

    Raises CheckpointError for a file that is damaged, is shorter than its header says, or is missing
    although the index names it, and for an index that contradicts the files.
    """
    files = weight_files(directory)
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"a shard of the checkpoint in {directory} is missing",
            given=", ".join(missing),
            remedy="copy or quantize the checkpoint again",
        )
    tensors = [tensor for path in files for tensor in _read_header(path)]
    if (directory / INDEX).is_file() and files != [directory / "model.safetensors"]:
        _require_agreement(directory, tensors)
    return {tensor.name: tensor for tensor in tensors}


def _require_agreement(directory: Path, tensors: list[StoredTensor]) -> None:
    """Raise CheckpointError unless index and shards name the same tensors: some loaders go by either."""
    named = set(_weight_map(directory / INDEX).items())
    stored = {(tensor.name, tensor.path.name) for tensor in tensors}
    unread = {path.name for path in directory.glob("*.safetensors") if _SHARD.search(path.name)}
    unread -= {name for _, name in named}
    faults = [
        *(f"{name} is not in {file}, where the index has it" for name, file in sorted(named - stored)),
        *(f"{name} is in {file}, but not in the index" for name, file in sorted(stored - named)),
        *(f"no tensor of {file} is in the index" for file in sorted(unread)),
    ]
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise CheckpointError(
            f"the index of the checkpoint in {directory} contradicts its shards",
            given="; ".join(faults[:3]) + more,
            accepted=f"an {INDEX} that names every tensor with the file that holds it",
            remedy="copy, download or quantize the checkpoint again",
        )


def _read_header(path: Path) -> list[StoredTensor]:
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > size - 8:
                raise ValueError("the header is cut off")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        base = 8 + length
        tensors = [
            StoredTensor(
                name, row["dtype"], tuple(row["shape"]), path, *(base + o for o in row["data_offsets"])
            )
            for name, row in header.items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise _damaged(path, f"its header cannot be read ({fault})") from None
    end = max((tensor.stop for tensor in tensors), default=base)
    if end != size:
        raise _damaged(path, f"{size:,} bytes on disk, but {end:,} by its header")
    return tensors


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path.name} is truncated or damaged",
        given=f"{path}: {what}",
        accepted="a whole safetensors file",
        remedy="copy, download or quantize the checkpoint again",
    )


def weights_digest(directory: Path) -> str:
    """Return the SHA-256 over name, type, shape and bytes of every tensor, in order of name.

    The same weights give the same digest however they are split into files or ordered within them.
    """
    sha = hashlib.sha256()
    for name, tensor in sorted(read_tensors(directory).items()):
        sha.update(json.dumps([name, tensor.dtype, tensor.shape]).encode())
        for chunk in tensor.chunks():
            sha.update(chunk)
    return sha.hexdigest()
