"""Processes that stay: each model is loaded once, and none outlives what it is for."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import tiny
import torch
from places import SUPPORT

from pytest_tenpak.errors import SpecError, WorkerError
from pytest_tenpak.execution import process, residents
from pytest_tenpak.execution.jobs import GenerateJob, to_plain
from pytest_tenpak.execution.load import loading_key
from pytest_tenpak.execution.process import Bounds
from pytest_tenpak.execution.residents import Residents
from pytest_tenpak.progress import ignore
from pytest_tenpak.quantizers.locate import Place
from pytest_tenpak.spec import CHECKPOINT, QuantizeSpec
from pytest_tenpak.store.store import Store

LOADER = """
from pathlib import Path
from pytest_tenpak import Quantizer, load_pretrained

class Own(Quantizer):
    method = "own"
    def quantize(self, job): pass
    def load(self, spec, checkpoint, device, dtype):
        with Path({log!r}).open("a") as log:
            log.write(f"{{checkpoint.name}}\\n")
        model = load_pretrained(checkpoint, device, dtype)
        generate = model.generate
        def crash_or_generate(**named):
            if named.get("max_new_tokens") == 3:
                import os
                os.kill(os.getpid(), 11)
            return generate(**named)
        model.generate = crash_or_generate
        return model
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models, in folders of their own."""
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("one", 0), ("other", 1)):
        tiny.save(tiny.random_model("llama", seed), folder / name)
    return folder


class Asker:
    """Asks resident processes to generate, and counts loads."""

    def __init__(self, folder: Path, models: Path) -> None:
        self.store = Store(folder / "cache")
        self.residents = Residents()
        self.log = folder / "log"
        self.models = models
        file = folder / "own.py"
        file.write_text(LOADER.format(log=str(self.log)))
        self.place = Place("own", str(file), "Own")

    def job(self, name: str, **options) -> GenerateJob:
        spec = QuantizeSpec(CHECKPOINT, {})
        return GenerateJob(
            self.models / name,
            self.place,
            spec,
            "cpu",
            "float32",
            ("KING",),
            {"max_new_tokens": 2, **options},
        )

    def ask(self, name: str, bounds=Bounds(), **options) -> str:  # noqa: B008
        answer = self.residents.run(self.store, self.job(name, **options), ignore, bounds, None)
        return answer["texts"][0]

    @property
    def loads(self) -> list[str]:
        return self.log.read_text().split()

    @property
    def pids(self) -> list[int]:
        return [worker._process.pid for worker in self.residents.workers]


@pytest.fixture
def asker(tmp_path, models, monkeypatch):
    monkeypatch.setattr(GenerateJob, "may_be_forked", True)
    monkeypatch.setattr(process, "_POLL_SECONDS", 0.01)
    found = Asker(tmp_path, models)
    yield found
    found.residents.close()


def test_a_model_is_loaded_once_until_another_is_asked(asker):
    """Further jobs go to its process; another checkpoint's ends it, and nothing is left at the end."""
    first = asker.ask("one")
    (pid,) = asker.pids
    assert [asker.ask("one"), asker.ask("one", max_new_tokens=4)[: len(first)]] == [first, first]
    assert (asker.pids, asker.loads) == ([pid], ["one"])
    asker.ask("other")
    assert asker.loads == ["one", "other"]
    assert not psutil.pid_exists(pid)
    asker.residents.close()
    assert asker.pids == []
    assert list((asker.store.root / "jobs").iterdir()) == []


def test_an_error_that_is_explained_leaves_the_model_loaded(asker):
    """A wrong option is the user's, and costs no second load."""
    with pytest.raises(SpecError, match="transformers refuses"):
        asker.ask("one", no_such_option=1)
    asker.ask("one")
    assert asker.loads == ["one"]


def test_a_crash_is_one_failed_job(asker):
    """It is told as any crash of a worker, in the second job too; the next one loads again, and answers."""
    asker.ask("one")
    with pytest.raises(WorkerError, match="should generate was killed by SIGSEGV"):
        asker.ask("one", max_new_tokens=3)
    assert asker.pids == []
    asker.ask("one")
    assert asker.loads == ["one", "one"]


def test_a_process_that_was_killed_between_jobs_is_replaced(asker):
    """Nobody waits for it."""
    asker.ask("one")
    (pid,) = asker.pids
    os.killpg(pid, signal.SIGKILL)
    asker.ask("one")
    assert asker.loads == ["one", "one"]
    assert asker.pids != [pid]


def test_the_time_limit_is_each_jobs_own(asker):
    """Time between jobs does not count; a job that is too slow ends its process."""
    asker.ask("one", Bounds(timeout=60))
    with pytest.raises(WorkerError, match=r"ran longer than 0\.1 s"):
        asker.ask("one", Bounds(timeout=0.1), max_new_tokens=200, min_new_tokens=200)
    assert asker.pids == []


def test_memory_is_given_back_before_another_model_needs_it(asker, monkeypatch):
    """Where both do not fit, what is idle goes first."""
    asker.ask("one")
    (pid,) = asker.pids
    asker.residents.make_room(asker.models / "other", "cpu")
    assert asker.pids == [pid]
    monkeypatch.setattr(residents, "free_bytes", lambda device: 1)
    asker.residents.make_room(asker.models / "other", "cpu")
    assert asker.pids == []


def test_another_file_is_another_model(asker, tmp_path):
    """Whoever writes into a directory during a run is not answered by what was there before."""
    job = replace(asker.job("one"), directory=tiny.save(tiny.random_model("llama"), tmp_path / "changing"))
    before = loading_key(job)
    assert loading_key(job) == before
    model = tiny.random_model("llama")
    with torch.no_grad():
        model.model.norm.weight.mul_(2)
    tiny.save(model, job.directory)
    assert loading_key(job) != before


PARENT = """
import json, sys, time
from pathlib import Path
sys.path.append(sys.argv[4])
import warm_start
warm_start.install()
from pytest_tenpak.execution.jobs import GenerateJob
from pytest_tenpak.execution.process import Bounds
from pytest_tenpak.execution.residents import Residents
from pytest_tenpak.progress import ignore
from pytest_tenpak.store.store import Store
GenerateJob.may_be_forked = sys.argv[3] == "forked"
job = GenerateJob.from_dict(json.loads(sys.argv[2]))
residents = Residents()
residents.run(Store(Path(sys.argv[1])), job, ignore, Bounds(), None)
print(residents.workers[0]._process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("kind", ["forked", "interpreter"])
def test_a_killed_pytest_takes_along_what_stays(asker, kind):
    """kill -9 of whoever asked: the process that waits ends, and what it was forked from."""
    command = [
        sys.executable,
        "-c",
        PARENT,
        str(asker.store.root),
        json.dumps(to_plain(asker.job("one"))),
        kind,
        str(SUPPORT),
    ]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    left = [worker, worker.parent()] if kind == "forked" else [worker]
    parent.kill()
    parent.wait()
    assert psutil.wait_procs(left, timeout=5)[1] == []
