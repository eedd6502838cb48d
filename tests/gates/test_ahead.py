"""Gates that start before their tests, here by --tenpak-jobs and by a command for each job."""

import json
import signal
import subprocess
import sys
import time

import pytest
from processes import gone
from projects import LEAN

THREE = """
    @pytest.mark.parametrize("size", [32, 64, 128])
    @pytest.mark.quantize(method="int4", max_tokens=640)
    def test_it(quantized, size): pass

    @pytest.mark.quantize(method="int4", group_size=32, max_tokens=640, max_ppl_delta=-0.5)
    def test_fails(quantized): pass

    @pytest.mark.quantize(method="int4", group_size=64, max_tokens=640)
    def test_asks(quantized):
        assert isinstance(quantized.generate("To be", max_new_tokens=2), str)
"""
#: A template that runs a job here, in an interpreter of its own, as ssh or srun would elsewhere.
HERE = "--tenpak-command=nice -n 1 {argv}"


def figures(path):
    """The figures of each gate of a JSON report."""
    found = {}
    for outcome in json.loads(path.read_text())["outcomes"]:
        part = outcome["parts"][0]
        windows = part["measurement"]["windows"]
        found[outcome["case"]["nodeid"]] = (windows, outcome["verdict"]["checks"])
    return found


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(("--tenpak-jobs=3",), id="jobs"),
        pytest.param(("--tenpak-executor=command", HERE), id="command", marks=pytest.mark.slow),
    ],
)
def test_outcomes_are_those_of_one_after_the_other(project, where, tmp_path):
    """Figure by figure, and check by check."""
    project.test(THREE)
    project.ini(**{**project.settings, "cache_dir": tmp_path / "one"})
    one = project.run("--tenpak-json=one.json", "--tenpak-baseline-dir=of-one")
    project.ini(**{**project.settings, "cache_dir": tmp_path / "other"})
    other = project.run("--tenpak-json=other.json", *where)
    for result in (one, other):
        result.assert_outcomes(passed=4, failed=1)
    assert figures(project.path / "one.json") == figures(project.path / "other.json")
    assert not list((tmp_path / "other" / "jobs").iterdir())


def test_gates_run_while_an_earlier_test_does(project):
    """The second gate is measured while the first test waits for something else; both pass."""
    project.test(
        """
        import pathlib, time
        from conftest import marks

        @pytest.mark.quantize(method="slow", max_tokens=640)
        def test_first(quantized):
            deadline = time.monotonic() + 60
            while len(marks()) < 2 and time.monotonic() < deadline:
                time.sleep(0.1)
            assert len(marks()) == 2, "the second gate has not begun"

        @pytest.mark.quantize(method="slow", length=2, max_tokens=640)
        def test_second(quantized): pass
        """
    )
    project.pytester.makeconftest(
        """
        import pathlib, shutil
        from pytest_tenpak import Option, Quantizer

        MARKS = pathlib.Path(__file__).with_name("marks")

        def marks():
            return list(MARKS.iterdir()) if MARKS.exists() else []

        class Slow(Quantizer):
            method = "slow"
            options = (Option("length", int, 1, "nothing"),)
            def quantize(self, job):
                MARKS.mkdir(exist_ok=True)
                (MARKS / str(job.spec.options["length"])).touch()
                for path in job.model.iterdir():
                    shutil.copy(path, job.out)

        def pytest_tenpak_register_quantizers(register):
            register(Slow)
        """
    )
    project.run("-p", "no:randomly", "--tenpak-jobs=2").assert_outcomes(passed=2)


def test_what_is_not_selected_or_skipped_is_not_started(project, tmp_path):
    """Neither by -k nor by a marker: nothing is quantized for it."""
    project.test(
        """
        @pytest.mark.quantize(method="int4", group_size=32, max_tokens=640)
        def test_wanted(quantized): pass

        @pytest.mark.quantize(method="int4", group_size=16, max_tokens=640)
        def test_other(quantized): pass

        @pytest.mark.skip(reason="not today")
        @pytest.mark.quantize(method="int4", group_size=8, max_tokens=640)
        def test_wanted_skipped(quantized): pass
        """
    )
    project.ini(**{**project.settings, "cache_dir": tmp_path / "cache"})
    project.run("-k", "wanted", "--tenpak-jobs=2").assert_outcomes(passed=1, skipped=1)
    assert len(list((tmp_path / "cache" / "checkpoints").iterdir())) == 1


def test_a_repeated_test_is_one_gate(project):
    """Three repetitions start one evaluation: the speed, which nothing caches, is timed once for each gate."""
    project.test(
        """
        @pytest.mark.quantize(method="int4", group_size=32, max_tokens=640, min_speedup=0.001)
        def test_one(quantized): pass

        @pytest.mark.quantize(method="int4", group_size=64, max_tokens=640)
        def test_other(quantized): pass
        """
    )
    project.others = {"repeat"}
    result = project.run("--tenpak-jobs=3", "--count=3")
    result.assert_outcomes(passed=6)
    assert str(result.stdout).count("tenpak: timing int4") == 1


def test_another_model_of_a_fixture_is_the_one_that_is_gated(project):
    """A gate that was started with the model of the settings is evaluated again with the test's own."""
    project.test(
        f"""
        @pytest.fixture(scope="session")
        def tenpak_model():
            return "missing-model"

        @pytest.mark.quantize(method="int4", max_tokens=640)
        def test_it(quantized): pass

        @pytest.mark.quantize(method="int4", max_tokens=640, model={str(project.model)!r})
        def test_named(quantized): pass
        """
    )
    result = project.run("--tenpak-jobs=2")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*there is no model 'missing-model'*"])


