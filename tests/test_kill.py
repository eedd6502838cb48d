"""kill -9 at any moment: every baseline is whole afterwards, old or new."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from pytest_tenpak.baseline import Baseline

pytestmark = pytest.mark.slow


def test_killing_an_updating_run_leaves_every_baseline_whole(project):
    """Runs that rewrite 40 baselines are killed at 20 random moments; each file is the old one or the new."""
    project.test(
        """
        @pytest.mark.parametrize("n", range(40))
        @pytest.mark.quantize(method="nf4")
        def test_many(n): pass
        """
    )
    sizes: list[int] = []
    project.run("--tenpak-context=32", "--tenpak-baseline-dir=warm").assert_outcomes(passed=40)
    project.run().assert_outcomes(passed=40)
    moments = random.Random(0)
    for turn in range(20):
        # Another context is another identity, so every run replaces every baseline.
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "--tenpak-update=failing"]
        command += ["--tenpak-accept=turn", f"--tenpak-context={(32, 64)[turn % 2]}"]
        process = subprocess.Popen(
            command, cwd=project.path, stdout=subprocess.DEVNULL, start_new_session=True, env=dict(os.environ)
        )
        time.sleep(moments.uniform(0.8, 4.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        files = sorted((project.path / "baselines").rglob("*.json"))
        assert len(files) == 40
        sizes += [len(Baseline.read(file).entries["cpu"].tokens) for file in files]
    assert set(sizes) == {110, 221}, "some runs were killed while they wrote"
    accept = ("--tenpak-update=failing", "--tenpak-accept=end")
    project.run(*accept).assert_outcomes(passed=40)
