"""What one gate took from the store that machines share, as reports show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class StoreUse(NamedTuple):
    """What was taken from the store ``url`` (without secrets), by kind, and what went wrong with it."""

    url: str
    fetched: Mapping[str, int]
    faults: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form."""
        return {"url": self.url, "fetched": dict(self.fetched), "faults": list(self.faults)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> StoreUse:
        """Return what :meth:`to_dict` wrote."""
        return cls(plain["url"], dict(plain["fetched"]), tuple(plain["faults"]))