ENDLESS = """
import os, pathlib, time
from pytest_tenpak import Option, Quantizer

class Endless(Quantizer):
    method = "endless"
    options = (Option("number", int, 0, "nothing"),)
    def quantize(self, job):
        folder = pathlib.Path(__file__).with_name("pids")
        folder.mkdir(exist_ok=True)
        (folder / str(os.getpid())).touch()
        time.sleep(600)

def pytest_tenpak_register_quantizers(register):
    register(Endless)
"""


@pytest.mark.parametrize(
    "where", [("--tenpak-jobs=2",), ("--tenpak-executor=command", HERE)], ids=["jobs", "command"]
)
def test_ctrl_c_leaves_no_process_behind(project, where):
    """Two gates run, one waits: after an interrupt the run ends in seconds, and with it what it started."""
    project.pytester.makeconftest(ENDLESS)
    project.test(
        "".join(
            f'@pytest.mark.quantize(method="endless", number={count})\ndef test_{count}(quantized): pass\n'
            for count in range(3)
        )
    )
    pids = project.path / "pids"
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *LEAN, *where],
        cwd=project.path,
        stdout=subprocess.PIPE,
        text=True,
        # A shell that runs the suite in the background has its children ignore this signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        deadline = time.monotonic() + 60
        while not (pids.exists() and len(list(pids.iterdir())) >= 2) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=30)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, printed
    begun = [int(path.name) for path in pids.iterdir()]
    assert len(begun) >= 2
    assert gone(begun, 10)


def test_the_first_failure_drops_what_waits(project):
    """With -x the run ends at the failure of one test; gates that run are stopped."""
    project.pytester.makeconftest(ENDLESS)
    project.test(
        """
        @pytest.mark.quantize(method="int4", max_tokens=640, max_ppl_delta=-0.5)
        def test_fails(quantized): pass

        @pytest.mark.quantize(method="endless", max_tokens=640)
        def test_never(quantized): pass
        """
    )
    result = project.run("-x", "--tenpak-jobs=2", "--tenpak-cache-dir=new", "-p", "no:randomly")
    result.assert_outcomes(failed=1)
    (pid,) = (int(path.name) for path in (project.path / "pids").iterdir())
    assert gone([pid], 10)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tenpak-executor=slurm",), "there is no executor 'slurm'"),
        (("--tenpak-executor=command",), "a command line with the word {argv}"),
        (("--tenpak-executor=command", "--tenpak-command=srun {gpu} {argv}"), "it may have {gpus}"),
        (("--tenpak-jobs=-1",), "at least 0"),
        (("--tenpak-retries=no",), "a whole number"),
        (("--tenpak-retries=1",), "--tenpak-retries has no effect without --tenpak-executor"),
        (("--tenpak-command=x {argv}",), "--tenpak-command has no effect without --tenpak-executor"),
        (("--tenpak-ray-address=auto", "--tenpak-executor=command", HERE), "add --tenpak-executor=ray"),
        (("--tenpak-store-mode=read",), "--tenpak-store-mode has no effect without --tenpak-store"),
        (("--tenpak-store-mode=rw",), "--tenpak-store-mode: store_mode='rw' is not accepted"),
        (("--tenpak-device=cuda:0,cpu",), "--tenpak-device: there is no device 'cuda:0,cpu'"),
    ],
)
def test_a_mistake_is_answered_before_any_work(project, arguments, words):
    """With what is accepted, and exit code 4."""
    project.test(THREE)
    result = project.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{words.replace('[', '[[]')}*"])


def test_a_command_that_fails_is_told_with_what_it_said(project):
    """And is not tried again, since it never came to a job."""
    project.test(THREE)
    result = project.run("--tenpak-executor=command", "--tenpak-command=sh -c 'echo no node; exit 3' {argv}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "*should find out what devices a machine has gave no answer*",
            "*exit code 3 before the job had begun: no node (it has to run {argv} to its end*",
        ]
    )


@pytest.mark.slow
def test_a_job_that_is_lost_with_its_machine_is_begun_again(project):
    """Once, if that is enough; the report names it, and the verdict is there."""
    once = project.path / "once.py"
    once.write_text(
        "import os, pathlib, sys\n"
        "flag = pathlib.Path(__file__).with_name('lost')\n"
        "if not flag.exists() and 'order-quantize' in sys.argv[-1]:\n"
        "    flag.touch()\n"
        "    (pathlib.Path(sys.argv[-1]) / 'started').touch()\n"
        "    os.kill(os.getpid(), 9)\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    project.test(
        "@pytest.mark.quantize(method='int4', group_size=24, max_tokens=640)\ndef test_it(quantized): pass"
    )
    command = f"--tenpak-command={sys.executable} {once} {{argv}}"
    result = project.run("--tenpak-executor=command", command, "--tenpak-json=run.json")
    result.assert_outcomes(passed=1)
    (outcome,) = json.loads((project.path / "run.json").read_text())["outcomes"]
    (lost,) = outcome["retried"]
    assert lost.startswith("quantize, attempt 1: the command ended with exit code -9")
    (project.path / "lost").unlink()
    result = project.run("--tenpak-executor=command", command, "--tenpak-retries=0", "--tenpak-cache-dir=new")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*raise --tenpak-retries*"])
