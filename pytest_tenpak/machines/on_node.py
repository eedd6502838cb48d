"""The other machine's side of a job: do the order in a folder, or in the store, and reply.

The job gets a process of its own here too, with the same bounds, and its end is explained in the same words.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from ..errors import ModelError, TenpakError, UnavailableError
from ..execution.carried import Arrival, is_address
from ..execution.carrier import Carrier
from ..execution.job_folder import report_progress
from ..execution.jobs import AnyJob, job_from, sources
from ..execution.order import REPLY, STARTED, Order
from ..execution.process import run_job
from ..models.locate import own_copy
from ..progress import Progress
from ..quantizers.interpreters import installed_versions
from ..store.atomic import write_atomically
from ..store.store import Store
from .device import choose_device
from .shared_store import open_objects

#: The kind of the order that asks what a machine measures on, which needs no process.
DEVICE = "device"
#: Names the folder of the cache on a machine to which jobs travel; the user's own without it.
_CACHE_VARIABLE = "TENPAK_CACHE_DIR"


def main(argument: str) -> str:
    """Do the order that a submission's ``argument`` names; return why it cannot be begun, else nothing.

    An error of the job that a user can fix is replied, any other ends in a traceback.
    """
    url, _, address = argument.rpartition("#")
    if is_address(address):
        return _do_carried(url, address)
    folder = Path(argument)
    if not folder.is_dir():
        return f"{socket.gethostname()} does not see {folder}"
    order = Order.read(folder)
    (folder / STARTED).touch()
    reply = _reply(lambda: order, partial(report_progress, folder))
    write_atomically(folder / REPLY, json.dumps(reply))
    return ""


def _do_carried(url: str, address: str) -> str:
    """Do an order that came through the store."""
    try:
        arrival = Arrival(address, Carrier(open_objects(url), url), _own_cache())
        try:
            arrival.reply(_reply(arrival.unpack, arrival.progress))
        except TenpakError as error:  # what was made cannot be sent
            arrival.reply({"error": _from_here(error).to_dict()})
        finally:
            arrival.close()
    except TenpakError as error:  # of which no reply can tell
        return f"on {socket.gethostname()}, {error.problem}: {error.given}"
    return ""


def _own_cache() -> Path:
    """Return the cache of a machine that shares none with the pytest process."""
    named = os.environ.get(_CACHE_VARIABLE)
    return Path(named) if named else user_cache_path("pytest-tenpak")


def _reply(find: Callable[[], Order], progress: Progress) -> dict[str, Any]:
    try:
        return {"answer": _answer(find(), progress)}
    except TenpakError as error:
        return {"error": _from_here(error).to_dict()}


def _answer(order: Order, progress: Progress) -> Mapping[str, Any]:
    _require_same(order.versions)
    store = Store(order.root)
    if order.kind == DEVICE:
        return asdict(choose_device(order.job["wanted"], store))
    job = _with_models(order)
    return run_job(store, job, progress, order.bounds, order.python)


def _require_same(versions: Mapping[str, str]) -> None:
    """Raise UnavailableError where libraries differ from those whose versions the run reports."""
    here = installed_versions()
    if differing := sorted({*versions.items()} ^ {*here.items()}):
        names = sorted({name for name, _ in differing})
        raise UnavailableError(
            "a machine that should run a job has other libraries than the pytest process",
            given=", ".join(f"{name} {here.get(name, 'not installed')}" for name in names),
            accepted=", ".join(f"{name} {versions.get(name, 'not installed')}" for name in names),
            remedy="install the same versions there: figures of others cannot be compared",
        )


def _with_models(order: Order) -> AnyJob:
    """Return the job, with this machine's own copies of models of the hub where it does not see the other's.

    Raises ModelError for a model or a checkpoint that this machine does not see.
    """
    job, own = job_from(order.kind, order.job), {}
    for path in sources(job):
        if path.exists():
            continue
        found = own_copy(path)
        if found is None:
            raise ModelError(
                "a machine that should run a job does not see the model",
                given=f"{path} does not exist there",
                accepted="a path that all machines see, a model in the cache, which they share, or a hub id",
                remedy="copy the model to a file system that they share, and name it there; "
                "or let it travel: --tenpak-transport=store",
            )
        own[str(path)] = found
    return job_from(order.kind, order.with_paths(own).job) if own else job


def _from_here(error: TenpakError) -> TenpakError:
    """Add the machine's name to what an error says was given."""
    error.given = f"{error.given or ''}\n    on {socket.gethostname()}".strip()
    return error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) or None)
