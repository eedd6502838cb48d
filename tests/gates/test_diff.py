"""`tenpak diff`: what changed in baselines since a revision, for whoever reviews it."""

import re
from dataclasses import replace

import pytest
from commanding import Suite, git, suite  # noqa: F401
from made_up import IDENTITY, accepted, better, measured, reference

from pytest_tenpak.baselines.diff import changes
from pytest_tenpak.baselines.entry import Baseline, Entry
from pytest_tenpak.reports.baseline_diff import figure_rows, markdown, remarks, text

WORSE = accepted(nll=(9.0, 10.0, 11.5), weights="e", torch="2.14.0")


def states(old: Entry | None, new: Entry | None, name: str = "t"):
    """Two states of one baseline."""
    return tuple({name: Baseline("t.py::t", {"cpu": entry})} if entry else {} for entry in (old, new))


def test_each_figure_is_told_from_old_to_new_with_better_or_worse():
    """Less perplexity, KLD and bits are better, more compression and agreement are."""
    old = accepted(tensor_bytes=500)
    new = better(accepted(tensor_bytes=400), 1.25)
    rows = {row.name: row for row in figure_rows(old, new)}
    assert rows["perplexity"][1:] == ("12.1825", "9.7460", "-20.00%", "better")
    assert rows["compression"][1:] == ("4.0000×", "5.0000×", "+25.00%", "better")
    assert rows["bits/weight"].verdict == ""
    back = {row.name: row.verdict for row in figure_rows(new, old)}
    assert back["perplexity"] == back["compression"] == back["Δ reference"] == "worse"


def test_figures_of_another_question_are_neither_better_nor_worse():
    """On another text less perplexity says nothing; a smaller file is smaller all the same. A spec may be compared."""
    old, new = accepted(tensor_bytes=500), better(accepted(tensor_bytes=400), 1.25)
    moved = replace(new, identity={**IDENTITY, "corpus": "another"})
    verdicts = {row.name: row.verdict for row in figure_rows(old, moved)}
    assert (verdicts["perplexity"], verdicts["Δ reference"], verdicts["compression"]) == ("", "", "better")
    other = replace(new, identity={**IDENTITY, "spec": {"method": "nf4", "options": {"bits": 4}}})
    assert {row.name: row.verdict for row in figure_rows(old, other)}["perplexity"] == "better"


def test_kld_and_top1_are_told_where_both_sides_have_them():
    """More agreement is better, more divergence is worse; what appears has no difference."""
    old = accepted()
    with_kld = replace(old, figures=replace(old.figures, kld=0.2, top1=0.9))
    other = replace(old, figures=replace(old.figures, kld=0.3, top1=0.95))
    rows = {row.name: row for row in figure_rows(with_kld, other)}
    assert (rows["KLD"].verdict, rows["top-1"].verdict) == ("worse", "better")
    assert {row.name: row for row in figure_rows(old, with_kld)}["KLD"][1:] == ("", "0.2000", "", "")


def test_reasons_identity_and_provenance_are_told():
    """The reviewer reads why it was accepted, what question changed, and what else is another."""
    old = accepted()
    lines = remarks(old, WORSE.replacing(old, "fewer bits"))
    assert lines == ["reason: fewer bits", "provenance: torch 2.13.0 → 2.14.0", "other quantized weights"]
    anew = remarks(old, WORSE.replacing(old, "for good", reanchor=True))
    assert anew[:2] == ["reason: for good", "new anchor: for good"]
    other = replace(measured(), identity={**IDENTITY, "dtype": "float16"})
    assert "identity: dtype: 'float32' → 'float16'" in remarks(old, Entry.of(other, reference()))
    assert remarks(old, old) == []


def test_new_gone_changed_and_moved_are_told_apart():
    """A baseline under another name with the same entries has moved; the same entry is no change."""
    entry, other = accepted(), accepted(nll=(9.0, 10.0, 12.0))
    old = {n: Baseline("c", {"cpu": e}) for n, e in (("a", entry), ("b", other), ("c", entry), ("m", WORSE))}
    new = {n: Baseline("c", {"cpu": e}) for n, e in (("a", entry), ("b", WORSE), ("d", other), ("n", WORSE))}
    kinds = {(row.name, row.kind, row.moved_from) for row in changes(old, new)}
    assert kinds == {("b", "changed", ""), ("c", "gone", ""), ("d", "new", ""), ("n", "moved", "m")}


def test_each_device_class_is_its_own_change():
    """An entry that another machine added is new; the one beside it is not mentioned."""
    old = {"a": Baseline("c", {"cpu": accepted()})}
    new = {"a": Baseline("c", {"cpu": accepted(), "cuda-sm90": WORSE})}
    assert [(row.device_class, row.kind) for row in changes(old, new)] == [("cuda-sm90", "new")]


