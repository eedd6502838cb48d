"""Worker processes that stay: the reference is loaded once for a run, a checkpoint once for its case.

What quantizes never measures, and each model has a process of its own, as without. A process ends when
another model of its kind is measured, when its memory is needed, or with pytest.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import WorkerError
from ..progress import Progress
from ..store.store import Store
from .jobs import AnyJob, GenerateJob, MeasureJob
from .load import loading_key
from .memory import free_bytes, needed_bytes
from .process import Bounds, NotTakenError, Worker


class _Resident(NamedTuple):
    key: tuple[str, Path | None]
    worker: Worker


class Residents:
    """The processes of one run that stay: at most one reference's and one checkpoint's.

    On a GPU that is ``shared`` with other pytest processes (xdist's workers) none stays, since these could
    not ask for its memory back.
    """

    def __init__(self, shared: bool = False) -> None:
        self._shared = shared
        #: A job begins at once.
        self.waits = False
        self.lost: tuple[str, ...] = ()
        #: By whether it has the reference.
        self._residents: dict[bool, _Resident] = {}
        #: The process of a job that needs one of its own, while it runs.
        self._passing: Worker | None = None
        self._is_closed = False
        #: How many processes were started, each of which loads one model once.
        self.started = 0

    @property
    def workers(self) -> list[Worker]:
        """The processes that stay now."""
        return [resident.worker for resident in self._residents.values()]

    def run(
        self,
        store: Store,
        job: MeasureJob | GenerateJob,
        progress: Progress,
        bounds: Bounds,
        python: Path | None,
    ) -> Mapping[str, Any]:
        """Run a job in the process that has its model loaded, or in a new one, which then stays.

        Raises what :func:`~.process.run_job` does; the process has ended then.
        """
        if self._shared and job.device != "cpu":
            return self.run_once(store, job, progress, bounds, python)
        self._require_open()
        key = loading_key(job), python
        for place, resident in self._residents.items():
            if resident.key == key and resident.worker.is_alive:
                with suppress(NotTakenError):
                    return self._do(place, job, progress, bounds)
                break
        is_reference = isinstance(job, MeasureJob) and job.is_reference
        # Another reference means other checkpoints too.
        for place in [True, False] if is_reference else [False]:
            self._end(place)
        # Of several devices the others are for what does not fit on the first one alone.
        self.make_room(job.directory, *(job.placement.devices if job.placement.spread else (job.device,)))
        self._residents[is_reference] = _Resident(key, Worker(store, python, stays=True))
        self.started += 1
        return self._do(is_reference, job, progress, bounds)

    def run_once(
        self, store: Store, job: AnyJob, progress: Progress, bounds: Bounds, python: Path | None
    ) -> Mapping[str, Any]:
        """Run a job in a process of its own; raises what :func:`~.process.run_job` does."""
        self._require_open()
        self._passing = Worker(store, python)
        try:
            return self._passing.do(job, progress, bounds)
        finally:
            self._passing = None

    def _require_open(self) -> None:
        if self._is_closed:
            raise WorkerError("the run was stopped")

    def _do(
        self, place: bool, job: MeasureJob | GenerateJob, progress: Progress, bounds: Bounds
    ) -> Mapping[str, Any]:
        worker = self._residents[place].worker
        try:
            return worker.do(job, progress, bounds)
        finally:
            if not worker.is_alive:
                self._end(place)

    def make_room(self, directory: Path, *devices: str, times: float = 1.0) -> None:
        """End all processes where the model in ``directory`` may not fit beside them on the ``devices``.

        ``times`` is what the work needs in multiples of what loading the model does.
        """
        if self._residents and sum(map(free_bytes, devices)) < times * needed_bytes(directory):
            self._end_all()

    def close(self) -> None:
        """End all processes, also those of jobs that run, and start nothing more."""
        self._is_closed = True
        self._end_all()
        if (passing := self._passing) is not None:
            passing.end()

    def _end_all(self) -> None:
        for place in list(self._residents):
            self._end(place)

    def _end(self, place: bool) -> None:
        resident = self._residents.pop(place, None)  # whoever stops the run may be another thread
        if resident is not None:
            resident.worker.end()
