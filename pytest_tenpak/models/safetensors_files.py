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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError

_CHUNK = 1 << 22


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


def weight_files(directory: Path) -> list[Path]:
    """List the safetensors files of a checkpoint directory, sorted by name.

    Raises CheckpointError when there are none: other formats can run code on loading and are not read.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        others = sorted(p.name for p in directory.glob("*.bin")) + sorted(
            p.name for p in directory.glob("*.pt")
        )
        raise CheckpointError(
            f"no weights in {directory}",
            given=", ".join(others) or "no *.safetensors file",
            accepted="*.safetensors",
            remedy="save the model with save_pretrained(), which writes safetensors",
        )
    return files


def read_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Read every tensor of a checkpoint directory by name, from the files' headers alone.

    Raises CheckpointError for a file that is damaged, is shorter than its header says, or is missing
    although the index names it.
    """
    files = weight_files(directory)
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        named = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        missing = sorted(named - {path.name for path in files})
        if missing:
            raise CheckpointError(
                f"a shard of the checkpoint in {directory} is missing",
                given=", ".join(missing),
                remedy="copy or quantize the checkpoint again",
            )
    return {tensor.name: tensor for path in files for tensor in _read_header(path)}


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
