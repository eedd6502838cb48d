"""Shards of a CI matrix become one report with one exit code."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import outcome, summary, unmeasured

from pytest_tenpak.cli.main import main
from pytest_tenpak.metrics.intervals import Rule
from pytest_tenpak.reports.merge import merge, shard_names
from pytest_tenpak.reports.run_document import read_document, render
from pytest_tenpak.reports.terminal import summary_lines
from pytest_tenpak.reports.wording import run_words

A, B = outcome("t::a"), outcome("t::b")


def test_shards_with_gates_of_their_own_become_one_run():
    """Every gate once, in order, under its own id; what else they tell is joined."""
    one = summary(B, expected=("t::b", "t::c"), written=("w1",), unused=("x", "y"), problems=("full",))
    run = merge({"one": one, "two": summary(A, written=("w2", "w1"), unused=("y", "z"))})
    assert run.outcomes == (A, B)
    assert run.expected == ("t::a", "t::b", "t::c")
    assert run.missing == ("t::c",)
    assert run.written == ("w1", "w2")
    assert run.unused == ("y",)
    assert run.problems == ("one: full",)
    assert run.rule == Rule()


def test_the_same_outcome_twice_is_once():
    """A shard that was given twice, or uploaded twice."""
    run = merge({"one": summary(A), "two": summary(A, B)})
    assert [one.title for one in run.outcomes] == ["t::a", "t::b"]


def test_a_gate_that_differs_is_there_for_every_shard():
    """Other figures, another device, or one that never ran it: none overwrites another, and each is named."""
    gpu = replace(A, device_class="cuda-sm90")
    silent = summary(expected=("t::a",))
    run = merge(
        {"cpu": summary(A), "gpu": summary(gpu), "lost": silent, "worse": summary(outcome("t::a", 1.2))}
    )
    assert [one.title for one in run.outcomes] == ["t::a (cpu)", "t::a (gpu)", "t::a (worse)"]
    assert [one.device_class for one in run.outcomes] == ["cpu", "cuda-sm90", "cpu"]
    assert run.missing == ("t::a (lost)",)
    assert len(run.expected) == 4
    assert {one.case.nodeid for one in run.outcomes} == {"t::a"}


def test_rules_that_differ_are_none():
    """The joint report claims no error rate that only some of it has."""
    assert merge({"one": summary(A), "two": summary(B, rule=Rule(0.01))}).rule is None


def test_merging_again_keeps_what_told_gates_apart():
    """A joint report is a report: its shards' names stay."""
    once = merge({"x": summary(A), "y": summary(outcome("t::a", 1.2))})
    assert merge({"x": once}) == once
    titles = [one.title for one in merge({"1": once, "2": merge({"x": summary(B)})}).outcomes]
    assert titles == ["t::a (x)", "t::a (y)", "t::b"]


@pytest.mark.parametrize(
    ("shards", "fine"),
    [
        ((summary(A), summary(B)), True),
        ((summary(A), summary(outcome("t::b", 1.2))), False),
        ((summary(A), summary(outcome("t::b", 0.9))), True),
        ((summary(A, expected=("t::a", "t::b")),), False),
        ((summary(A, problems=("full",)),), False),
        ((summary(unmeasured("t::a", skipped=True)),), False),
        ((summary(unmeasured("t::a", skipped=True)), summary(A)), True),
        ((summary(unmeasured("t::a", skipped=True)), summary(outcome("t::a", 1.2))), False),
        ((summary(outcome("t::a", entry=None)),), False),
        ((summary(),), False),
        ((summary(), summary(A)), True),
    ],
    ids=[
        "all pass",
        "one fails",
        "better",
        "missing",
        "problem",
        "skipped",
        "ran elsewhere",
        "failed elsewhere",
        "refused",
        "none",
        "none in one",
    ],
)
def test_a_matrix_is_fine_when_every_gate_ran_and_passed(shards, fine):
    """A skip is fine where another shard ran the gate; a gate that ran nowhere never is."""
    assert merge({str(n): shard for n, shard in enumerate(shards)}).ran_well is fine


