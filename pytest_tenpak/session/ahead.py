"""Gates that start before their tests: threads evaluate cases in the order of the tests, which wait for them.

So the order of tests does not decide how busy the devices are. Threads suffice, since the work is done by
other processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any

from .. import progress
from ..execution.executor import Workers
from ..execution.jobs import AnyJob, GenerateJob, MeasureJob
from ..execution.process import Bounds
from ..gate.case import Case
from ..gate.outcome import Outcome
from ..gate.run import Run
from ..progress import Progress
from ..store.store import Store

#: How often what all cases do is shown while a test waits for its own.
_SHOWN_SECONDS = 0.2
_WORDS = {"quantize": "quantizing", "measure": "measuring"}
_ORDER = ("waiting", "quantizing", "measuring", "working", "done")

#: Opens the run that a case is evaluated in, for as long as it takes.
OpenLane = Callable[[Case], AbstractContextManager[Run]]
#: ``show(words, done, total, lines)`` shows what all cases do, and prints lines.
Show = Callable[[str, int, int, Sequence[str]], None]


class Board:
    """What every case is doing, and the lines to print about them: written by threads, read by pytest's."""

    def __init__(self) -> None:
        self._doing: dict[str, str] = {}
        self._workers: dict[str, Workers] = {}
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._lock = Lock()

    def set(self, nodeid: str, doing: str, workers: Workers | None = None) -> None:
        """Note what a case is doing, and by whom."""
        with self._lock:
            self._doing[nodeid] = doing
            if workers is not None:
                self._workers[nodeid] = workers

    def counts(self) -> Mapping[str, int]:
        """Return how many cases wait, quantize, measure, do something else, and are done."""
        with self._lock:
            rows = [
                "waiting" if doing != "done" and one is not None and one.waits else doing
                for nodeid, doing in self._doing.items()
                for one in [self._workers.get(nodeid)]
            ]
        return Counter(rows)

    def show(self, show: Show) -> None:
        """Show the counts and print the lines that came since."""
        counts, lines = self.counts(), []
        while not self._lines.empty():
            lines.append(self._lines.get())
        words = ", ".join(f"{counts[name]} {name}" for name in _ORDER if counts.get(name))
        show(words, counts.get("done", 0), sum(counts.values()), lines)

    @contextmanager
    def line(self, title: str) -> Iterator[Progress]:
        """A progress display: one line when the work is done."""
        with progress.line(title, self._lines.put) as advance:
            yield advance


@dataclass(frozen=True)
class _Watched:
    """Workers of one case, whose jobs the board shows."""

    inner: Workers
    board: Board
    nodeid: str

    @property
    def waits(self) -> bool:
        return self.inner.waits

    @property
    def lost(self) -> Sequence[str]:
        return self.inner.lost

    def run(
        self,
        store: Store,
        job: MeasureJob | GenerateJob,
        advance: Progress,
        bounds: Bounds,
        python: Path | None,
    ) -> Mapping[str, Any]:
        with self._shown(job):
            return self.inner.run(store, job, advance, bounds, python)

    def run_once(
        self, store: Store, job: AnyJob, advance: Progress, bounds: Bounds, python: Path | None
    ) -> Mapping[str, Any]:
        with self._shown(job):
            return self.inner.run_once(store, job, advance, bounds, python)

    def make_room(self, directory: Path, *devices: str, times: float = 1.0) -> None:
        self.inner.make_room(directory, *devices, times=times)

    def close(self) -> None:
        self.inner.close()

    @contextmanager
    def _shown(self, job: AnyJob) -> Iterator[None]:
        self.board.set(self.nodeid, _WORDS.get(job.kind, "working"), self.inner)
        try:
            yield
        finally:
            self.board.set(self.nodeid, "working")


class Ahead:
    """The cases of a run that are evaluated before their tests, ``count`` at a time."""

    def __init__(self, count: int, open_lane: OpenLane, answer: Callable[[Case, Run], Outcome]) -> None:
        self.board = Board()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="tenpak-gate")
        self._open_lane = open_lane
        self._answer = answer
        self._futures: dict[str, Future[Outcome]] = {}
        self._active: set[Workers] = set()
        self._is_closed = False

    def submit(self, case: Case) -> None:
        """Evaluate a case as soon as there is a place for it."""
        self.board.set(case.nodeid, "waiting")
        self._futures[case.nodeid] = self._pool.submit(self._evaluate, case)

    def take(self, nodeid: str, showing: Callable[[], AbstractContextManager[Show]]) -> Outcome | None:
        """Wait for a case's outcome, once; None where it was not submitted, or was taken before."""
        future = self._futures.pop(nodeid, None)
        if future is None:
            return None
        with showing() as show:
            while not wait([future], timeout=_SHOWN_SECONDS).done:
                self.board.show(show)
            self.board.show(show)
        return future.result()

    def _evaluate(self, case: Case) -> Outcome:
        with self._open_lane(case) as run:
            workers = run.workers
            self._active.add(workers)
            if self._is_closed:
                workers.close()
            self.board.set(case.nodeid, "working")
            try:
                watched = _Watched(workers, self.board, case.nodeid)
                return self._answer(case, replace(run, workers=watched, show_progress=self.board.line))
            finally:
                self._active.discard(workers)
                self.board.set(case.nodeid, "done")

    def close(self) -> None:
        """Drop the cases that wait, end the jobs of those that run, and wait until they have ended."""
        self._is_closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        for workers in list(self._active):
            workers.close()
        self._pool.shutdown(wait=True)
