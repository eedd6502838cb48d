"""A job as a folder that another machine reads: ``order.json`` in, progress and ``reply.json`` out."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..quantizers.interpreters import installed_versions
from ..store.atomic import write_atomically
from ..store.layout import owner
from .process import Bounds

ORDER, REPLY, STARTED = "order.json", "reply.json", "started"


@dataclass(frozen=True)
class Order:
    """What to do: a job's kind and plain fields, its bounds and interpreter, and the cache's folder."""

    kind: str
    job: Mapping[str, Any]
    root: Path
    bounds: Bounds = field(default_factory=Bounds)
    python: Path | None = None
    #: What the job reads, and the folders that it adds to.
    reads: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()
    #: The libraries of the process that wrote it, whose versions it reports.
    versions: Mapping[str, str] = field(default_factory=installed_versions)

    def write(self) -> Path:
        """Write the order to a new folder of the cache, and return that."""
        folder = self.root / "jobs" / f"order-{self.kind}-{uuid.uuid4().hex[:12]}"
        folder.mkdir(parents=True)
        write_atomically(folder / ORDER, json.dumps({**self.to_dict(), **owner()}))
        return folder

    def with_paths(self, places: Mapping[str, Path]) -> Order:
        """Return the order with paths of another machine in place of those of this one."""

        def replaced(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: replaced(one) for name, one in value.items()}
            if isinstance(value, list):
                return [replaced(one) for one in value]
            return str(places.get(value, value)) if isinstance(value, str) else value

        return Order.from_dict(replaced(self.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form."""
        return {
            "kind": self.kind,
            "job": self.job,
            "root": str(self.root),
            "bounds": asdict(self.bounds),
            "python": str(self.python) if self.python else None,
            "reads": [str(path) for path in self.reads],
            "writes": [str(path) for path in self.writes],
            "versions": dict(self.versions),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Order:
        """Return the order that :meth:`to_dict` wrote."""
        return cls(
            kind=plain["kind"],
            job=plain["job"],
            root=Path(plain["root"]),
            bounds=Bounds(**plain["bounds"]),
            python=Path(plain["python"]) if plain["python"] else None,
            reads=tuple(map(Path, plain["reads"])),
            writes=tuple(map(Path, plain["writes"])),
            versions=plain["versions"],
        )

    @classmethod
    def read(cls, folder: Path) -> Order:
        """Read the order in a folder."""
        return cls.from_dict(json.loads((folder / ORDER).read_text(encoding="utf-8")))
