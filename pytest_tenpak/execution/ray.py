"""An executor on a Ray cluster: placement, queueing and transport are Ray's.

A task runs in one of Ray's workers, which stays for the next one; the job itself has a process of its own
there, with the same bounds and the same errors as on one machine.
"""

from __future__ import annotations

import importlib
import os
import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from ..errors import UnavailableError, WorkerError
from ..units import in_gib
from .executor import Needs, Standing, State
from .submission import Submission

_CONNECT_SECONDS = 10
#: How often a head is asked for a sign of life, and after how much silence it counts as gone.
_ASK_SECONDS, _GONE_SECONDS = 2, 40
#: After this long without a head Ray ends pytest's process, without a word: later than we say it.
_RAY_PATIENCE = ("RAY_gcs_rpc_server_reconnect_timeout_s", "600")


@dataclass
class _Ticket:
    task: Any
    job: Submission
    needs: Needs
    since: float = field(default_factory=time.monotonic)
    #: Whether a node was found that can run it.
    is_possible: bool = False


class _Head:
    """The head of a cluster, asked by a connection now and then whether it is still there."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._asked = time.monotonic()
        self._silent_since: float | None = None
        self._asking = threading.Lock()

    @property
    def is_gone(self) -> bool:
        """Whether it has not answered for too long."""
        if time.monotonic() - self._asked > _ASK_SECONDS and self._asking.acquire(blocking=False):
            try:
                _require_listening(self._address)
                self._silent_since = None
            except OSError:
                self._silent_since = self._silent_since or time.monotonic()
            finally:
                self._asked = time.monotonic()
                self._asking.release()
        since = self._silent_since
        return since is not None and time.monotonic() - since > _GONE_SECONDS


def do(entry: str, argument: str) -> str:
    """Do a job by the module ``entry``, in a worker of Ray; return why it cannot be begun, if so."""
    fault: str = importlib.import_module(entry).main(argument)
    return fault


class RayExecutor:
    """Submits jobs as tasks of a Ray cluster."""

    def __init__(self, address: str, entry: str, patience: float) -> None:
        """Connect to the cluster at ``address`` (``auto``, ``HOST:PORT``, ``ray://HOST:PORT``).

        What no node can run waits ``patience`` seconds for one that can: a cluster may grow.
        Raises UnavailableError where Ray is not installed or there is no cluster.
        """
        os.environ.setdefault(*_RAY_PATIENCE)
        try:
            import ray
        except ImportError:
            raise UnavailableError(
                "--tenpak-executor=ray needs Ray, which is not installed",
                remedy="pip install 'pytest-tenpak[ray]'",
            ) from None
        self._ray = ray
        self._entry = entry
        self._patience = patience
        self._began_here = not ray.is_initialized()
        try:
            if self._began_here:
                _require_listening(address)
                ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError, OSError) as fault:
            raise UnavailableError(
                "there is no Ray cluster to connect to",
                given=f"--tenpak-ray-address={address}: {str(fault).splitlines()[0][:200]}",
                accepted="auto (the cluster that this machine is in), HOST:PORT, or ray://HOST:PORT",
                remedy="start one with ray start --head, or correct the address",
            ) from None
        self._head = _Head(address if "://" in address else ray.get_runtime_context().gcs_address)
        self._turns: dict[tuple[str, ...], cycle[str]] = {}
        self._do = ray.remote(max_retries=0)(do)

    def submit(self, job: Submission, needs: Needs) -> _Ticket:
        """Submit a job as a task; raises WorkerError where the cluster is gone."""
        self._require_head()
        options: dict[str, Any] = {"num_cpus": 1, "name": f"tenpak {job.name}"}
        if needs.gpus:
            options["num_gpus"] = needs.gpus
        if needs.memory:
            options["memory"] = needs.memory
        if needs.resources:
            options["resources"] = dict(needs.resources)
        if needs.nodes:
            options["scheduling_strategy"] = self._on(needs.nodes)
        return _Ticket(self._do.options(**options).remote(self._entry, job.argument), job, needs)

    def _require_head(self) -> None:
        if self._head.is_gone:
            raise WorkerError(
                "the Ray cluster is gone",
                given=f"its head has not answered for {_GONE_SECONDS} s",
                remedy="look why the head ended; what was measured is in the cache, and the next run goes on",
            )

    def _on(self, nodes: tuple[str, ...]) -> Any:
        """Return the strategy that puts a task on the next of the nodes that are alive."""
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        alive = {node["NodeID"] for node in self._alive()}
        turns = self._turns.setdefault(nodes, cycle(nodes))
        node = next((node for _ in nodes if (node := next(turns)) in alive), nodes[0])
        return strategies.NodeAffinitySchedulingStrategy(node, soft=False)

    def _require_possible(self, ticket: _Ticket) -> None:
        """Raise UnavailableError where no node can run a job that has waited long enough for one.

        The job is queued meanwhile: that is what an autoscaler adds nodes for.
        """
        needs = ticket.needs
        wanted = {"CPU": 1.0, "GPU": needs.gpus, "memory": float(needs.memory), **needs.resources}
        rows = [
            node["Resources"] for node in self._alive() if not needs.nodes or node["NodeID"] in needs.nodes
        ]
        ticket.is_possible = any(
            all(row.get(name, 0) >= count for name, count in wanted.items()) for row in rows
        )
        if ticket.is_possible or time.monotonic() - ticket.since < self._patience:
            return
        raise UnavailableError(
            "no node of the Ray cluster can run this job",
            given=f"it needs {_words(wanted)}, and has waited for {self._patience:.0f} s",
            accepted="; ".join(sorted({_words(row) for row in rows})) or "no node is alive",
            remedy="lower gpus=, memory= or resources= in the marker, or add a node that has them; "
            "where an autoscaler adds it, raise --tenpak-ray-wait",
        )

    def _alive(self) -> list[dict[str, Any]]:
        """Return the nodes; raises WorkerError where the head is gone, for which Ray would wait longer."""
        answer: Future[list[dict[str, Any]]] = Future()

        def ask() -> None:
            try:
                answer.set_result(self._ray.nodes())
            except BaseException as fault:
                answer.set_exception(fault)

        threading.Thread(target=ask, daemon=True, name="tenpak-nodes").start()
        while not wait([answer], timeout=1).done:
            self._require_head()
        return [node for node in answer.result() if node["Alive"]]

    def poll(self, ticket: _Ticket, seconds: float) -> Standing:
        """Return where the task stands.

        Raises UnavailableError where no node could ever run it, WorkerError where the cluster is gone.
        """
        errors = self._ray.exceptions
        done, _ = self._ray.wait([ticket.task], timeout=seconds)
        if not done:
            self._require_head()
            if not ticket.is_possible:
                self._require_possible(ticket)
            return Standing(State.RUNNING if ticket.job.has_begun() else State.QUEUED)
        try:
            fault = self._ray.get(ticket.task)
        except errors.OutOfMemoryError as error:
            return Standing(State.FAILED, f"ran out of memory: {_first_line(error)}")
        except (
            errors.WorkerCrashedError,
            errors.NodeDiedError,
            errors.RaySystemError,
            errors.TaskUnschedulableError,
        ) as error:
            return Standing(State.LOST, f"{type(error).__name__}: {_first_line(error)}")
        except errors.RayError as error:
            return Standing(State.FAILED, f"{type(error).__name__}: {str(error)[-600:]}")
        if fault:
            raise WorkerError(
                "a node of the Ray cluster cannot begin a job",
                given=fault,
                accepted="a cache that all nodes see under the same path, or a store that all can use",
                remedy="set --tenpak-cache-dir to a folder on a file system that they share; "
                "or let jobs travel: --tenpak-transport=store",
            )
        return Standing(State.DONE if ticket.job.has_reply() else State.FAILED)

    def cancel(self, ticket: _Ticket) -> None:
        """End the task and its process."""
        if not self._head.is_gone:
            self._ray.cancel(ticket.task, force=True)

    def nodes(self) -> Mapping[str, float]:
        """Return the number of GPUs of each node that is alive and runs jobs: often the head does not."""
        return {
            node["NodeID"]: node["Resources"].get("GPU", 0.0)
            for node in self._alive()
            if node["Resources"].get("CPU", 0.0) >= 1
        }

    def close(self) -> None:
        """Leave the cluster, with all tasks of this run."""
        if self._began_here:
            self._ray.shutdown()


def _require_listening(address: str) -> None:
    """Raise OSError where nothing listens at the address: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()


def _words(resources: dict[str, float]) -> str:
    """Word resources, without those that only name a node."""
    words = []
    for name, count in sorted(resources.items()):
        if count and not name.startswith("node:") and name != "object_store_memory":
            words.append(f"{in_gib(int(count))} of memory" if name == "memory" else f"{count:g} {name}")
    return ", ".join(words) or "nothing"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[
        :300
    ]
