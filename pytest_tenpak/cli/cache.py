"""List what the cache holds by kind, or clear it."""

from __future__ import annotations

import argparse

import pytest
from tabulate import tabulate

from ..errors import SpecError
from ..plugin.options import cache_store
from ..spec import nearest
from ..store import eviction
from ..store.store import Store
from ..units import in_gib

#: A description of each kind; those of plugins have none.
_KINDS = {
    "checkpoints": "quantized models",
    "devices": "what the machine has",
    "digests": "digests of files",
    "jobs": "logs of failed workers",
    "models": "models that were converted or saved",
    "overlaps": "comparisons of calibration texts and corpora",
    "texts": "texts that jobs read",
    "tokens": "token ids of texts",
    "traces": "measured windows",
    "weights": "digests of weights",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``list`` or ``clear``, of one kind or of all."""
    parser.add_argument("action", choices=("list", "clear"), help="list the entries, or remove them")
    parser.add_argument("--kind", help="only this kind; default: all")
    parser.add_argument(
        "--yes", action="store_true", help="really clear; without it, list what would be removed"
    )


def run(arguments: argparse.Namespace, config: pytest.Config) -> int:
    """Print the table, or what was freed; entries that a running process uses stay."""
    store = cache_store(config)
    sizes = eviction.sizes(store.root)
    kinds = list(sizes)
    if arguments.kind is not None:
        if arguments.kind not in sizes:
            raise SpecError(
                f"the cache holds no kind {arguments.kind!r}{nearest(arguments.kind, kinds)}",
                given=f"--kind {arguments.kind}",
                accepted=", ".join(kinds) or f"none: {store.root} is empty",
            )
        kinds = [arguments.kind]
    print(f"cache: {store.root}{'' if kinds else ' (empty)'}")
    if arguments.action == "list":
        print(*_table(store, {kind: sizes[kind] for kind in kinds}), sep="\n")
    elif not arguments.yes:
        print(*_table(store, {kind: sizes[kind] for kind in kinds}), sep="\n")
        print("nothing was removed: --yes removes these, except for entries that a running pytest uses")
    else:
        print(*(_cleared(store, kind) for kind in kinds), sep="\n")
    return 0


def _table(store: Store, sizes: dict[str, int]) -> list[str]:
    rows = [
        [kind, len(eviction.entries(store.root, kind)), in_gib(size), _KINDS.get(kind, "")]
        for kind, size in sizes.items()
    ]
    count = sum(len(eviction.entries(store.root, kind)) for kind in sizes)
    rows.append(["total", count, in_gib(sum(sizes.values())), ""])
    return tabulate(rows, ("kind", "entries", "size", "what"), disable_numparse=True).splitlines()


def _cleared(store: Store, kind: str) -> str:
    freed, kept = eviction.clear(store.root, kind)
    stays = f"; {kept} {'entry stays' if kept == 1 else 'entries stay'}, in use by a running process"
    return f"{kind}: {in_gib(freed)} freed{stays if kept else ''}"
