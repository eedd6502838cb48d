"""Where the cases of one run are evaluated: on this machine, one or several at once, or on others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from queue import SimpleQueue
from typing import Protocol

from ..execution.residents import Residents
from ..gate.case import Case
from ..gate.run import Run
from ..machines.device import Device
from .ahead import Show
from .cluster import Cluster

#: Cases that are followed at once on a cluster, each by a thread that mostly waits.
MOST = 256


class Places(Protocol):
    """Where cases are evaluated."""

    showing: Callable[[], AbstractContextManager[Show]]

    def open(self) -> None:
        """Find out, before any test runs, whether cases can be evaluated here; raises TenpakError."""

    def count(self, cases: int) -> int:
        """Return how many of so many cases can be evaluated at once."""

    def lane(self, case: Case) -> AbstractContextManager[Run]:
        """Open the run that a case is evaluated in, before its test."""

    def run_of(self, case: Case) -> Run:
        """Return the run that a case is evaluated in when its test asks, and that generates for it."""

    def close(self) -> None:
        """End whatever still runs."""


class Here:
    """Processes of this machine: ``jobs`` cases at once, each with its own device where there are several."""

    def __init__(
        self,
        run: Run,
        jobs: Callable[[], int],
        device_of: Callable[[int, int], Device],
        showing: Callable[[], AbstractContextManager[Show]],
    ) -> None:
        self.showing = showing
        self._run = run
        self._jobs = jobs
        self._device_of = device_of
        self._free: SimpleQueue[Run] = SimpleQueue()

    def open(self) -> None:
        """Do nothing: what a case lacks is its own."""

    def count(self, cases: int) -> int:
        """Return the number of lanes, and make them."""
        count = min(self._jobs(), cases)
        devices = [self._device_of(number, count) for number in range(count)] if count > 1 else []
        shared = len({device.torch_name for device in devices}) < count
        for device in devices:
            self._free.put(self._with(device, shared))
        return count

    def _with(self, device: Device, shared: bool) -> Run:
        return replace(self._run, choose_device=lambda: device, workers=Residents(shared))

    @contextmanager
    def lane(self, case: Case) -> Iterator[Run]:  # noqa: ARG002
        """Take a lane, and give it back afterwards."""
        run = self._free.get()
        try:
            yield run
        finally:
            self._free.put(run)

    def run_of(self, case: Case) -> Run:  # noqa: ARG002
        """Return the run itself."""
        return self._run

    def close(self) -> None:
        """End the processes that stay."""
        self._run.workers.close()
        while not self._free.empty():
            self._free.get().workers.close()


class Elsewhere:
    """The nodes of a cluster."""

    def __init__(
        self, run: Run, cluster: Cluster, jobs: int, showing: Callable[[], AbstractContextManager[Show]]
    ) -> None:
        """``jobs`` cases at once; 0: as many as there are."""
        self.showing = showing
        self._run = run
        self._cluster = cluster
        self._jobs = jobs

    def open(self) -> None:
        """Connect, and ask the nodes for their devices."""
        self._cluster.device()

    def count(self, cases: int) -> int:
        """Return how many cases are followed at once: the cluster queues their jobs."""
        return min(self._jobs or MOST, cases)

    @contextmanager
    def lane(self, case: Case) -> Iterator[Run]:
        """Open a run whose jobs ask for what the case needs."""
        yield self.run_of(case)

    def run_of(self, case: Case) -> Run:
        """Return a run whose jobs ask for what the case needs."""
        return replace(self._run, workers=self._cluster.workers(case))

    def close(self) -> None:
        """Leave the cluster."""
        self._cluster.close()