def test_shards_are_named_by_what_tells_their_files_apart():
    """By the file alone where that is enough, with folders where it is not."""
    assert list(shard_names([Path("x/cpu.json"), Path("x/gpu.json")])) == ["cpu", "gpu"]
    assert list(shard_names([Path("cpu/x/run.json"), Path("gpu/x/run.json")])) == ["cpu/x/run", "gpu/x/run"]
    assert list(shard_names([Path("run.json"), Path("./run.json")])) == ["run"]
    # What follows a point is no suffix of ours: neither shard may take the other's place.
    assert list(shard_names([Path("run-py3.10"), Path("run-py3.11")])) == ["run-py3.10", "run-py3.11"]
    assert len(shard_names([Path("a.json"), Path("a")])) == 2


def test_a_test_that_failed_by_itself_is_no_pass(tmp_path):
    """The gate passed, the suite's own assertion did not: the merge, and the words of the report, are red."""
    joint = merge({"one": summary(replace(outcome("t::a"), body_passed=False))})
    assert not joint.ran_well
    assert run_words(joint) == "1 of 1 gate failed"
    assert "passed, test failed" in "\n".join(summary_lines(joint))


def test_a_run_without_a_gate_is_no_pass():
    """Nothing was expected, nothing ran: nobody measured anything."""
    assert not merge({"one": summary()}).ran_well
    assert run_words(summary()) == "no gate ran"


# ---------------------------------------------------------------- the command


@pytest.fixture
def tenpak_merge(monkeypatch, capsys):
    """Run ``tenpak merge`` in a folder, in this process."""

    def run(folder: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(folder)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        code = main(["merge", *args])
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(args, code, printed.out, printed.err)

    return run


@pytest.fixture
def shards(tmp_path):
    """Two shards of which one lacks a gate."""
    for name, run in (("one", summary(A)), ("two", summary(B, expected=("t::b", "t::c")))):
        (tmp_path / f"{name}.json").write_text(render(run))
    return tmp_path


def test_the_command_prints_and_writes_one_report(tenpak_merge, shards):
    """The table, the counts, what is missing; files of every kind that was asked for; exit code 1."""
    ran = tenpak_merge(shards, "one.json", "two.json", "--json=all.json", "--md=all.md", "--md-comment=c.md")
    assert ran.returncode == 1, ran.stderr
    lines = ran.stdout.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("passed")] == ["t::a", "t::b"]
    assert "3 gates expected, 2 ran" in lines
    assert "did not run: t::c" in lines
    joint = read_document(shards / "all.json")
    assert joint.missing == ("t::c",)
    assert "3 gates expected, 2 ran" in (shards / "all.md").read_text()
    assert (shards / "c.md").read_text().startswith("<!-- pytest-tenpak -->")
    assert "::error" not in ran.stdout


def test_the_command_passes_when_all_is_well(tenpak_merge, shards):
    """Exit code 0."""
    assert tenpak_merge(shards, "one.json").returncode == 0


def test_the_command_tells_github(tenpak_merge, shards):
    """Annotations, and the summary of the step."""
    (shards / "two.json").write_text(render(summary(outcome("t::b", 1.2))))
    step = shards / "step.md"
    ran = tenpak_merge(shards, "one.json", "two.json", GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(step))
    assert ran.returncode == 1
    assert "\n::error file=test_a.py,line=7,title=tenpak%3A t%3A%3Ab::regressed" in ran.stdout
    assert "2 gates expected, 2 ran" in step.read_text()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "the report bad.json is not valid JSON"),
        (json.dumps({"schema_version": 1}), "the report bad.json has a fault in top level"),
        (None, "the report bad.json cannot be read"),
    ],
)
def test_a_report_that_cannot_be_read(tenpak_merge, shards, content, said):
    """A usage error that names the file; never a traceback."""
    if content is not None:
        (shards / "bad.json").write_text(content)
    ran = tenpak_merge(shards, "one.json", "bad.json")
    assert ran.returncode == 4
    assert said in ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr


def test_a_report_that_cannot_be_written_costs_no_other(tenpak_merge, shards):
    """It is named in those after it, and the exit code is that of a red run, not of a usage error."""
    ran = tenpak_merge(shards, "one.json", "--html=/proc/none/x.html", "--md=all.md", "--json=all.json")
    assert ran.returncode == 1, ran.stderr
    assert "/proc/none/x.html cannot be written" in ran.stdout
    assert "cannot be written" in (shards / "all.md").read_text()
    assert "cannot be written" in read_document(shards / "all.json").problems[0]
