"""What GitHub Actions is told: annotations where the markers stand, and the summary of the step."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import HOSTILE, outcome, summary, unmeasured

from pytest_tenpak.reports.github import Actions
from pytest_tenpak.reports.markdown import STEP_SUMMARY_BYTES, render

ACTIONS = Actions(None, None)


def annotations(run, actions=ACTIONS, root=Path("/w/project"), **rest) -> list[str]:
    return actions.annotations(run, root, **rest)


def test_what_fails_is_an_error_at_its_marker():
    """File, line, title; what is broken, by how much, and what accepts it; on one line."""
    (line,) = annotations(summary(outcome("tests/test_a.py::test_a", 1.2, file="tests/test_a.py", line=12)))
    properties, _, told = line.removeprefix("::error ").partition("::")
    assert properties == "file=tests/test_a.py,line=12,title=tenpak%3A tests/test_a.py%3A%3Atest_a"
    lines = told.split("%0A")
    assert lines[0].startswith("regressed: perplexity vs baseline +20.00%25, bound ≤ +0.5%25")
    assert lines[-1].startswith("to accept: pytest tests/test_a.py::test_a --tenpak-update=failing")


def test_kinds():
    """Errors for what fails, a refused baseline among it; warnings for what passes and wants a look."""
    run = summary(
        unmeasured("error"),
        outcome("refused", entry=None),
        outcome("created", entry=None, in_ci=False),
        outcome("improved", 0.9),
        unmeasured("skipped", skipped=True),
    )
    kinds = [
        (re.match(r"::(\w+)", line)[1], line.partition("title=tenpak%3A ")[2]) for line in annotations(run)
    ]
    assert [(kind, told.partition("::")[0]) for kind, told in kinds] == [
        ("error", "error"),
        ("error", "refused"),
        ("warning", "created"),
        ("warning", "improved"),
    ]
    assert "baseline created: review and commit it" in kinds[2][1]
    assert "can be tightened by -10.00%25 of perplexity" in kinds[3][1]


def test_a_decision_by_the_point_estimate_is_a_warning():
    """And a gate that passed on clear evidence is none."""
    undecided = outcome()
    checks = tuple(replace(check, decisive=True) for check in undecided.verdict.checks)
    clear = replace(undecided, verdict=replace(undecided.verdict, checks=checks))
    assert annotations(summary(clear)) == []
    (line,) = annotations(summary(undecided))
    assert line.startswith("::warning ")
    assert "decided by the point estimate: perplexity vs baseline" in line


def test_ten_of_a_kind():
    """What GitHub would drop is counted on the tenth, and is in the summary."""
    lines = annotations(summary(*(outcome(f"t::{n:02}", 1.2 if n < 14 else 0.9) for n in range(26))))
    errors = [line for line in lines if line.startswith("::error")]
    warnings = [line for line in lines if line.startswith("::warning")]
    assert (len(errors), len(warnings)) == (10, 10)
    assert errors[-1].endswith("%0A4 more gates have an error: see the summary of this job")
    assert warnings[-1].endswith("%0A2 more gates have a warning: see the summary of this job")
    assert "more gates" not in "".join(errors[:-1])


def test_errors_can_be_left_to_another_plugin():
    """Warnings stay, since nobody else tells them."""
    lines = annotations(summary(outcome("a", 1.2), outcome("b", 0.9)), with_errors=False)
    assert [line.partition(" ")[0] for line in lines] == ["::warning"]


@pytest.mark.parametrize(
    ("workspace", "file"),
    [
        ("/w", "project/test_a.py"),
        ("/w/project", "test_a.py"),
        ("/elsewhere", "test_a.py"),
        (None, "test_a.py"),
    ],
)
def test_paths_are_those_of_the_checkout(workspace, file):
    """GitHub shows an annotation where its file is in the repository."""
    actions = Actions(None, Path(workspace) if workspace else None)
    (line,) = annotations(summary(outcome("a", 1.2)), actions)
    assert line.startswith(f"::error file={file},line=7,")


@pytest.mark.parametrize("nodeid", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_are_one_command(nodeid):
    """No name ends the line, closes the properties, or adds one."""
    lines = annotations(summary(outcome(nodeid, 1.2, file=nodeid), unmeasured("b", f"crash in {nodeid}")))
    assert len(lines) == 2
    for line in lines:
        assert line.isprintable()
        assert re.fullmatch(r"::error file=[^,:]*,line=\d+,title=tenpak%3A [^,:]*::.*", line)
        assert "##[" not in line
        assert not re.search("%(?!25|0A|3A|2C)", line)


def test_the_environment_tells():
    """Nothing outside Actions."""
    assert Actions.of({}) is None
    assert Actions.of({"GITHUB_ACTIONS": "false"}) is None
    found = Actions.of({"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": "/s", "GITHUB_WORKSPACE": ""})
    assert found == Actions(Path("/s"), None)


def test_the_step_summary_is_appended_to(tmp_path):
    """What is there stays; without a file to write to nothing happens."""
    path = tmp_path / "summary.md"
    path.write_text("# Before")
    Actions(path, None).write_step_summary(summary(outcome()))
    assert path.read_text() == "# Before\n" + render(summary(outcome()))
    ACTIONS.write_step_summary(summary(outcome()))


@pytest.mark.parametrize("left", [0, 1, 100, 2000])
def test_the_step_summary_stays_below_its_limit(tmp_path, left):
    """Whatever others have written: GitHub drops a summary that is too long as a whole."""
    path = tmp_path / "summary.md"
    path.write_bytes(b"x" * (STEP_SUMMARY_BYTES - left))
    Actions(path, None).write_step_summary(summary(*(outcome(f"t::{n}", 1.2) for n in range(20))))
    assert path.stat().st_size <= STEP_SUMMARY_BYTES
    assert (left < 2000) or "left out of" in path.read_text()
