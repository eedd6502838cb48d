"""What a person reads in the terminal: inert whatever it names, and complete."""

import shlex

import pytest
from made_up import HOSTILE, outcome, summary, unmeasured

from pytest_tenpak.reports import wording
from pytest_tenpak.reports.terminal import failure, summary_lines, table
from pytest_tenpak.verdict.checks import Limits


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


# ---------------------------------------------------------------- as wide as the terminal

GATES = {
    "short": summary(outcome("test_a.py::test_a", 1.2), unmeasured("test_b.py::test_b")),
    "long": summary(
        outcome(f"tests/quantization/{'deeply/' * 8}nested/test_matrix.py::test_recipe[group-{128}]", 1.2),
        outcome("test_c.py::test_c", 1.3, mode="failing"),
    ),
    "two texts": summary(outcome("test_a.py::test_a", corpus=("text.txt", "other.txt"))),
}


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("run", GATES.values(), ids=GATES)
def test_the_table_is_never_wider_than_the_terminal(run, width):
    """What decides stays whatever the width: gate, method, both differences, verdict."""
    lines = table(run.outcomes, width=width)
    assert max(map(len, lines)) <= width
    for title in ("gate", "method", "Δ reference", "Δ baseline", "verdict"):
        assert title in lines[0]
    assert all(wording.verdict_words(one) in "\n".join(lines) for one in run.outcomes)


def test_columns_go_by_their_importance_and_the_table_says_which():
    """A terminal of 160 columns and more shows what fits; verbose or without a terminal all are there."""
    run = GATES["short"]
    whole, narrow = table(run.outcomes), table(run.outcomes, width=80)
    titles = ["bits/weight", "compression", "perplexity", "KLD", "top-1", "tokens"]
    assert all(title in whole[0] for title in titles)
    assert "not shown at this width" not in "\n".join(whole)
    hidden = [title for title in titles if title not in narrow[0]]
    assert hidden
    assert f"not shown at this width: {', '.join(hidden)}; -v shows all columns" in " ".join(
        " ".join(narrow).split()
    )
    assert table(run.outcomes, width=80, all_columns=True)[: len(run.outcomes) + 2] == whole[:-1]
    shown = [
        sum(title in table(run.outcomes, width=width)[0] for title in titles) for width in (80, 110, 200)
    ]
    assert shown == sorted(shown)
    assert shown[-1] == len(titles)


def test_a_name_that_is_too_long_loses_its_beginning():
    """The test's own name is at the end, and tells gates apart."""
    (row,) = [line for line in table(GATES["long"].outcomes, width=90) if "group-128" in line]
    assert row.startswith("…")
    assert row.split()[0].endswith("test_recipe[group-128]")


def test_a_command_of_several_lines_can_be_pasted():
    """Each line but the last ends in a backslash, and no word is cut."""
    bad = outcome("test_a.py::test_with_a_rather_long_name[a b]", 1.2)
    text = failure(bad, 60)
    command = text[text.index("to accept: ") + len("to accept: ") :]
    assert command.count(" \\\n") >= 1
    assert shlex.split(command.replace("\\\n", " ")) == shlex.split(wording.remedy(bad).text)


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_failure_fits_the_terminal(width):
    """Evidence and notes wrap with an indent; the table of checks is made narrower, and commands stay whole."""
    bad = outcome("test_a.py::test_a", 1.2, limits=Limits(0.1, {"whole_vs_16bit": 9.0}))
    text = failure(bad, width)
    assert max(map(len, text.splitlines())) <= width
    assert " ".join(text.split()).count("perplexity vs baseline: point estimate") == 1
    assert failure(bad) == failure(bad, 10_000)
    (line,) = [one for one in failure(bad).splitlines() if one.startswith("perplexity vs baseline: ")]
    words = " ".join(text.split())
    assert " ".join(line.split()) in words


def test_what_cannot_be_measured_wraps_too():
    """The lines of an error keep their indents, and are no wider than the terminal."""
    problem = "test_a.py::test_a: the model is quantized already\n  given:      " + "a long word " * 20
    lines = failure(unmeasured(problem=problem), 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("  given:      a long word")
    assert lines[2].startswith("    ")
