"""Trends and `tenpak history`: what was accepted over commits, as git remembers it."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from commanding import Suite, git, suite  # noqa: F401
from made_up import accepted
from places import DATA

from pytest_tenpak.baselines import history
from pytest_tenpak.baselines.entry import Baseline
from pytest_tenpak.baselines.history import read_history, trends

FIRST = accepted()
SECOND = accepted(nll=(9.0, 10.0, 11.5)).replacing(FIRST, "fewer bits")
THIRD = accepted(nll=(9.0, 10.0, 11.2)).replacing(SECOND, "better kernel")


def perplexities(rows):
    return [row.figures.perplexity for row in rows]


def test_outside_git_there_are_no_trends(suite):  # noqa: F811
    """And no error: reports just have none."""
    suite.write("a", FIRST)
    assert trends(suite.folder) == {}
    git(suite.path, "init", "-q")
    assert trends(suite.folder) == {}


def test_every_accepted_change_is_a_point_oldest_first(suite):  # noqa: F811
    """Commit, date, device class and figures; a commit that changed no figures is no point."""
    suite.write("a", FIRST)
    commits = [suite.commit()]
    (suite.path / "other").write_text("x")
    suite.write("b", FIRST)
    suite.commit()
    suite.write("a", SECOND)
    suite.write("a", FIRST, device_class="cuda-sm90")
    commits.append(suite.commit())
    suite.write("a", replace(SECOND, provenance=accepted(torch="2.14.0").provenance))
    suite.commit()
    found = trends(suite.folder)
    assert list(found) == ["a", "b"]
    assert [(past.commit, past.device_class) for past in found["a"]] == [
        (commits[0], "cpu"),
        (commits[1], "cpu"),
        (commits[1], "cuda-sm90"),
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d|.*Z", found["a"][0].date)
    assert perplexities(found["a"]) == [
        FIRST.figures.perplexity,
        SECOND.figures.perplexity,
        FIRST.figures.perplexity,
    ]


def test_a_renamed_baseline_keeps_its_past(suite):  # noqa: F811
    """Its points stand under the name of today; a new file under the old name has its own."""
    path = suite.write("old/a", FIRST)
    suite.commit()
    (suite.folder / "new").mkdir()
    path.rename(suite.folder / "new" / "b.json")
    suite.commit()
    suite.write("new/b", SECOND)
    suite.write("old/a", THIRD)
    suite.commit()
    found = trends(suite.folder)
    assert perplexities(found["new/b"]) == [FIRST.figures.perplexity, SECOND.figures.perplexity]
    assert perplexities(found["old/a"]) == [THIRD.figures.perplexity]


def test_what_a_branch_accepted_is_told_once(suite):  # noqa: F811
    """By the commit that accepted it, not by the merge again; what a merge itself changed is told by it."""
    suite.write("a", FIRST)
    suite.commit()
    git(suite.path, "checkout", "-qb", "branch")
    suite.write("a", SECOND)
    on_branch = suite.commit()
    git(suite.path, "checkout", "-q", "-")
    (suite.path / "other").write_text("x")
    suite.commit()
    git(suite.path, "merge", "-q", "--no-commit", "branch")
    suite.commit()
    assert [past.commit for past in trends(suite.folder)["a"]][1:] == [on_branch]
    git(suite.path, "checkout", "-q", "branch")
    (suite.path / "other2").write_text("x")
    suite.commit()
    git(suite.path, "checkout", "-q", "-")
    (suite.path / "other3").write_text("x")
    suite.commit()
    git(suite.path, "merge", "-q", "--no-commit", "branch")
    suite.write("a", THIRD)
    merge = suite.commit()
    assert [past.commit for past in trends(suite.folder)["a"]][-1] == merge


def test_older_versions_are_migrated_and_unreadable_ones_counted(suite):  # noqa: F811
    """A version 1 file gives its figures; what is damaged is left out, and the others stay."""
    old = DATA / "baseline-1.json"
    target = suite.folder / "a.json"
    target.parent.mkdir()
    shutil.copy(old, target)
    suite.commit()
    for content in (b"{", b"\xff"):
        target.write_bytes(content)
        suite.commit()
    Baseline("c", {"cpu": FIRST}).write(target)
    suite.commit()
    known = read_history(suite.folder)
    before = Baseline.read(old).entries["cpu"].figures
    assert [row.past.figures for row in known.accepted["a"]] == [before, FIRST.figures]
    assert known.unreadable == 2


def test_few_processes_read_everything(suite, monkeypatch):  # noqa: F811
    """However many versions there are: a report waits for this."""
    for entry in (FIRST, SECOND, THIRD):
        for name in "abc":
            suite.write(name, entry)
        suite.commit()
    started, run = [], subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda *args, **rest: (started.append(args), run(*args, **rest))[1]
    )
    assert sum(map(len, trends(suite.folder).values())) == 9
    assert len(started) <= 4


def test_only_the_newest_versions_are_read(suite, monkeypatch):  # noqa: F811
    """So that a long past costs no more than a short one."""
    monkeypatch.setattr(history, "VERSIONS", 2)
    for entry in (FIRST, SECOND, THIRD):
        suite.write("a", entry)
        suite.commit()
    assert perplexities(trends(suite.folder)["a"]) == [
        SECOND.figures.perplexity,
        THIRD.figures.perplexity,
    ]


def test_the_command_lists_what_was_accepted_and_why(suite):  # noqa: F811
    """Oldest to newest, with reasons; what is not committed comes last."""
    suite.write("a/x", FIRST)
    first = suite.commit()
    suite.write("a/x", SECOND)
    suite.write("b", FIRST)
    second = suite.commit()
    suite.write("a/x", THIRD)
    lines = suite.tenpak("history", "a").splitlines()
    assert suite.code == 0
    assert lines[0] == "a/x"
    assert re.fullmatch(
        rf"{first[:9]} +\d{{4}}-\d\d-\d\d +cpu +12.1825 +\+28.40% +4.00× +4.000", lines[3].rstrip()
    )
    assert re.fullmatch(rf"{second[:9]} .* 12.7008 .* fewer bits", lines[4])
    assert re.fullmatch(r"\(not committed\) +cpu +12.3872 .* better kernel", lines[5])
    assert "b" in suite.tenpak("history").splitlines()
    suite.commit()
    assert "not committed" not in suite.tenpak("history")


def test_unknown_names_and_no_git_are_told(suite):  # noqa: F811
    """With what there is."""
    suite.write("a", FIRST)
    suite.tenpak("history")
    assert (suite.code, "is not in a git repository" in suite.errors) == (4, True)
    suite.commit()
    suite.tenpak("history", "none")
    assert (suite.code, "accepted:   a" in suite.errors) == (4, True)


@pytest.mark.parametrize(("suffix", "begins"), [("svg", b"<svg"), ("html", b"<!doctype html>")])
def test_the_history_is_drawn(suite, suffix, begins):  # noqa: F811
    """As an SVG that stands alone, or a page that fetches nothing; each baseline has its charts, each class a line."""
    suite.write("$a_$", FIRST)
    suite.write("b & <c> x=1 \x1b", FIRST)
    suite.commit()
    suite.write("$a_$", SECOND)
    suite.write("$a_$", FIRST, device_class="cuda-sm90")
    assert f"plot: p.{suffix}" in suite.tenpak("history", "--plot", f"p.{suffix}")
    drawn = (suite.path / f"p.{suffix}").read_bytes()
    assert drawn.startswith(begins)
    assert not re.search(rb"(src|href)=|url\(|var\(|@import", drawn)
    root = ElementTree.fromstring(
        drawn[drawn.index(b"<svg") : drawn.index(b"</html>") if suffix == "html" else None]
    )
    svg = "{http://www.w3.org/2000/svg}"
    texts = [one.text for one in root.iter(f"{svg}text")]
    assert {"$a_$", r"b & <c> x=1 \x1b [cpu]"} <= set(texts)
    assert [texts.count(word) for word in ("cpu", "cuda-sm90", "perplexity over the reference, %")] == [
        2,
        2,
        2,
    ]
    lines = [one for one in root.iter(f"{svg}path") if one.get("class") == "row row1" and " " in one.get("d")]
    assert len(lines) == 4  # the second class's, and its sign, in both charts of one baseline


def test_a_plot_that_cannot_be_drawn_is_refused(suite):  # noqa: F811
    """Another suffix: what is accepted, before anything is read."""
    suite.write("a", FIRST)
    suite.commit()
    for suffix in ("png", "gif"):
        suite.tenpak("history", "--plot", f"p.{suffix}")
        assert (suite.code, "accepted:   .svg, .html" in suite.errors) == (4, True)


@pytest.mark.slow
def test_a_runs_reports_have_the_past_of_its_own_baselines(project):
    """What a commit accepted for the gates that ran is in the JSON document and on the page, and nothing else."""
    project.test("@pytest.mark.quantize(method='nf4', max_tokens=504)\ndef test_nf4(): pass\n")
    project.run().assert_outcomes(passed=1)
    folder = project.path / "baselines"
    shutil.copy(folder / "test_gate/test_nf4.json", folder / "another.json")
    git(project.path, "init", "-q")
    git(project.path, "add", "baselines")
    git(project.path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "Accept")
    result = project.run("--tenpak-json=run.json", "--tenpak-html=run.html")
    result.assert_outcomes(passed=1)
    past = json.loads((project.path / "run.json").read_text())["trends"]
    assert list(past) == ["test_gate/test_nf4"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project.path, capture_output=True, text=True)
    assert [row["commit"] for row in past["test_gate/test_nf4"]] == [head.stdout.strip()]
    assert "Baselines over time" not in (project.path / "run.html").read_text(), "one point is no trend"
