"""What a Ray cluster adds to a run of gates, and what a run of a thousand gates takes, as tables in Markdown.

Both on clusters of Ray that run on this machine, with nodes of one CPU, and a small model that is trained on
the spot: time is that of processes and of what hands them work, not of arithmetic. ``make cluster``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from false_alarms import ONE, train
from ray.cluster_utils import Cluster
from tabulate import tabulate

from pytest_tenpak.session.places import MOST

#: Where the kernel's reserve for shared memory is small, this still holds what tasks return: a word each.
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}
LOOK_SECONDS = 0.1
PATIENCE_SECONDS = 600

#: Quantizing never ends by itself: what is measured is who waits for it.
SLEEPER = """
import time
from pathlib import Path
from pytest_tenpak import Option, Quantizer

class Sleeper(Quantizer):
    method = "sleeper"
    options = (Option("number", int, 0, "nothing"),)
    def quantize(self, job):
        time.sleep(600)

def pytest_tenpak_register_quantizers(register):
    register(Sleeper)

def pytest_collection_finish(session):
    Path(__file__).with_name("collected").touch()
"""


class Waiting(NamedTuple):
    """What a pytest process took whose gates all wait.

    Seconds from its start until tests were collected and until all jobs that it follows at once were
    submitted, and from Ctrl-C to its end; peaks of resident MiB, of threads and of open files.
    """

    followed: int
    collected: float
    submitted: float
    ended: float
    memory: float
    threads: int
    files: int


@contextmanager
def cluster(nodes: int) -> Iterator[str]:
    """A cluster of so many nodes, by its address."""
    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            made.add_node(**NODE)
        made.wait_for_nodes()
        yield made.address
    finally:
        made.shutdown()


def on(address: str) -> tuple[str, ...]:
    """The arguments that send jobs to a cluster."""
    return "--tenpak-executor=ray", f"--tenpak-ray-address={address}"


def write(folder: Path, settings: dict[str, object], markers: Sequence[str]) -> Path:
    """Write a project with a gate for each marker."""
    folder.mkdir()
    rows = "".join(f"tenpak_{name} = {value}\n" for name, value in settings.items())
    (folder / "pytest.ini").write_text(f"[pytest]\n{rows}", encoding="utf-8")
    gates = (
        f"@pytest.mark.quantize({marker})\ndef test_{count}(): pass\n" for count, marker in enumerate(markers)
    )
    (folder / "test_gates.py").write_text("\n".join(["import pytest", *gates]), encoding="utf-8")
    return folder


def start(folder: Path, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start pytest in a project; its output is ``NAME.txt`` there, its report ``NAME.json``."""
    command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider"]
    command += [f"--tenpak-json={name}.json", f"--tenpak-baseline-dir=baselines-{name}", *arguments]
    with (folder / f"{name}.txt").open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **ONE},
            stdout=output,
            stderr=output,
            # A shell that runs this in the background has its children ignore the signal.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


def timed(folder: Path, name: str, *arguments: str) -> float:
    """Seconds of one run of all gates, from an empty cache."""
    cache, begun = folder / f"cache-{name}", time.monotonic()
    code = start(folder, name, f"--tenpak-cache-dir={cache}", *arguments).wait()
    seconds = time.monotonic() - begun
    shutil.rmtree(cache)
    if code:
        sys.exit((folder / f"{name}.txt").read_text(encoding="utf-8")[-8000:])
    return seconds


def figures(report: Path) -> dict[str, Any]:
    """All figures of each gate of a report: windows, what else was measured of the model, checks."""
    return {
        one["case"]["nodeid"]: (one["verdict"], [part["measurement"]["windows"] for part in one["parts"]])
        for one in json.loads(report.read_text(encoding="utf-8"))["outcomes"]
    }


