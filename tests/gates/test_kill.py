"""kill -9 at any moment: every baseline is whole afterwards, old or new, and none is lost."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import SUPPORT
from projects import LEAN
from warm_start import cold

from pytest_tenpak.baselines.entry import Baseline

pytestmark = pytest.mark.slow

COUNT = 40
#: 180 more kills without the start of a pytest each: the session's own writing, in a fork that is killed.
DRIVER = """
import os, random, signal, sys, time
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from made_up import measured, outcome
from pytest_tenpak.store.store import Store
from pytest_tenpak.session.write_baseline import write_baseline
from pytest_tenpak.verdict.update import Update

folder, store, moments = Path(sys.argv[2]), Store(Path(sys.argv[3])), random.Random(1)

def rewrite_all(windows):
    for n in range(40):
        rewritten = replace(outcome(entry=None), update=Update(True, True, "turn"))
        nll = tuple(9.0 + n + window % 3 for window in range(windows))
        part = replace(rewritten.parts[0], name=f"many/{n}", measurement=measured(nll))
        write_baseline(rewritten, part, folder, store)

rewrite_all(60)
for turn in range(180):
    child = os.fork()
    if not child:
        while True:
            rewrite_all((80, 60)[turn % 2])
    time.sleep(moments.uniform(0.0, 0.3))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(turn, flush=True)
    sys.stdin.readline()
"""


def sizes(folder: Path) -> list[int]:
    """How many windows each baseline holds; none is lost, and none is half."""
    files = sorted(folder.rglob("*.json"))
    assert len(files) == COUNT
    return [len(entry.tokens) for file in files for entry in Baseline.read(file).entries.values()]


def test_killing_the_sessions_writing_180_times_leaves_every_baseline_whole(tmp_path):
    """Whatever was being written, each file is the old one or the new, and what is left over is swept."""
    folder = tmp_path / "baselines"
    command = [sys.executable, "-c", DRIVER, str(SUPPORT), str(folder), str(tmp_path / "cache")]
    seen = set()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        for turn in range(180):
            assert driver.stdout.readline() == f"{turn}\n"
            found = sizes(folder)
            seen |= {len(set(found))}
            driver.stdin.write("\n")
            driver.stdin.flush()
    assert driver.returncode == 0
    assert seen == {1, 2}, "some were killed while they wrote"


def test_killing_an_updating_run_leaves_every_baseline_whole(project):
    """Runs that rewrite 40 baselines, alone or with workers, are killed at 20 random moments."""
    project.test(
        """
        @pytest.mark.parametrize("n", range(40))
        @pytest.mark.quantize(method="nf4")
        def test_many(n): pass
        """
    )
    seen: list[int] = []
    project.run("--tenpak-context=32", "--tenpak-baseline-dir=warm").assert_outcomes(passed=40)
    project.run().assert_outcomes(passed=40)
    moments = random.Random(0)
    for turn in range(20):
        # Another context is another identity, so every run replaces every baseline.
        command = [sys.executable, "-m", "pytest", "-q", *LEAN, "--tenpak-update=failing"]
        command += ["--tenpak-accept=turn", f"--tenpak-context={(32, 64)[turn % 2]}"]
        command += ["-n", "2"] if turn % 4 > 1 else []
        process = subprocess.Popen(
            command, cwd=project.path, stdout=subprocess.DEVNULL, start_new_session=True, env=cold(os.environ)
        )
        time.sleep(moments.uniform(0.8, 4.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        seen += sizes(project.path / "baselines")
    assert set(seen) == {110, 221}, "some runs were killed while they wrote"
    accept = ("--tenpak-update=failing", "--tenpak-accept=end")
    project.run(*accept).assert_outcomes(passed=40)
