"""Steps of the proof: each within its time, and what goes wrong with one costs only itself."""

import json
import os
import sys

import pytest
from processes import gone
from running import FAILED, PASSED, TOO_LONG, Step, run_steps


@pytest.fixture
def step(tmp_path):
    """Makes a step of Python code."""

    def make(name, code, seconds=20.0, figures=dict):
        return Step(name, f"what {name} is", seconds, (sys.executable, "-c", code), tmp_path, figures)

    return make


def run(steps, tmp_path, **more):
    return run_steps(steps, dict(os.environ), tmp_path / "logs", **more)


def test_a_step_that_fails_costs_only_itself(step, tmp_path):
    """The others run, and the end of what it printed is kept."""
    results = run([step("bad", "raise SystemExit('no wheels')"), step("good", "print('fine')")], tmp_path)
    assert [(one.name, one.status, one.exit_code) for one in results] == [
        ("bad", FAILED, 1),
        ("good", PASSED, 0),
    ]
    assert "no wheels" in results[0].log


def test_a_step_that_exceeds_its_limit_costs_only_itself(step, tmp_path):
    """It is ended with what it started, and the rest goes on."""
    slow = Step("slow", "", 0.2, ("sh", "-c", "sleep 60 & echo $!; sleep 60"), tmp_path)
    results = run([slow, step("good", "print('fine')")], tmp_path)
    assert [one.status for one in results] == [TOO_LONG, PASSED]
    assert 0.2 <= results[0].seconds < 10
    assert gone([int(results[0].log)], seconds=5)


def test_a_command_that_is_not_there_is_a_failure(step, tmp_path):
    """Not the end of the proof."""
    gone = Step("gone", "", 5.0, (str(tmp_path / "no-such-python"),), tmp_path)
    results = run([gone, step("good", "print('fine')")], tmp_path)
    assert [one.status for one in results] == [FAILED, PASSED]
    assert "no-such-python" in results[0].log


def test_time_that_one_step_leaves_is_the_next_ones(step, tmp_path):
    """So all together never take more than the sum of their limits."""
    quick, long = step("quick", "pass", 30.0), step("long", "import time; time.sleep(0.2)", 0.1)
    results = run([quick, long], tmp_path)
    assert [one.status for one in results] == [PASSED, PASSED]
    assert results[0].limit == 30.0
    assert 0.1 < results[1].limit < 30.1


def test_figures_are_read_from_what_a_step_wrote(step, tmp_path):
    """Also of a step that failed after it had written some; without them a step has not passed."""
    out = tmp_path / "figures.json"

    def read():
        return json.loads(out.read_text())

    write = f"open({str(out)!r}, 'w').write('{{\"x\": 1}}')"
    missing, written, failed = run(
        [
            step("missing", "pass", figures=read),
            step("written", write, figures=read),
            step("failed", "raise SystemExit(2)", figures=read),
        ],
        tmp_path,
    )
    assert (missing.status, missing.figures) == (FAILED, {})
    assert "no figures" in missing.log
    assert (written.status, written.figures) == (PASSED, {"x": 1})
    assert (failed.status, failed.figures) == (FAILED, {"x": 1})


def test_figures_of_an_unexpected_shape_cost_only_their_step(step, tmp_path):
    """Whatever reading them raises; a step that had failed keeps its own reason."""
    bad = [
        step(name, code, figures=lambda: None.pop())
        for name, code in (("a", "pass"), ("b", "raise SystemExit('x')"))
    ]
    results = run([*bad, step("good", "pass")], tmp_path)
    assert [one.status for one in results] == [FAILED, FAILED, PASSED]
    assert "no figures: AttributeError" in results[0].log
    assert "no figures" not in results[1].log


def test_each_result_is_reported_when_it_is_known(step, tmp_path):
    """What was found so far stays, whatever happens to the machine."""
    seen = []
    run([step("one", "pass"), step("two", "pass")], tmp_path, report=lambda found: seen.append(len(found)))
    assert seen == [1, 2]
