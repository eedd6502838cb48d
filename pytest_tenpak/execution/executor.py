"""Who runs jobs: what the gate asks for, and the three verbs of a place where jobs can run.

The local processes are :mod:`.residents`; :mod:`.ray` and :mod:`.command` are executors for other machines,
and others register theirs by a hook. Scheduling, placement and transport are theirs, not ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..progress import Progress
from ..store.store import Store
from .jobs import AnyJob, GenerateJob, MeasureJob
from .process import Bounds
from .submission import Submission


class Workers(Protocol):
    """What a gate needs of whoever does its jobs."""

    @property
    def waits(self) -> bool:
        """Whether a job was handed over that nobody has begun yet."""

    @property
    def lost(self) -> Sequence[str]:
        """Which jobs were lost with their machine, and begun again."""

    def run(
        self,
        store: Store,
        job: MeasureJob | GenerateJob,
        progress: Progress,
        bounds: Bounds,
        python: Path | None,
    ) -> Mapping[str, Any]:
        """Do a job whose model others will want too, and return its answer; raises TenpakError."""

    def run_once(
        self, store: Store, job: AnyJob, progress: Progress, bounds: Bounds, python: Path | None
    ) -> Mapping[str, Any]:
        """Do a job in a process of its own, and return its answer; raises TenpakError."""

    def make_room(self, directory: Path, *devices: str, times: float = 1.0) -> None:
        """Give back memory where the model in ``directory``, ``times`` over, would not fit beside it."""

    def close(self) -> None:
        """End everything that runs, and start nothing more."""


@dataclass(frozen=True)
class Needs:
    """What a job asks for: GPUs, bytes of memory, and resources that the cluster has names for.

    ``nodes`` are those that it may run on, by the executor's ids; none means any.
    """

    gpus: float = 0
    memory: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()


class State(Enum):
    """Where a submitted job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    LOST = "lost"
    FAILED = "failed"


class Standing(NamedTuple):
    """A state; for ``lost``, which may be tried again, and ``failed``, which may not, the reason."""

    state: State
    why: str = ""


class Executor(Protocol):
    """A place where jobs run: submit, poll, cancel.

    A job is run by ``python -m pytest_tenpak.machines.on_node ARGUMENT`` with the ``argument`` of its
    submission, or by ``on_node.main(ARGUMENT)`` where Python runs already, which returns why the job cannot
    be begun, if so. It is ``done`` once there is a reply.
    """

    def submit(self, job: Submission, needs: Needs) -> Any:
        """Begin a job, and return a ticket."""

    def poll(self, ticket: Any, seconds: float) -> Standing:
        """Return where a job stands, after ``seconds`` at most where it is not done before.

        Raises TenpakError where it can never run.
        """

    def cancel(self, ticket: Any) -> None:
        """End a job, begun or not."""

    def nodes(self) -> Mapping[str, float]:
        """Return the number of GPUs of each node, by its id; none where nodes cannot be chosen."""

    def close(self) -> None:
        """Leave the place as it was."""
