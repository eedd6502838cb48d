"""The other machine's side of a job: what it says where it cannot begin, or cannot reply."""

import shutil
from pathlib import Path

import pytest

from pytest_tenpak.execution.jobs import ConvertJob, to_plain
from pytest_tenpak.execution.order import Order
from pytest_tenpak.execution.submission import Submission
from pytest_tenpak.machines import on_node
from pytest_tenpak.machines.shared_store import carry_by
from pytest_tenpak.progress import ignore
from pytest_tenpak.store.store import Store


@pytest.fixture
def bucket(tmp_path, monkeypatch) -> Path:
    """A store, and a cache of the machine that does jobs."""
    monkeypatch.setenv("TENPAK_CACHE_DIR", str(tmp_path / "node"))
    return tmp_path / "bucket"


def post(bucket: Path) -> Submission:
    """A job that asks for the device, as it is submitted."""
    store = Store(bucket.parent / "cache")
    return carry_by(f"file://{bucket}", store)(Order("device", {"wanted": "cpu"}, store.root), ignore)


def test_a_folder_is_one_whatever_its_name(tmp_path):
    """One with ``#`` in its name is no address in a store, and is named as what is not seen."""
    folder = tmp_path / "cache#1" / "jobs" / "order-device-0123456789ab"
    assert on_node.main(str(folder)).endswith(f"does not see {folder}")


def test_a_job_is_done_and_replied(bucket):
    """By the store alone; no folder of the job stays."""
    submission = post(bucket)
    assert on_node.main(submission.argument) == ""
    assert submission.reply(ignore)["answer"]["torch_name"] == "cpu"
    assert not list((bucket.parent / "node" / "jobs").iterdir())


def test_a_store_that_is_gone_is_said_where_no_reply_can(bucket, monkeypatch):
    """In words, since a traceback would be all that whoever waits sees."""
    submission = post(bucket)
    real = on_node._reply

    def lose(*arguments):
        shutil.rmtree(bucket)
        bucket.write_text("")
        return real(*arguments)

    monkeypatch.setattr(on_node, "_reply", lose)
    said = on_node.main(submission.argument)
    assert f"the store through which jobs travel cannot be written: file://{bucket}: Not a directory" in said


def test_a_cache_that_cannot_be_written_is_said(bucket):
    """With its folder."""
    node = bucket.parent / "node"
    node.write_text("a file")
    assert f"cannot keep its files: {node}: " in on_node.main(post(bucket).argument)


def test_what_cannot_be_sent_is_an_error_of_the_job(bucket, monkeypatch):
    """Which names the file, and is not begun again."""
    store = Store(bucket.parent / "cache")
    file, out = bucket.parent / "model.gguf", store.root / "models" / f".{'a' * 32}.01234567"
    file.write_text("a model")
    out.mkdir(parents=True)
    job = ConvertJob(file, out)
    order = Order(job.kind, to_plain(job), store.root, reads=(file,), writes=(out,))
    submission = carry_by(f"file://{bucket}", store)(order, ignore)

    def convert(_store, job, *_rest):
        (job.out / "what?.json").write_text("{}")
        return {}

    monkeypatch.setattr(on_node, "run_job", convert)
    assert on_node.main(submission.argument) == ""
    error = submission.reply(ignore)["error"]
    assert error["problem"] == "a file cannot travel to other machines under its name"
    assert error["given"].startswith(f"{out}/what?.json")
