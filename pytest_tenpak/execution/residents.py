"""Worker processes that stay: the reference is loaded once for a run, a checkpoint once for its case.

What quantizes never measures, and each model has a process of its own, as without. A process ends when
another model of its kind is measured, when its memory is needed, or with pytest.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..progress import Progress
from ..store.store import Store
from .jobs import GenerateJob, MeasureJob
from .load import loading_key
from .memory import free_bytes, needed_bytes
from .process import Bounds, NotTakenError, Worker, run_job

_Key = tuple[str, Path | None]


class Residents:
    """The processes of one run that stay: at most one reference's and one checkpoint's.

    On a GPU that is ``shared`` with other pytest processes (xdist's workers) none stays, since these could
    not ask for its memory back.
    """

    def __init__(self, shared: bool = False) -> None:
        self._shared = shared
        self._workers: dict[_Key, Worker] = {}
        self._references: set[_Key] = set()
        #: How many processes were started, each of which loads one model once.
        self.started = 0

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
            return run_job(store, job, progress, bounds, python)
        key = loading_key(job), python
        worker = self._workers.get(key)
        if worker is not None and worker.is_alive:
            with suppress(NotTakenError):
                return self._do(key, job, progress, bounds)
        self._make_place(key, job)
        self._workers[key] = Worker(store, python, stays=True)
        self.started += 1
        return self._do(key, job, progress, bounds)

    def _do(
        self, key: _Key, job: MeasureJob | GenerateJob, progress: Progress, bounds: Bounds
    ) -> Mapping[str, Any]:
        worker = self._workers[key]
        try:
            return worker.do(job, progress, bounds)
        finally:
            if not worker.is_alive:
                self._end(key)

    def _make_place(self, key: _Key, job: MeasureJob | GenerateJob) -> None:
        """End the processes of other models of this kind, and all others where memory is short."""
        is_reference = isinstance(job, MeasureJob) and job.is_reference
        for other in list(self._workers):
            if is_reference or other not in self._references or other == key:
                self._end(other)
        if is_reference:
            self._references.add(key)
        self.make_room(job.directory, job.device)

    def make_room(self, directory: Path, device: str, times: float = 1.0) -> None:
        """End all processes where the model in ``directory`` may not fit beside them.

        ``times`` is what the work needs in multiples of what loading the model does.
        """
        if self._workers and free_bytes(device) < times * needed_bytes(directory):
            self.close()

    def close(self) -> None:
        """End all processes."""
        for key in list(self._workers):
            self._end(key)

    def _end(self, key: _Key) -> None:
        self._references.discard(key)
        with suppress(KeyError):
            self._workers.pop(key).end()
