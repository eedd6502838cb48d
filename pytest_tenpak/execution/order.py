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
    #: The libraries of the process that wrote it, whose versions it reports.
    versions: Mapping[str, str] = field(default_factory=installed_versions)

    def write(self) -> Path:
        """Write the order to a new folder of the cache, and return that."""
        folder = self.root / "jobs" / f"order-{self.kind}-{uuid.uuid4().hex[:12]}"
        folder.mkdir(parents=True)
        plain = {
            "kind": self.kind,
            "job": self.job,
            "root": str(self.root),
            "bounds": asdict(self.bounds),
            "python": str(self.python) if self.python else None,
            "versions": dict(self.versions),
            **owner(),
        }
        write_atomically(folder / ORDER, json.dumps(plain))
        return folder

    @classmethod
    def read(cls, folder: Path) -> Order:
        """Read the order in a folder."""
        plain = json.loads((folder / ORDER).read_text(encoding="utf-8"))
        python = Path(plain["python"]) if plain["python"] else None
        bounds = Bounds(**plain["bounds"])
        return cls(plain["kind"], plain["job"], Path(plain["root"]), bounds, python, plain["versions"])
