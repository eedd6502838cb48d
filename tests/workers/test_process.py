"""Worker processes: every way to end is told apart, nothing outlives the run, nothing leaks in."""

import json
import re
import signal
import subprocess
import sys
import sysconfig
import time
from dataclasses import replace
from pathlib import Path
from textwrap import dedent, indent

import pytest
from processes import gone

from pytest_tenpak.errors import TenpakError, UnavailableError, WorkerError
from pytest_tenpak.execution import process
from pytest_tenpak.execution.jobs import QuantizeJob, to_plain
from pytest_tenpak.execution.process import Bounds, _ending, run_job
from pytest_tenpak.progress import ignore
from pytest_tenpak.quantizers.locate import Place
from pytest_tenpak.spec import QuantizeSpec
from pytest_tenpak.store.store import Store
from pytest_tenpak.units import GIB

QUANTIZER = """
import errno, os, signal, subprocess, sys, time
from pathlib import Path
from pytest_tenpak import Quantizer

class Own(Quantizer):
    method = "own"
    requires = {requires}
    def quantize(self, job):
{body}
"""


class JobRunner:
    """Runs one quantizer, whose ``quantize(self, job)`` has the given body, as a job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "cache")
        self.out = folder / "out"
        (folder / "model").mkdir()
        self.out.mkdir()

    def job(self, body: str, requires: tuple[str, ...] = ()) -> QuantizeJob:
        file = self.folder / "own.py"
        file.write_text(QUANTIZER.format(requires=requires, body=indent(dedent(body), " " * 8)))
        place, spec = Place("own", str(file), "Own"), QuantizeSpec("own", {})
        return QuantizeJob(place, spec, self.folder / "model", self.out, "cpu", "float32", None)

    def run(self, body: str, bounds=Bounds(), python=None, requires=()) -> dict:  # noqa: B008
        return run_job(self.store, self.job(body, requires), ignore, bounds, python)

    @property
    def logs(self) -> list[Path]:
        return list((self.store.root / "jobs").glob("*/log.txt"))


@pytest.fixture(autouse=True)
def _watched_closely(monkeypatch):
    """What ends, and what takes too much, is seen at once."""
    monkeypatch.setattr(process, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(process, "_MEMORY_POLL_SECONDS", 0.05)


@pytest.fixture(params=[False, True], ids=["interpreter", "forked"])
def runner(tmp_path, request, monkeypatch) -> JobRunner:
    """Both kinds of processes: an interpreter of their own, or a fork of one that has imported torch."""
    monkeypatch.setattr(QuantizeJob, "may_be_forked", request.param)
    return JobRunner(tmp_path)


@pytest.fixture
def interpreter(tmp_path) -> JobRunner:
    """Only the first kind, for bounds on memory below what a fork shares with its template."""
    return JobRunner(tmp_path)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "was killed by SIGKILL from outside (the kernel's OOM counter ",
        ),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGRTMIN + 3)", "was killed by signal 37"),
        ("raise MemoryError", "ran out of memory"),
        ("bytearray(1 << 60)", "ran out of memory"),
        ("raise OSError(errno.ENOMEM, 'no')", "ran out of memory"),
        ("raise RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB')", "ran out of memory"),
        ('raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory")', "ran out of memory"),
        ("raise OSError(errno.ENOSPC, 'full')", "ran out of disk space"),
        ("raise Exception('I/O error: No space left on device (os error 28)')", "ran out of disk space"),
        (
            "try: raise MemoryError\nexcept MemoryError as e: raise ValueError('x') from e",
            "ran out of memory",
        ),
        (
            "try: raise MemoryError\nexcept MemoryError: raise ValueError('x') from None",
            "ended with exit code 1",
        ),
        ("raise ValueError('boom')", "ended with exit code 1"),
        ("os._exit(0)", "ended with exit code 0"),
    ],
)
def test_each_way_to_end_is_told_apart(runner, body, said):
    """In one sentence, with the log quoted, named and kept."""
    with pytest.raises(WorkerError) as caught:
        runner.run(f"print('before the end', flush=True)\n{body}")
    assert f"the worker process that should quantize {said}" in str(caught.value)
    (log,) = runner.logs
    assert f"    | {log.read_text().splitlines()[-1]}" in str(caught.value)
    assert f"last lines of {log}" in str(caught.value)
    assert "before the end" in log.read_text()


def test_the_kernels_kills_are_told_from_others():
    """By its count of processes killed as out of memory, where it gives one."""
    root = Path()
    assert "was killed as out of memory" in _ending(-signal.SIGKILL, 1, root).what
    assert "did not move" in _ending(-signal.SIGKILL, 0, root).what
    assert "cannot be read" in _ending(-signal.SIGKILL, None, root).what


def test_a_log_of_megabytes_is_quoted_by_its_end(runner):
    """Twelve lines at most, none of them endless; the whole log stays on disk."""
    with pytest.raises(WorkerError) as caught:
        runner.run(
            "print('\\n'.join(map(str, range(400_000))))\nprint('x' * 5_000_000)\nraise ValueError('boom')"
        )
    assert len(str(caught.value)) < 20_000
    assert "| ValueError: boom" in str(caught.value)
    assert runner.logs[0].stat().st_size > 7_000_000


def test_the_time_limit(runner):
    """A hang ends at its limit, which the error names."""
    with pytest.raises(WorkerError, match="ran longer than 0.2 s and was stopped") as caught:
        runner.run("time.sleep(600)", Bounds(timeout=0.2))
    assert "--tenpak-timeout" in str(caught.value)


CHILD = "subprocess.Popen([sys.executable, '-c', 'import time; b = bytearray(300 << 20); time.sleep(600)'])\n"


@pytest.mark.parametrize("body", ["hog = bytearray(300 << 20)\n", CHILD], ids=["worker", "its child"])
def test_the_memory_limit(interpreter, body):
    """It counts the worker and all that it started; the error gives both figures."""
    with pytest.raises(WorkerError) as caught:
        interpreter.run(body + "time.sleep(600)", Bounds(memory=200 << 20))
    assert "more than 0.20 GiB, and was stopped" in str(caught.value)
    took = float(re.findall(r"took (\d+\.\d+) GiB", str(caught.value))[0])
    assert 0.2 <= took < 0.5
    assert "--tenpak-memory" in str(caught.value)


def test_memory_that_processes_share_is_counted_once(interpreter):
    """A worker that forks does not take as much again."""
    body = """
        hog = bytearray(os.urandom(1 << 20) * 150)
        for _ in range(3):
            if os.fork() == 0:
                time.sleep(3)
                os._exit(0)
        time.sleep(0.5)
        """
    assert interpreter.run(body, Bounds(memory=400 << 20))["peak_bytes"] > 150 << 20


def test_what_it_took_is_in_the_answer(interpreter):
    """Seconds and the high-water mark of its own memory, not of the process that started it."""
    ours = bytearray(400 << 20)
    taken = interpreter.run("hog = bytearray(200 << 20)\ndel hog\nimport torch\ntorch.set_num_threads(1)")
    assert len(ours) == 400 << 20
    assert set(taken) == {"seconds", "peak_bytes", "threads"}
    assert taken["peak_bytes"] > 200 << 20
    assert taken["threads"] == 1
    light = interpreter.run("pass")
    assert set(light) == {"seconds", "peak_bytes"}
    assert light["peak_bytes"] < 150 << 20


def test_a_worker_killed_halfway_leaves_nothing_that_looks_whole(runner):
    """kill -9 after half of the weights: the store has no entry, and the next attempt makes a whole one."""

    def make(folder: Path, end: str) -> dict:
        body = f"(job.out / 'model.safetensors').write_bytes(b'half')\n{end}"
        return run_job(runner.store, replace(runner.job(body), out=folder), ignore)

    with pytest.raises(WorkerError, match="SIGKILL"):
        runner.store.directory("checkpoints", {}, lambda f: make(f, "os.kill(os.getpid(), signal.SIGKILL)"))
    assert list((runner.store.root / "checkpoints").iterdir()) == []
    assert runner.store.directory("checkpoints", {}, lambda f: make(f, "pass")).fresh


PARENT = """
import json, sys
from pathlib import Path
from pytest_tenpak.store.store import Store
from pytest_tenpak.progress import ignore
from pytest_tenpak.execution.jobs import QuantizeJob
from pytest_tenpak.execution.process import run_job
QuantizeJob.may_be_forked = sys.argv[3] == "True"
run_job(Store(Path(sys.argv[1])), QuantizeJob.from_dict(json.loads(sys.argv[2])), ignore)
"""


def test_a_killed_pytest_takes_the_workers_and_their_children_along(runner):
    """kill -9 of whoever asked: the worker ends, what its backend had started, and what it was forked from."""
    pids = runner.folder / "pids"
    body = f"""
        child = subprocess.Popen(["sleep", "300"])
        Path({str(pids)!r}).write_text(f"{{os.getpid()}} {{child.pid}} {{os.getppid()}}\\n")
        time.sleep(300)
        """
    job = runner.job(body)
    command = [sys.executable, "-c", PARENT, str(runner.store.root), json.dumps(to_plain(job))]
    parent = subprocess.Popen([*command, str(job.may_be_forked)])
    while not (pids.exists() and pids.read_text().endswith("\n")):
        time.sleep(0.05)
        assert parent.poll() is None
    parent.kill()
    parent.wait()
    assert gone([int(pid) for pid in pids.read_text().split()], seconds=10)


def test_what_jobs_are_forked_from_is_there_once_and_ends_with_whoever_asked(tmp_path):
    """Two jobs of one template; after the last one nothing is left, and pytest's end takes the template along."""
    code = """
import sys
from pathlib import Path
from pytest_tenpak.execution.template import fork_job
folders = [Path(sys.argv[1]) / name for name in "ab"]
for folder in folders:
    folder.mkdir()
processes = [fork_job(folder, dict(__import__("os").environ)) for folder in folders]
print([process.wait() for process in processes], processes[0]._template._process.pid)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    codes, _, pid = ran.stdout.strip().rpartition(" ")
    assert codes == "[1, 1]"
    assert "FileNotFoundError" in (tmp_path / "b" / "log.txt").read_text()
    assert gone([int(pid)], seconds=5)


def test_a_worker_that_ends_leaves_no_child_behind(runner):
    """Not even after success."""
    body = f"""
        child = subprocess.Popen(["sleep", "300"])
        Path({str(runner.folder / "pid")!r}).write_text(str(child.pid))
        """
    runner.run(body)
    assert gone([int((runner.folder / "pid").read_text())], seconds=5)


def test_a_job_that_cannot_be_handed_over(runner):
    """A cache folder that cannot be written to: said at once, with the way out."""
    runner.store.root.write_text("a file where the folder should be")
    with pytest.raises(
        WorkerError, match="the job of the worker process that should quantize cannot be written"
    ) as caught:
        runner.run("pass")
    assert "--tenpak-cache-dir" in str(caught.value)


def test_a_disk_that_runs_full(small_disk):
    """The traceback still finds room in the log, and the error says where room is wanting."""
    runner = JobRunner(small_disk)
    with pytest.raises(WorkerError, match="ran out of disk space") as caught:
        runner.run("(job.out / 'model.safetensors').write_bytes(bytes(32 << 20))")
    assert "    | OSError: [Errno 28] No space left on device" in str(caught.value)
    assert f"free space in {runner.store.root} (0.00 GiB free), or set --tenpak-cache-dir" in str(
        caught.value
    )


def test_a_disk_that_was_full_before(small_disk):
    """The job cannot even be handed over; nothing is left of the attempt."""
    runner = JobRunner(small_disk)
    job = runner.job("pass")
    (small_disk / "filler").write_bytes(bytes(4 << 20))
    with pytest.raises(
        WorkerError, match="the job of the worker process that should quantize cannot be written"
    ) as caught:
        run_job(runner.store, replace(job, calibration=("x" * (8 << 20),)), ignore)
    assert "No space left on device" in str(caught.value)
    assert list((runner.store.root / "jobs").iterdir()) == []


# ---------------------------------------------------------------- another interpreter

#: What belongs to the test suite alone, and must not be found by a worker elsewhere.
OURS = ("pytest", "_pytest", "xdist", "pluggy", "iniconfig", "platformdirs", "jsonschema", "psutil")


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """An environment with nothing in it."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """An environment with torch, transformers and what they need, and nothing of pytest's."""
    folder = tmp_path_factory.mktemp("other")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/*/site-packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.suffix != ".pth" and not entry.name.startswith(OURS):
            (packages / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def test_an_interpreter_without_torch_is_unavailable(runner, bare):
    """The error names the interpreter and what it lacks."""
    with pytest.raises(UnavailableError, match=f"the interpreter {bare} cannot import torch"):
        runner.run("pass", python=bare)


def test_nothing_of_this_environment_leaks_into_another(runner, other, monkeypatch):
    """The worker has the package, by its folder, and only packages of its own beside it."""
    monkeypatch.setenv("PYTHONPATH", str(Path(pytest.__file__).parents[1]))
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    body = """
        import torch, importlib.util, pytest_tenpak.execution.main, json
        asked = ("transformers", "pytest", "psutil", "platformdirs")
        found = [name for name in asked if importlib.util.find_spec(name)]
        seen = {"path": sys.path, "executable": sys.executable, "found": found, "prefix": sys.prefix}
        seen["variables"] = [n for n in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV") if n in os.environ]
        (job.out / "seen.json").write_text(json.dumps(seen))
        """
    assert runner.run(body, python=other)["threads"] > 0
    seen = json.loads((runner.out / "seen.json").read_text())
    assert seen["executable"] == str(other)
    assert seen["found"] == ["transformers"]
    assert seen["variables"] == []
    ours = Path(sysconfig.get_path("purelib"))
    assert not [entry for entry in seen["path"] if entry and Path(entry).is_relative_to(ours)]


def test_a_quantizer_that_needs_what_is_not_there(runner, other):
    """What the recipe imports must be in its own interpreter; the error names both, and the line."""
    with pytest.raises(UnavailableError, match=f"the interpreter {other} cannot import pytest") as caught:
        runner.run("import pytest", python=other)
    assert re.search(r"own\.py, line \d+: import pytest\n", str(caught.value))


def test_an_unfit_interpreter_is_refused_before_anything_is_written(runner):
    """No job folder is left for it."""
    with pytest.raises(TenpakError, match="does not exist"):
        runner.run("pass", python=runner.folder / "nowhere")
    assert not runner.store.root.exists()


def test_endings_elsewhere_are_told_apart_too(runner, other):
    """Bounds, logs and causes work in another interpreter as in this one."""
    with pytest.raises(WorkerError, match="ran out of memory"):
        runner.run("raise MemoryError", python=other)
    with pytest.raises(WorkerError, match="more than 0.01 GiB"):
        runner.run("time.sleep(600)", Bounds(memory=GIB // 100), python=other)
