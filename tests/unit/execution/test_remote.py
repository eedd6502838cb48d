"""Jobs that an executor does: answers, losses, and the end of a run."""

import json
import threading
import time
from pathlib import Path

import pytest

from pytest_tenpak.errors import CorpusError, SpecError, WorkerError
from pytest_tenpak.execution.command import parse_template
from pytest_tenpak.execution.executor import Needs, Standing, State
from pytest_tenpak.execution.order import REPLY, Order
from pytest_tenpak.execution.process import Bounds
from pytest_tenpak.execution.remote import RemoteWorkers
from pytest_tenpak.progress import ignore


class Scripted:
    """An executor whose jobs end as its script says, one after another; the last way goes on for ever."""

    def __init__(self, *ways):
        self.ways = list(ways)
        self.submitted: list[Path] = []
        self.cancelled: list[Path] = []

    def submit(self, job, needs):
        self.submitted.append(job.folder)
        self.needs = needs
        return job.folder

    def poll(self, ticket, seconds):  # noqa: ARG002
        way = self.ways.pop(0) if len(self.ways) > 1 else self.ways[0]
        if isinstance(way, Standing):
            time.sleep(0.01)
            return way
        (ticket / "progress.jsonl").write_text('[3, 4, "tokens"]\n[4, 4, "tok')
        (ticket / REPLY).write_text(json.dumps(way))
        return Standing(State.DONE)

    def cancel(self, ticket):
        self.cancelled.append(ticket)


LOST = Standing(State.LOST, "the node died")
ANSWER = {"answer": {"figure": 1}}


@pytest.fixture
def order(tmp_path):
    """An order of some job, in a cache of its own."""
    return Order("measure", {}, tmp_path, Bounds(), None)


def ask(executor, order, retries=2, progress=ignore):
    """Have the order done; return the workers and the answer."""
    workers = RemoteWorkers(lambda: executor, Needs, retries)
    return workers, workers.ask(order, Needs(), progress)


def test_an_answer_comes_with_its_progress_and_leaves_no_folder(order, tmp_path):
    """Whole lines of progress only; the folder of the job is gone afterwards."""
    seen = []
    executor = Scripted(Standing(State.QUEUED), Standing(State.RUNNING), ANSWER)
    workers, answer = ask(executor, order, progress=lambda *row: seen.append(row))
    assert answer == {"figure": 1}
    assert seen == [(3, 4, "tokens")]
    assert workers.lost == []
    assert not list((tmp_path / "jobs").iterdir())


def test_an_error_of_the_job_is_raised_here(order):
    """With its kind, as on one machine."""
    with pytest.raises(CorpusError, match="too short"):
        ask(Scripted({"error": CorpusError("too short").to_dict()}), order)


def test_a_lost_job_is_begun_again_in_a_folder_of_its_own(order):
    """And what was lost is told; at most as often as is allowed."""
    executor = Scripted(LOST, LOST, ANSWER)
    workers, answer = ask(executor, order)
    assert answer == {"figure": 1}
    assert workers.lost == ["measure, attempt 1: the node died", "measure, attempt 2: the node died"]
    assert len({*executor.submitted}) == 3
    with pytest.raises(WorkerError, match="gave no answer") as raised:
        ask(executor := Scripted(LOST), order, retries=1)
    assert "raise --tenpak-retries" in str(raised.value)
    assert len(executor.submitted) == 2


def test_what_was_not_lost_is_not_begun_again(order):
    """Out of memory, for one."""
    executor = Scripted(Standing(State.FAILED, "ran out of memory"))
    with pytest.raises(WorkerError, match="gave no answer") as raised:
        ask(executor, order)
    assert "ran out of memory" in str(raised.value)
    assert len(executor.submitted) == 1


def test_a_stopped_run_cancels_what_runs_and_starts_nothing(order):
    """Soon after it was closed by another thread."""
    executor = Scripted(Standing(State.RUNNING))
    workers = RemoteWorkers(lambda: executor, Needs, 2)
    threading.Timer(0.2, workers.close).start()
    with pytest.raises(WorkerError, match="was stopped"):
        workers.ask(order, Needs(), ignore)
    assert executor.cancelled == executor.submitted
    with pytest.raises(WorkerError, match="was stopped"):
        workers.ask(order, Needs(), ignore)
    assert len(executor.submitted) == 1


def test_an_order_is_read_as_it_was_written(tmp_path):
    """Bounds, interpreter and versions too."""
    order = Order(
        "measure",
        {"budget": 3},
        tmp_path,
        Bounds(5.0, 7),
        Path("/python"),
        reads=(tmp_path / "model",),
        writes=(tmp_path / "trace",),
        versions={"torch": "2"},
    )
    assert Order.read(order.write()) == order


@pytest.mark.parametrize(
    "template", ["", "srun", "srun {argv} {nodes}", "srun '{argv}", "srun x{argv}", "{gpus"]
)
def test_a_template_without_the_job_or_with_other_fields_is_refused(template):
    """What is accepted is said."""
    with pytest.raises(SpecError, match=r"not accepted"):
        parse_template(template)
