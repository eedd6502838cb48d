"""What one gate took from the store that machines share, as it happens and as reports show it.

Several gates may use one store at once, each in a thread of its own with helpers; so what happens is noted
in the context (:mod:`contextvars`) of whoever asks. A thread of a gate runs in a copy of its context.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, NamedTuple


@dataclass
class Tally:
    """What was taken from a store, by kind, and what went wrong with it, a sentence each."""

    fetched: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def took(self, kind: str) -> None:
        """Count an entry of this kind."""
        with self._lock:
            self.fetched[kind] += 1


#: The tally of the gate that runs in this context.
TALLY: ContextVar[Tally | None] = ContextVar("tenpak_store_tally", default=None)


@contextmanager
def counting() -> Iterator[Tally]:
    """Count what this context, and those copied from it, take from a store."""
    tally = Tally()
    token = TALLY.set(tally)
    try:
        yield tally
    finally:
        TALLY.reset(token)


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
