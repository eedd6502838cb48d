"""List what the cache holds, or clear it; push to the store that machines share, pull from it, or list it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import pytest
from tabulate import tabulate

from ..errors import SpecError
from ..machines.shared_store import pull_entries, push_entries
from ..plugin.options import cache_store, shared_store
from ..spec import nearest
from ..store import eviction
from ..store.remote import SHARED
from ..store.remote_manifest import RemoteEntry
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
    """``list``, ``clear``, ``push`` or ``pull``, of one kind or of all."""
    parser.add_argument(
        "action",
        choices=("list", "clear", "push", "pull"),
        help="list the entries, or remove them; add them to the store, or fetch those that it has",
    )
    parser.add_argument(
        "names", nargs="*", metavar="KIND/KEY", help="what to push or pull: KIND, or KIND/KEY; default: all"
    )
    parser.add_argument("--kind", help="list or clear only this kind; default: all")
    parser.add_argument(
        "--store",
        nargs="?",
        const="",
        metavar="URL",
        help="the store to push to, pull from or list; default: that of the ini",
    )
    parser.add_argument(
        "--yes", action="store_true", help="really clear; without it, list what would be removed"
    )


def run(arguments: argparse.Namespace, config: pytest.Config) -> int:
    """Print the table, or what was freed, pushed or fetched; 1 where the store could not be used."""
    if arguments.action in ("push", "pull") or (arguments.action == "list" and arguments.store is not None):
        return _run_on_store(arguments, config)
    if arguments.names or arguments.store is not None:
        raise SpecError(
            "only push and pull take names, and clear is about the local cache", given=arguments.action
        )
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


def _run_on_store(arguments: argparse.Namespace, config: pytest.Config) -> int:
    """List, push or pull, a line each; 1 where the store could not be used, or damage was refused."""
    remote = shared_store(config, arguments.store)
    if remote is None:
        raise SpecError("no store was named", remedy="add --store URL, or set tenpak_store in the ini")
    store = cache_store(config, remote)
    print(f"store: {remote.shown}")
    if arguments.action == "list":
        print(*_listed(remote.entries(), arguments.kind), sep="\n")
    else:
        move, done = (push_entries, "pushed") if arguments.action == "push" else (pull_entries, "fetched")
        moved = 0
        for one in move(store, arguments.names):
            moved += one.moved
            if one.moved:
                print(f"{one.kind}/{one.key}: {done}", flush=True)
        print(f"{moved} {'entry' if moved == 1 else 'entries'} {done}")
    for fault in remote.faults:
        print(fault, file=sys.stderr)
    return 1 if remote.faults else 0


def _listed(entries: Sequence[RemoteEntry], kind: str | None) -> list[str]:
    rows = [
        [f"{one.kind}/{one.key}", in_gib(one.size), _state(one)]
        for one in entries
        if kind in (None, one.kind)
    ]
    rows.append(["total", in_gib(sum(one.size for one in entries if kind in (None, one.kind))), ""])
    return tabulate(rows, ("entry", "size", ""), disable_numparse=True).splitlines()


def _state(entry: RemoteEntry) -> str:
    if entry.length is not None:
        return ""
    return "not whole" if entry.kind in SHARED else "files that jobs read"


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
