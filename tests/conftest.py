"""Shared by all tests: a tiny model that has learned something, and projects to run pytest in."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import warm_start
from places import ROOT, SUPPORT, TESTS
from projects import LEAN, ONE_THREAD, Archived, Project

from pytest_tenpak.execution.process import _environment
from pytest_tenpak.store.store import Store

#: What CI systems and xdist set, and what would change how pytest or the gate behaves.
AMBIENT = ("CI", "BUILD_NUMBER", "GITHUB_ACTIONS", "PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS", "COLUMNS")

#: Set to start every process as users do, which takes twice as long.
COLD = "TENPAK_TESTS_COLD" in os.environ

#: Libraries that register what they have with a runtime, which can be done once in a process.
HEAVY = ("torch", "transformers", "bitsandbytes", "torchao", "torchvision", "ray", "grpc", "google")

if "PYTEST_XDIST_WORKER" in os.environ:
    for _name, _value in ONE_THREAD.items():
        os.environ.setdefault(_name, _value)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Modules and tests stay to the end: the garbage collector need not search them, neither now nor later.

    What tests import themselves stays too, and a search of all of it takes a tenth of a second: one in ten is enough.
    """
    gc.disable()
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, 10 * old)
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items):
    """Units last: some other tests take ten seconds, and at the end no worker of xdist waits for another's."""
    items.sort(key=lambda item: TESTS / "unit" in item.path.parents)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    """Tests see no CI unless they are about CI."""
    for name in AMBIENT:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _imported_once():
    """What a test has imported of torch and its kin stays imported: some of their modules cannot be twice.

    Pytester forgets, when it ends, every module that was first imported beside it.
    """
    found: dict[str, object] = {}
    yield found
    for name, module in found.items():
        sys.modules.setdefault(name, module)


@pytest.fixture(scope="session")
def host_of_jobs() -> Iterator[str]:
    """A process that has imported what jobs start with: see :mod:`warm_host`."""
    with nullcontext("") if COLD else warm_start.host(warm_start.JOBS, _environment(None)) as name:
        yield name


@pytest.fixture(scope="session")
def host_of_pytest() -> Iterator[str]:
    """A process that has imported what a run starts with: see :mod:`warm_host`."""
    plain = {name: value for name, value in os.environ.items() if name not in AMBIENT}
    with nullcontext("") if COLD else warm_start.host(warm_start.PYTEST, plain, *LEAN) as name:
        yield name


@pytest.fixture
def warm_jobs(host_of_jobs, monkeypatch) -> None:
    """Templates are forked from what has their imports."""
    monkeypatch.setenv(warm_start.JOBS, host_of_jobs)
    monkeypatch.setattr(subprocess, "Popen", warm_start.Popen)


@pytest.fixture
def warm(host_of_pytest, host_of_jobs, warm_jobs, monkeypatch) -> None:
    """Pytest, xdist's workers, templates and all jobs are forked from what has their imports."""
    monkeypatch.setenv(warm_start.PYTEST, host_of_pytest)
    monkeypatch.setenv(warm_start.LONE_JOBS, host_of_jobs)


@pytest.fixture
def pytester(pytester, _imported_once, warm):
    """Pytest's own, which starts runs fast, and tells what there is to keep before it forgets."""
    yield pytester
    _imported_once.update(
        {name: module for name, module in sys.modules.items() if name.partition(".")[0] in HEAVY}
    )


@pytest.fixture(scope="session")
def cluster_utils():
    """Ray's clusters on one machine: imported before a test begins, after which pytester would forget it."""
    return pytest.importorskip("ray.cluster_utils")


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory) -> Path:
    """One cache for the whole run: a checkpoint that one test made, the next one finds."""
    root = tmp_path_factory.getbasetemp()
    return (root.parent if root.name.startswith("popen-") else root) / "cache"


def _train(folder: Path, steps: int, length: int) -> dict[str, str]:
    """Here, where the tests have imported torch already; else in a process of its own.

    Pytester forgets modules that were first imported beside it, and torch cannot be imported twice.
    """
    if "tiny" in sys.modules:
        sys.modules["tiny"].save_trained_llama(folder, steps, length)
        return {}
    code = f"import tiny, pathlib; tiny.save_trained_llama(pathlib.Path({str(folder)!r}), {steps}, {length})"
    subprocess.run([sys.executable, "-c", code], cwd=SUPPORT, check=True)
    return {}


@pytest.fixture(scope="session")
def trained(shared_cache) -> Path:
    """A byte-level Llama of 0.4 million weights, trained for some seconds on the packaged corpus.

    On pieces as long as the windows that projects measure on: longer ones take longer, and teach it less.
    """
    return Store(shared_cache).directory("trained", {}, lambda folder: _train(folder, 120, 64)).path


@pytest.fixture(scope="session")
def fluent(shared_cache) -> Path:
    """The same Llama, trained until its layers matter: a quantizer that ruins them is seen."""
    return Store(shared_cache).directory("fluent", {}, lambda folder: _train(folder, 300, 128)).path


@pytest.fixture(scope="session")
def archived_python() -> Archived:
    """The interpreter that TENPAK_ARCHIVED_PYTHON names, or the one that make builds."""
    built = ROOT / ".venv-archived" / "bin" / "python"
    python = Path(os.environ.get("TENPAK_ARCHIVED_PYTHON", built))
    if not python.is_file():
        pytest.skip(f"{python} is not there; build it with: make .venv-archived/installed")
    return Archived(python)


@pytest.fixture
def project(pytester, trained, shared_cache) -> Project:
    """A project whose model is the trained Llama and whose cache is shared by the session."""
    return Project(pytester, trained, shared_cache)


@pytest.fixture(params=[(), ("-n", "2")], ids=["alone", "xdist"])
def distributed(request) -> tuple[str, ...]:
    """Arguments that run a project in one process, and under xdist."""
    return request.param


@pytest.fixture(
    params=[pytest.param((), id="alone"), pytest.param(("-n", "2"), id="xdist", marks=pytest.mark.slow)]
)
def distributed_at_length(request) -> tuple[str, ...]:
    """The same, where a test runs its project several times: under xdist with the slow tests."""
    return request.param


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