@pytest.mark.parametrize(
    "name", ["a|b", "`a`", "<img src=x>", "a\nb", "[a](http://b)", "*a*", "\\|", "a\x1b[31mb"]
)
def test_no_name_or_reason_breaks_the_markdown(name):
    """Pipes, backticks, HTML and line ends stay text inside their cell."""
    new = WORSE.replacing(accepted(), name)
    lines = markdown(changes(*states(accepted(), new, name)), name, [name])
    table = [line for line in "\n".join(lines).splitlines() if line.startswith("|")]
    assert len(table) == 3
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "<img" not in re.sub("`[^`]*`", "", "".join(lines))
    assert "\x1b" not in "".join(lines + text(changes(*states(accepted(), new, name)), name, [name]))


def test_the_command_compares_with_head_or_with_a_revision(suite):  # noqa: F811
    """Uncommitted changes by default; REV reaches further back."""
    suite.write("a", accepted())
    first = suite.commit()
    suite.write("a", WORSE.replacing(accepted(), "fewer bits"))
    out = suite.tenpak("diff")
    assert suite.code == 0
    assert "a [cpu]: changed\n  perplexity" in out
    assert "12.1825  →  12.7008  +4.25%  worse" in out
    assert "  reason: fewer bits\n" in out
    assert out.endswith("1 changed since HEAD\n")
    suite.commit()
    assert suite.tenpak("diff") == "nothing changed since HEAD\n"
    assert "1 changed since " in suite.tenpak("diff", first)
    told = suite.tenpak("diff", first[:9], "--markdown")
    assert told.startswith(f"### Baselines: 1 changed since `{first[:9]}`\n\n| baseline | device |")
    assert "12.1825 → 12.7008 (+4.25%) **worse**" in told


def test_what_cannot_be_read_is_named_and_the_others_are_compared(suite):  # noqa: F811
    """A damaged baseline in the revision, or in the tree, is neither new nor gone."""
    suite.write("a", accepted())
    suite.write("b", accepted())
    (suite.folder / "c.json").write_text("{")
    (suite.folder / "d.json").write_bytes(b"\xff")
    suite.commit()
    for name in "cd":
        (suite.folder / f"{name}.json").unlink()
    suite.write("b", WORSE)
    (suite.folder / "a.json").write_text("[]")
    out = suite.tenpak("diff")
    assert suite.code == 0
    assert "in HEAD, the baseline c.json is not valid JSON" in out
    assert "in HEAD, the baseline d.json cannot be read" in out
    assert "in the working tree, the baseline a.json has no known schema_version" in out
    assert "gone" not in out
    assert "1 changed since HEAD" in out


def test_a_folder_below_the_repositorys_root_is_found(suite, monkeypatch):  # noqa: F811
    """The suite may be one folder of a monorepo; a file elsewhere is no baseline."""
    git(suite.path.parent, "init", "-q", str(suite.path))
    inner = suite.path / "packages" / "é m"
    inner.mkdir(parents=True)
    (inner / "pytest.ini").write_text("[pytest]\n")
    suite.write("a", accepted())
    suite.commit()
    monkeypatch.chdir(inner)
    Baseline("x", {"cpu": accepted()}).write(inner / "baselines" / "x.json")
    assert suite.tenpak("diff").endswith("1 new since HEAD\n")


def test_faults_of_git_are_told(suite, monkeypatch):  # noqa: F811
    """No repository, no such revision, no git: a usage error that says what to do."""
    suite.write("a", accepted())
    suite.tenpak("diff")
    assert suite.code == 4
    assert "is not in a git repository" in suite.errors
    suite.commit()
    suite.tenpak("diff", "no-such")
    assert suite.code == 4
    assert "there is no git revision 'no-such'" in suite.errors
    suite.tenpak("diff", "--", "--output=x")
    assert "there is no git revision '--output=x'" in suite.errors
    assert not (suite.path / "x").exists()
    monkeypatch.setenv("PATH", str(suite.path))
    suite.tenpak("diff")
    assert suite.code == 4
    assert "git is not installed" in suite.errors


def test_baselines_in_a_submodule_are_compared_with_its_own_commits(suite):  # noqa: F811
    """The repository around it knows only which commit of the submodule it uses."""
    inner = suite.path / "inner"
    suite.write("a", accepted())
    suite.folder.rename(inner)
    git(suite.path, "init", "-q", "inner")
    git(inner, "add", "-A")
    git(inner, "commit", "-qm", "inner")
    git(suite.path, "init", "-q")
    git(suite.path, "-c", "protocol.file.allow=always", "submodule", "add", "-q", "./inner", "baselines")
    (suite.path / ".gitignore").write_text("inner\ncache\n")
    suite.commit()
    assert "nothing changed since HEAD" in suite.tenpak("diff")
    assert "not committed" not in suite.tenpak("history")
    (suite.folder / "a.json").unlink()
    assert "removed" in suite.tenpak("diff") or "gone" in suite.tenpak("diff")
