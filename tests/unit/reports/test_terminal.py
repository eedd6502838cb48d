"""What a person reads in the terminal: inert whatever it names, and complete."""

import pytest
from made_up import HOSTILE, outcome, summary, unmeasured

from pytest_tenpak.reports.terminal import failure, summary_lines


@pytest.mark.parametrize("nodeid", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_are_inert(nodeid):
    """They move no cursor, start no line, and give a runner of GitHub Actions no command."""
    bad = outcome(nodeid, 1.2)
    crash = unmeasured("test_b.py::test_b", f"crash\n{nodeid}")
    run = summary(
        bad, crash, outcome("c", 0.9, corpus=(nodeid,)), problems=(nodeid,), expected=(nodeid, "z\n::x")
    )
    lines = [*summary_lines(run), *failure(bad).split("\n"), *failure(crash).split("\n")]
    assert all(line.isprintable() for line in lines)
    assert not [line for line in lines if line.lstrip().startswith("::") or "##[" in line]
    assert max(map(len, summary_lines(run)[:6])) < 500


def test_the_command_that_accepts_is_whole():
    """However long the test's id is: a command that was cut would accept nothing."""
    assert f"pytest '{HOSTILE['long']}' --tenpak-update" in failure(outcome(HOSTILE["long"], 1.2))


def test_what_did_not_run_is_named():
    """Ten of them, and how many more."""
    run = summary(outcome("t::00"), expected=tuple(f"t::{n:02}" for n in range(15)))
    assert "15 gates expected, 1 ran" in summary_lines(run)
    names = ", ".join(f"t::{n:02}" for n in range(1, 11))
    assert f"did not run: {names} and 4 more" in summary_lines(run)
