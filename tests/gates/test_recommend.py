"""`tenpak recommend`, for real on the trained model: the answer, its marker as a gate, the cache, wrong input."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from commanding import Suite, suite  # noqa: F401
from projects import LEAN

BOUNDS = ("--max-ppl-delta", "0.05", "--min-compression")
CHEAP = "--methods=int8,bnb-nf4"


def recommend(project, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a project, in a terminal of 80 columns."""
    command = [sys.executable, "-m", "pytest_tenpak", "recommend", *arguments, *LEAN]
    return subprocess.run(
        command,
        cwd=project.path,
        env={**project.environment, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def small(project, monkeypatch):
    """A project with a small budget, whose answers are in the session's cache once they were given."""
    project.ini(**project.settings, max_tokens=504)
    project.environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return project


def test_the_recommended_marker_is_a_gate_that_passes(small):
    """Frontier, why the others are out, the marker; pasted into a test it passes; again, nothing is run."""
    ran = recommend(small, *BOUNDS, "2", CHEAP, "--html=out.html", "--json=out.json")
    assert ran.returncode == 0, ran.stderr
    assert max(map(len, ran.stdout.splitlines())) <= 80
    assert re.search(r"^bnb-nf4 +2\.\d\d× +[+-]\d", ran.stdout, re.MULTILINE)
    # Its figures stand there too where another test has measured it: the cache is the session's.
    assert re.search(r"int8: 1\.53×[^;]*; out:\s+compression is below\s+min_compression", ran.stdout)
    marker = '@pytest.mark.quantize(method="bnb-nf4", max_ppl_delta=0.05, min_compression=2)'
    assert marker in ran.stdout
    plain = json.loads((small.path / "out.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in plain["rows"]}
    assert (plain["pick"], {*rows}) == ("bnb-nf4", {"bnb-nf4", "int8"})
    assert (rows["bnb-nf4"]["place"], rows["int8"]["out"]["why"]) == (
        "frontier",
        "compression below the bound",
    )
    assert "bnb-nf4" in (small.path / "out.html").read_text(encoding="utf-8")

    again = recommend(small, *BOUNDS, "2", CHEAP)
    assert again.stdout == ran.stdout
    assert "quantizing" not in again.stderr
    assert "measuring bnb" not in again.stderr

    small.test(f"{marker}\ndef test_it(): pass\n")
    result = small.run("--tenpak-json=gate.json")
    result.assert_outcomes(passed=1)
    outcome = json.loads((small.path / "gate.json").read_text(encoding="utf-8"))["outcomes"][0]
    assert outcome["figures"]["compression"]["whole_vs_16bit"] == rows["bnb-nf4"]["compression"]


def test_a_recipe_that_fails_is_a_row_and_bounds_that_none_meets_are_said(small):
    """The others go on; exit code 1, and the bound that the nearest recipe would meet."""
    small.pytester.makeconftest(
        "from pytest_tenpak import Quantizer\n"
        "class Broken(Quantizer):\n"
        "    method = 'broken'\n"
        "    def quantize(self, job): raise RuntimeError('no luck')\n"
        "class Missing(Broken):\n"
        "    method = 'missing'\n"
        "    requires = ('no-such-library',)\n"
        "def pytest_tenpak_register_quantizers(register):\n"
        "    register(Broken)\n"
        "    register(Missing)\n"
    )
    ran = recommend(small, *BOUNDS, "3", "--methods=broken,missing,bnb-nf4")
    assert ran.returncode == 1, ran.stderr
    said = " ".join(ran.stdout.split())
    assert "broken: failed: the worker process that should quantize ended with exit code 1" in said
    assert "RuntimeError: no luck" in ran.stderr, "the end of its log"
    assert "missing: not run: method 'missing' needs no-such-library, which is not installed" in said
    assert "no recipe meets max_ppl_delta=0.05 and min_compression=3" in said
    assert re.search(r"nearest: bnb-nf4 \(2\.\d\d×, .* would meet min_compression=2\.\d+", said)


def test_nothing_is_begun_past_the_time_limit(small):
    """What would take too long is listed with why, and the answer says that the search goes on from there."""
    small.pytester.makeconftest(
        "from pytest_tenpak import Quantizer\n"
        "class Slow(Quantizer):\n"
        "    method = 'slow'\n"
        "    calibrates = True\n"
        "    def quantize(self, job): raise RuntimeError('was begun')\n"
        "def pytest_tenpak_register_quantizers(register): register(Slow)\n"
    )
    ran = recommend(small, *BOUNDS, "3", "--methods=slow", "--max-seconds=2")
    assert ran.returncode == 1, ran.stderr
    said = " ".join(ran.stdout.split())
    assert re.search(r"slow: not run: quantizing may take \d+ s, past the limit of 2 s", said)
    assert "the time limit ended the search: the same command goes on from here" in said


def test_an_interrupted_search_says_how_to_go_on(small):
    """It ends with its workers, exit code 2, and nothing that a user has to clear away."""
    small.pytester.makeconftest(
        "import time\n"
        "from pytest_tenpak import Quantizer\n"
        "class Endless(Quantizer):\n"
        "    method = 'endless'\n"
        "    def quantize(self, job):\n"
        "        job.progress(1, 2, 'steps')\n"
        "        time.sleep(600)\n"
        "def pytest_tenpak_register_quantizers(register): register(Endless)\n"
    )
    command = [sys.executable, "-m", "pytest_tenpak", "recommend", "--methods=endless", *LEAN]
    with subprocess.Popen(
        command,
        cwd=small.path,
        env=small.environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell that runs the suite in the background has its children ignore this signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        said = ""
        for line in process.stderr:
            said += line
            if line.startswith("quantizing to endless"):
                process.send_signal(signal.SIGINT)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert "the same command goes on from there" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model=nowhere",), "nowhere"),
        ((), "no model was named"),
        (("--model=m", "--methods=nf5"), "there is no method 'nf5'; did you mean 'nf4'?"),
        (("--model=m", "--max-ppl-delta=much"), "max_ppl_delta='much' is not accepted"),
        (("--model=m", "--max-ppl-delta=-2"), "above -1"),
        (("--model=m", "--min-compression=0"), "a number above 0"),
        (("--model=m", "--min-compression=nan"), "a number above 0"),
        (("--model=m", "--max-seconds=-1"), "at least 0"),
        (("--model=m", "--max-tokens=-1"), "at least 0"),
        (("--model=m", "--device=tpu"), "there is no device 'tpu'"),
        (("--model=m", "--html=."), "is a folder"),
        (("--model=m", "--json=file/x.json"), "file is a file, no folder"),
    ],
)
def test_a_mistake_is_answered_before_any_work(suite, arguments, words):  # noqa: F811
    """In a few lines, with what is accepted, and exit code 4."""
    (suite.path / "file").write_text("")
    printed = suite.tenpak("recommend", *arguments)
    assert suite.code == pytest.ExitCode.USAGE_ERROR
    assert words in suite.errors
    assert "Traceback" not in printed + suite.errors
