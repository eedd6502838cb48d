"""What a person reads in the terminal: inert whatever it names, and complete."""

import re
import shlex
from dataclasses import replace

import pytest
from made_up import HOSTILE, outcome, summary, unmeasured

from pytest_tenpak.reports import wording
from pytest_tenpak.reports.columns import COLUMNS, Measured, column_legend
from pytest_tenpak.reports.terminal import failure, summary_lines, table
from pytest_tenpak.spec import QuantizeSpec
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
    "all wide": summary(
        replace(
            outcome("tests/a.py::test[a-rather-long-parameter]", 1.2, spec=QuantizeSpec("m" * 40, {})),
            body_passed=False,
        ),
        replace(outcome("tests/b.py::test", spec=QuantizeSpec("m" * 40, {})), body_passed=False),
    ),
}


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("width", [80, 120, 160, 200])
@pytest.mark.parametrize("run", GATES.values(), ids=GATES)
def test_the_table_is_never_wider_than_the_terminal(run, width, verbose):
    """What decides stays whatever the width: gate, method, both differences, verdict."""
    lines = table(run.outcomes, width=width, verbose=verbose)
    titles = [f"{one.title}:" for one in run.outcomes]
    assert [line for line in lines if len(line) > width and line not in titles] == []
    for title in ("gate", "method", "Δ reference", "Δ baseline", "verdict"):
        assert title in lines[0]
    assert all(wording.verdict_words(one) in "\n".join(lines) for one in run.outcomes)


TITLES = ["bits/weight", "compression", "perplexity", "KLD", "top-1", "tokens"]


def test_columns_go_by_their_importance_and_the_table_says_which():
    """What fits is shown, all of it without a terminal; compression stays longest."""
    run = GATES["short"]
    whole, narrow = table(run.outcomes), table(run.outcomes, width=80)
    assert all(title in whole[0] for title in TITLES)
    assert "not shown at this width" not in "\n".join(whole)
    assert [title for title in TITLES if title in narrow[0]] == ["compression"]
    hidden = "bits/weight, perplexity, KLD, top-1, tokens"
    words = " ".join(" ".join(narrow).split())
    assert f"not shown at this width: {hidden} (-v lists them, and all reports have them)" in words
    shown = [
        sum(title in table(run.outcomes, width=width)[0] for title in TITLES) for width in (80, 110, 200)
    ]
    assert shown == sorted(set(shown))
    assert table(run.outcomes, width=200) == whole


def test_verbose_lists_what_has_no_room():
    """Below the table, with whole names, and with what every title means; nothing is left out."""
    run = GATES["long"]
    lines = table(run.outcomes, width=80, verbose=True)
    words = " ".join(" ".join(lines).split())
    assert "not shown" not in words
    for one in run.outcomes:
        cells = [column.text(Measured(one, one.parts[0])) for column in COLUMNS if column.rank]
        listed = ", ".join(f"{title} {cell}" for title, cell in zip(TITLES, cells, strict=True))
        assert f"{one.title}: {listed}" in words
    assert column_legend(COLUMNS) in words
    assert table(run.outcomes, width=200, verbose=True) == table(run.outcomes, width=200)


def test_colours_move_nothing():
    """A painted table is the same table."""
    run = GATES["long"]
    for width in (None, 80):
        painted = table(run.outcomes, lambda text, status: f"\x1b[31m{text}\x1b[0m", width)
        assert [re.sub(r"\x1b\[\d+m", "", line) for line in painted] == table(run.outcomes, None, width)
        assert sum("\x1b" in line for line in painted) == len(run.outcomes)


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["tests/deep/test_a.py::test_nf4"], ["…/test_a.py::test_nf4"]),
        (["tests/deep/test_quantized_models.py::test_nf4"], ["…::test_nf4"]),
        (
            ["a/test_a.py::test_nf4_of_a_model", "b/test_a.py::test_nf4_of_a_model"],
            ["a/test_a.py:…4_of_a_model", "b/test_a.py:…4_of_a_model"],
        ),
        (["tests/test_a.py::test_nf4[a-rather-long-parameter-1]"], ["…::test_nf4[…parameter-1]"]),
        (
            ["short.py::test", "not an id, and longer than its room"],
            ["short.py::test", "not an id, a…han its room"],
        ),
    ],
)
def test_a_long_name_loses_its_path_first_and_then_its_middle(names, short):
    """What tells gates apart stays: a test's own name, and folders where names are the same."""
    gates = [outcome(name, spec=QuantizeSpec("a-method", {})) for name in names]
    lines = table(gates, width=69)[2 : 2 + len(names)]
    assert [line.split("  ")[0] for line in lines] == short


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
