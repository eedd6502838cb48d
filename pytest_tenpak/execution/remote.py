"""Jobs on other machines: handed to an executor, followed to their end, begun again with a lost machine.

A retry begins the same job again. What was measured before stays, since windows are only ever added to a
trace: no retry can turn a red verdict green.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import WorkerError, error_from_dict
from ..progress import Progress
from ..store.store import Store
from .executor import Executor, Needs, Standing, State
from .jobs import AnyJob, ConvertJob, GenerateJob, MeasureJob, reads, sources, to_plain, writes
from .memory import needed_bytes
from .order import Order
from .process import Bounds
from .submission import Post, Submission, SubmittedFolder

#: How long one question to an executor may take, and so how late an end of the run is noticed.
_POLL_SECONDS = 0.5

#: What a job should do, where its kind alone does not say it.
_WORDS = {"device": "find out what devices a machine has"}


class RemoteWorkers:
    """The jobs of one case, done by an executor; a model is loaded anew for each.

    ``executor`` and ``needs`` are asked for when there is a job, since both may need the cluster.
    Memory that ``needs`` leaves open is asked for by the size of the job's model. A job that was lost with
    its machine is begun again, ``retries`` times at most; ``lost`` says what was, ``waits`` whether a job is
    queued. ``post`` puts an order where other machines find it.
    """

    def __init__(
        self,
        executor: Callable[[], Executor],
        needs: Callable[[], Needs],
        retries: int,
        post: Post = SubmittedFolder,
    ) -> None:
        self.lost: list[str] = []
        self.waits = False
        self._executor = executor
        self._needs = needs
        self._retries = retries
        self._post = post
        self._closed = threading.Event()

    def run(
        self,
        store: Store,
        job: MeasureJob | GenerateJob,
        progress: Progress,
        bounds: Bounds,
        python: Path | None,
    ) -> Mapping[str, Any]:
        """Do a job and return its answer, as :meth:`run_once` does: no process stays."""
        return self.run_once(store, job, progress, bounds, python)

    def run_once(
        self, store: Store, job: AnyJob, progress: Progress, bounds: Bounds, python: Path | None
    ) -> Mapping[str, Any]:
        """Do a job and return its answer; raises what the job raises, or WorkerError where it was lost."""
        order = Order(
            job.kind, to_plain(job), store.root, bounds, python, tuple(reads(job)), tuple(writes(job))
        )
        needs = self._needs()
        return self.ask(order, replace(needs, memory=needs.memory or _memory(job)), progress)

    def make_room(self, directory: Path, *devices: str, times: float = 1.0) -> None:
        """Do nothing: no model stays."""

    def close(self) -> None:
        """Cancel what runs, and start nothing more."""
        self._closed.set()

    def ask(self, order: Order, needs: Needs, progress: Progress) -> Mapping[str, Any]:
        """Have an order done; raises as :meth:`run_once` does."""
        for attempt in range(1 + self._retries):
            submission = self._post(order, progress)
            try:
                standing = self._follow(submission, needs, progress)
                reply = submission.reply(progress)
            finally:
                submission.discard()
            if reply is not None:
                if "error" in reply:
                    raise error_from_dict(reply["error"])
                answer: Mapping[str, Any] = reply["answer"]
                return answer
            if standing.state is not State.LOST:
                break
            self.lost.append(f"{order.kind}, attempt {attempt + 1}: {standing.why}")
        raise WorkerError(
            f"the job that should {_WORDS.get(order.kind, order.kind)} gave no answer",
            given=standing.why or "it ended without one",
            remedy="look at the log of the machine that ran it"
            if standing.state is not State.LOST
            else "raise --tenpak-retries, or use machines that stay",
        )

    def _follow(self, submission: Submission, needs: Needs, progress: Progress) -> Standing:
        """Submit a job and pass its progress on until it has ended; cancel it with the run."""
        if self._closed.is_set():
            raise _stopped()
        executor = self._executor()
        ticket = executor.submit(submission, needs)
        try:
            while True:
                standing = executor.poll(ticket, _POLL_SECONDS)
                self.waits = standing.state is State.QUEUED
                submission.pass_on(progress)
                if standing.state not in (State.QUEUED, State.RUNNING):
                    return standing
                if self._closed.is_set():
                    raise _stopped()
        except BaseException:
            executor.cancel(ticket)
            raise


def _stopped() -> WorkerError:
    return WorkerError("the run was stopped")


def _memory(job: AnyJob) -> int:
    """Return the bytes that a job asks for by the size of its models' files, on the safe side."""
    return 0 if isinstance(job, ConvertJob) else int(sum(map(needed_bytes, sources(job))))
