"""An executor as the gates of one run use it: which nodes, which device, what each case asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Any

from ..errors import WorkerError
from ..execution.executor import Executor, Needs
from ..execution.order import Order
from ..execution.remote import RemoteWorkers
from ..execution.submission import Post, SubmittedFolder
from ..gate.case import Case
from ..machines.device import Device
from ..machines.on_node import DEVICE
from ..progress import ignore
from ..store.store import Store
from ..units import GIB


class Cluster:
    """An executor with those of its nodes that have one device class, of which all figures are."""

    def __init__(
        self,
        connect: Callable[[], Executor],
        store: Store,
        wanted: str,
        retries: int,
        post: Post = SubmittedFolder,
    ) -> None:
        """``connect`` opens the executor at first use; ``wanted`` is the device as the option names it.

        ``post`` puts orders where the nodes find them.
        """
        self._connect = connect
        self._store = store
        self._wanted = wanted
        self._retries = retries
        self._post = post
        self._lock = Lock()
        self._executor: Executor | None = None
        self._found: dict[str, Device] = {}

    def device(self) -> Device:
        """Return what the run is measured on: the device of most nodes, or of most of those with a GPU.

        Raises TenpakError where there is no cluster, or no such device in it.
        """
        return next(iter(self._chosen().values()))

    def workers(self, case: Case | None = None) -> RemoteWorkers:
        """Return who does the jobs of a case, with one GPU where the device is one and it names none."""
        return RemoteWorkers(self._connected, lambda: self._needs(case), self._retries, self._post)

    def _needs(self, case: Case | None) -> Needs:
        chosen = self._chosen()
        nodes = () if len(chosen) == len(self._found) else tuple(chosen)
        gpus = 0.0 if self.device().family == "cpu" else 1.0
        if case is None:
            return Needs(gpus, nodes=nodes)
        gpus = gpus if case.gpus is None else case.gpus
        return Needs(gpus, int(case.memory * GIB), case.resources, nodes)

    @property
    def classes(self) -> Mapping[str, int]:
        """How many nodes have each device class; more than one class where the cluster is mixed."""
        return Counter(device.device_class for device in self._found.values())

    def close(self) -> None:
        """Leave the cluster."""
        if self._executor is not None:
            self._executor.close()

    def _connected(self) -> Executor:
        with self._lock:
            if self._executor is None:
                self._executor = self._connect()
            return self._executor

    def _chosen(self) -> dict[str, Device]:
        """Return the nodes to use, with their devices; all nodes are asked once."""
        executor = self._connected()
        with self._lock:
            if not self._found:
                self._found = self._ask_all(executor)
        classes = self.classes
        best = max(sorted(classes), key=lambda name: (name.startswith("cuda"), classes[name]))
        return {node: device for node, device in self._found.items() if device.device_class == best}

    def _ask_all(self, executor: Executor) -> dict[str, Device]:
        """Return the device of each node, or of the one that a job lands on where nodes cannot be chosen."""
        nodes = executor.nodes()
        if self._wanted.startswith("cuda"):
            nodes = {node: gpus for node, gpus in nodes.items() if gpus}
        # Where there is none, it is left to the cluster to find one, or to add it.
        nodes = nodes or {"": float(self._wanted.startswith("cuda"))}
        with ThreadPoolExecutor(len(nodes)) as pool:
            devices = pool.map(partial(self._ask, executor), nodes, nodes.values())
            found = {node: device for node, device in zip(nodes, devices, strict=True) if device}
        if not found:
            raise WorkerError(
                "the cluster has lost every node that was asked for its device",
                given=f"{len(nodes)} of {len(nodes)}",
                remedy="look why they ended, and run again",
            )
        return found

    def _ask(self, executor: Executor, node: str, gpus: float) -> Device | None:
        """Return a node's device; None where the cluster has lost it since it was listed."""
        # A node shows its GPUs only to a job that asks for one. One that has none says so when it is asked.
        wanted = self._wanted if gpus or self._wanted.startswith("cuda") else "cpu"
        needs = Needs(0.0 if wanted == "cpu" else min(gpus, 1.0), nodes=(node,) if node else ())
        workers = RemoteWorkers(lambda: executor, lambda: needs, self._retries, self._post)
        try:
            answer: dict[str, Any] = dict(
                workers.ask(Order(DEVICE, {"wanted": wanted}, self._store.root), needs, ignore)
            )
        except WorkerError:
            if node and node not in executor.nodes():
                return None
            raise
        return Device(**{**answer, "others": tuple(answer["others"])})