def compare(place: Path, settings: dict[str, object], gates: int, nodes: Sequence[int]) -> None:
    """Print what the same gates take here, one after the other, and on clusters."""
    markers = [f"method='int4', group_size={8 + count}" for count in range(gates)]
    folder = write(place / "gates", settings, markers)
    local = timed(folder, "local")
    rows = [["this machine, one after the other", f"{local:.0f}", "1.00", "", ""]]
    ours = figures(folder / "local.json")
    # Nodes have a cache of their own where jobs travel through the store.
    os.environ["TENPAK_CACHE_DIR"] = str(place / "node")
    store = "--tenpak-transport=store", f"--tenpak-store=file://{place / 'store'}"
    runs = [(count, ()) for count in nodes] + [(count, store) for count in sorted({nodes[0], nodes[-1]})]
    for count, transport in runs:
        name = f"ray-{count}{'-store' if transport else ''}"
        with cluster(count) as address:
            seconds = timed(folder, name, *on(address), *transport)
        shutil.rmtree(place / "store", ignore_errors=True)
        shutil.rmtree(place / "node", ignore_errors=True)
        theirs = figures(folder / f"{name}.json")
        equal = sum(theirs.get(name) == one for name, one in ours.items())
        added = f"{(seconds - local) / gates:+.2f}" if count == 1 else ""
        title = f"Ray, {count} node{'' if count == 1 else 's'} of one CPU"
        title += ", jobs through a store" if transport else ""
        rows.append([title, f"{seconds:.0f}", f"{seconds / local:.2f}", added, f"{equal} of {gates}"])
    headers = (
        f"{gates} gates",
        "seconds",
        "of the first",
        "more, each gate",
        "outcomes equal to the first's",
    )
    print(f"\n{tabulate(rows, headers, tablefmt='github', disable_numparse=True)}", flush=True)


def wait(place: Path, settings: dict[str, object], gates: Sequence[int], address: str) -> None:
    """Print what it takes to wait for many gates, all but one of which wait for a CPU."""
    rows, cache = [], place / "cache"
    # The figures of the model itself are there: gates go on to quantizing at once.
    first = write(place / "first", settings, ["method='int4'"])
    start(first, "first", f"--tenpak-cache-dir={cache}").wait()
    for count in gates:
        for followed in dict.fromkeys((min(count, MOST), count)):
            folder = place / f"waiting-{count}-{followed}"
            found = watched(folder, settings, count, followed, cache, address)
            one = [f"{found.collected:.1f}", f"{found.submitted:.1f}", f"{found.ended:.1f}"]
            rows.append([count, found.followed, *one, f"{found.memory:.0f}", found.threads, found.files])
    headers = ["gates", "followed at once", "s to collect", "s until submitted", "s from Ctrl-C to the end"]
    headers += ["MiB resident", "threads", "open files"]
    print(f"\n{tabulate(rows, headers, tablefmt='github', disable_numparse=True)}", flush=True)


def watched(
    folder: Path, settings: dict[str, object], gates: int, followed: int, cache: Path, address: str
) -> Waiting:
    """Run gates that never end until all are submitted, and interrupt them."""
    write(folder, settings, [f"method='sleeper', number={count}" for count in range(gates)])
    (folder / "conftest.py").write_text(SLEEPER, encoding="utf-8")
    begun = time.monotonic()
    arguments = (f"--tenpak-cache-dir={cache}", f"--tenpak-jobs={followed}", *on(address))
    running = start(folder, "run", *arguments)
    looked = psutil.Process(running.pid)
    collected, peaks = 0.0, (0.0, 0, 0)
    while (seconds := time.monotonic() - begun) < PATIENCE_SECONDS:
        if not collected and (folder / "collected").exists():
            collected = seconds
        peaks = tuple(map(max, peaks, taken(looked)))  # type: ignore[assignment]
        if running.poll() is not None:
            sys.exit((folder / "run.txt").read_text(encoding="utf-8")[-8000:])
        if len(list(cache.glob("jobs/order-quantize-*"))) >= followed:
            break
        time.sleep(LOOK_SECONDS)
    running.send_signal(signal.SIGINT)
    running.wait()
    return Waiting(followed, collected, seconds, time.monotonic() - begun - seconds, *peaks)


def taken(process: psutil.Process) -> tuple[float, int, int]:
    """Resident MiB, threads and open files of a process; nothing of one that has ended."""
    try:
        return process.memory_info().rss / 2**20, process.num_threads(), process.num_fds()
    except psutil.Error:
        return 0.0, 0, 0


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gates", type=int, default=40, help="that are compared: %(default)s")
    parser.add_argument("--nodes", type=int, nargs="*", default=[1, 2, 3], help="of the clusters")
    parser.add_argument("--waiting", type=int, nargs="*", default=[100, 300, 1000], help="gates that wait")
    given = parser.parse_args()
    os.environ.update(ONE)
    print(f"{os.cpu_count()} cores, Ray {version('ray')}, torch {version('torch')}, OMP_NUM_THREADS=1")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        settings = {**train(place), "blame_seconds": 0, "max_tokens": 640}
        if given.nodes:
            compare(place, settings, given.gates, given.nodes)
        if given.waiting:
            with cluster(1) as address:
                wait(place, settings, given.waiting, address)


if __name__ == "__main__":
    main()
