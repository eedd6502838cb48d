"""`tenpak check` and `tenpak cache`: baseline files and the cache, without a run."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from commanding import Suite, suite  # noqa: F401
from made_up import accepted, measured, reference
from places import DATA, ROOT

import pytest_tenpak
from pytest_tenpak.baselines.entry import Baseline, Entry
from pytest_tenpak.store import eviction
from pytest_tenpak.store.atomic import sweep_temporaries, write_atomically
from pytest_tenpak.store.store import Store

VERSION_1 = DATA / "baseline-1.json"


def edit(path: Path, change) -> None:
    """Change a file's values by hand."""
    plain = json.loads(path.read_text(encoding="utf-8"))
    change(plain)
    path.write_text(json.dumps(plain))


def test_whole_files_have_no_fault(suite):  # noqa: F811
    """Exit code 0, and a count."""
    suite.write("a", accepted())
    suite.write("b/c", accepted())
    assert suite.tenpak("check") == "2 baselines, 0 faults\n"
    assert suite.code == 0


def test_each_fault_is_a_line_with_file_and_field(suite):  # noqa: F811
    """Schema, digest, consistency, JSON: exit code 1, and the other files are still read."""
    for name in "abcd":
        suite.write(name, accepted(), case=name)
    edit(suite.folder / "a.json", lambda plain: plain["entries"]["cpu"].pop("ledger"))
    edit(suite.folder / "b.json", lambda plain: plain["entries"]["cpu"]["figures"].update(top1=0.5))
    edit(suite.folder / "c.json", lambda plain: plain["entries"]["cpu"]["figures"].update(perplexity=9.0))
    (suite.folder / "e.json").write_text("<<<<<<< HEAD\n")
    lines = suite.tenpak("check").splitlines()
    assert suite.code == 1
    assert lines == [
        "baselines/a.json: has a fault in entries.cpu: 'ledger' is a required property",
        "baselines/b.json: has a fault in entries.cpu.digest: the entry was changed after it was written",
        "baselines/c.json: has a fault in entries.cpu.figures.perplexity: perplexity 9.0 where the windows give 12.182494",
        "baselines/e.json: is not valid JSON: it contains a merge conflict",
        "5 baselines, 4 faults",
    ]


def test_two_files_for_one_test_and_corpus_are_a_fault(suite):  # noqa: F811
    """A copy left behind would never be compared; another corpus of the same test is fine."""
    suite.write("a", accepted(), case="t.py::t")
    other = replace(measured(), identity={**measured().identity, "corpus": "sha256:" + "f" * 64})
    suite.write("a@text", Entry.of(other, reference()), case="t.py::t")
    suite.tenpak("check")
    assert suite.code == 0
    suite.write("b", accepted(), case="t.py::t")
    told = "case: 't.py::t' on corpus sha256:cccccccc… is claimed by baselines/b.json too"
    assert f"baselines/a.json: {told}" in suite.tenpak("check")
    assert suite.code == 1
    # Also where the hook names one of the two.
    assert "is claimed by" in suite.tenpak("check", "baselines/b.json")
    assert "is claimed by" not in suite.tenpak("check", "baselines/a@text.json")


def test_names_that_another_system_cannot_have_are_a_fault(suite):  # noqa: F811
    """Spaces and the like, and names that differ only in case."""
    suite.write("a b", accepted(), case="1")
    suite.write("c", accepted(), case="2")
    suite.write("C", accepted(), case="3")
    lines = suite.tenpak("check").splitlines()
    assert lines[0].startswith("baselines/C.json: name: differs only in case from c.json")
    assert lines[1].startswith("baselines/a b.json: name: 'a b' is not portable")
    assert suite.code == 1


def test_an_older_schema_version_is_a_note(suite):  # noqa: F811
    """The file is fine; the next update writes the new version."""
    suite.folder.mkdir()
    shutil.copy(VERSION_1, suite.folder / "a.json")
    out = suite.tenpak("check")
    assert out == "baselines/a.json: note: schema version 1; the next update writes 2\n1 baseline, 0 faults\n"
    assert suite.code == 0


def test_only_what_is_named_is_checked(suite):  # noqa: F811
    """A file or a folder; one that is not there is a usage error."""
    suite.write("a/x", accepted())
    (suite.folder / "b.json").write_text("{")
    assert suite.tenpak("check", "baselines/a") == "1 baseline, 0 faults\n"
    suite.tenpak("check", "baselines/a/x.json", "baselines/b.json")
    assert suite.code == 1
    suite.tenpak("check", "none.json")
    assert (suite.code, "there is no file none.json" in suite.errors) == (4, True)


def test_the_hook_needs_nothing_of_the_suite_and_no_torch(suite):  # noqa: F811
    """Neither the conftest's imports nor the ini's plugins are there in a hook's environment; it is quick."""
    (suite.path / "conftest.py").write_text("import no_such_module\n")
    (suite.path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\nrequired_plugins = none\n")
    suite.write("a", accepted())
    code = (
        "import sys; from pytest_tenpak.cli.main import main; code = main(['check', 'baselines/a.json']);"
        "print(code, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=suite.path, capture_output=True, text=True)
    assert ran.stdout.splitlines() == ["1 baseline, 0 faults", "0 False False"], ran.stderr


def test_the_hook_is_declared_as_pre_commit_wants_it():
    """Its pattern takes baseline files and nothing else, and its entry is a command that exists."""
    declared = (ROOT / ".pre-commit-hooks.yaml").read_text()
    rows = dict(re.findall(r"^[- ] (\w+): (.*)$", declared, re.MULTILINE))
    assert (rows["id"], rows["language"], rows["entry"]) == ("tenpak-check", "python", "tenpak check")
    assert rows["pass_filenames"] == "true"
    pattern = re.compile(rows["files"])
    assert pattern.search("baselines/a/b.json")
    assert pattern.search("packages/x/baselines/b.json")
    assert not pattern.search("baselines/a.txt")
    assert not pattern.search("src/baselines.json")


def test_the_committed_baselines_follow_the_published_schema():
    """Anyone may validate them with the schema in the wheel, and no other tool of ours."""
    schema = Path(pytest_tenpak.__file__).parent / "baselines" / "schemas" / "baseline-2.json"
    validator = jsonschema.Draft202012Validator(json.loads(schema.read_text(encoding="utf-8")))
    validator.check_schema(validator.schema)
    files = list((ROOT / "baselines").rglob("*.json"))
    assert files
    for file in files:
        validator.validate(json.loads(file.read_text(encoding="utf-8")))


def test_what_killed_writers_left_is_swept(suite):  # noqa: F811
    """Old temporary files go, by the check and by the next write beside them; young and foreign ones stay."""
    path = suite.write("a", accepted())
    old, young = (suite.folder / f".a.json.{name}.tmp" for name in ("abcd_123", "abcd_124"))
    foreign = suite.folder / ".mine.tmp"
    for file in (old, young, foreign):
        file.write_text("half")
    for file in (old, foreign):
        os.utime(file, (time.time() - 61,) * 2)
    suite.tenpak("check", path)
    assert old.exists(), "what is named is only read"
    suite.tenpak("check")
    assert [file.exists() for file in (old, young, foreign)] == [False, True, True]
    sweep_temporaries(suite.path / "none")


def test_the_name_that_is_swept_is_the_one_that_is_written(tmp_path, monkeypatch):
    """A writer that dies before its rename leaves a file that the sweep knows."""
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(SystemExit))
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(SystemExit):
        write_atomically(tmp_path / "a.json", "text")
    monkeypatch.undo()
    [left] = tmp_path.iterdir()
    os.utime(left, (1, 1))
    sweep_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["baseline-1.json", "baseline-1-first.json"])
def test_a_version_1_file_is_read_with_the_same_figures(tmp_path, name):
    """And written as version 2, whose figures are the same again; the first ones knew no divergence or layers."""
    path = VERSION_1.with_name(name)
    old = json.loads(path.read_text(encoding="utf-8"))["entries"]["cpu"]
    baseline = Baseline.read(path)
    baseline.write(tmp_path / "b.json")
    plain = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    assert plain["schema_version"] == 2
    figures = plain["entries"]["cpu"]["figures"]
    assert figures == {"kld": None, "top1": None, **old["figures"], "divergence": None}
    assert plain["entries"]["cpu"]["windows"] == old["windows"]
    assert Baseline.read(tmp_path / "b.json") == baseline


# ---------------------------------------------------------------- cache


def fill(cache: Path) -> None:
    store = Store(cache)
    store.directory("checkpoints", {}, lambda folder: (folder / "w").write_bytes(bytes(1 << 20)) and {})
    store.document("weights", {}, lambda: {"a": 1})


def test_the_cache_is_listed_by_kind(suite):  # noqa: F811
    """Entries and sizes, of the suite's own cache folder."""
    assert suite.tenpak("cache", "list").startswith(f"cache: {suite.path}/cache (empty)\n")
    fill(suite.path / "cache")
    out = suite.tenpak("cache", "list")
    assert re.search(r"^checkpoints +1 +0.00 GiB +quantized models$", out, re.MULTILINE)
    assert re.search(r"^weights +1 ", out, re.MULTILINE)
    assert re.search(r"^total +2 ", out, re.MULTILINE)


def test_the_cache_is_cleared_only_with_yes(suite):  # noqa: F811
    """Without, it is said what would go; a kind is cleared alone where it is named."""
    fill(suite.path / "cache")
    assert "nothing was removed: --yes removes these" in suite.tenpak("cache", "clear")
    assert len(eviction.entries(suite.path / "cache", "checkpoints")) == 1
    out = suite.tenpak("cache", "clear", "--kind", "checkpoints", "--yes")
    assert suite.code == 0
    assert "checkpoints: 0.00 GiB freed" in out
    store = Store(suite.path / "cache")
    assert (
        len(eviction.entries(store.root, "checkpoints")),
        len(eviction.entries(store.root, "weights")),
    ) == (0, 1)
    suite.tenpak("cache", "clear", "--kind", "weight")
    assert (suite.code, "did you mean 'weights'?" in suite.errors) == (4, True)


def test_what_is_in_use_stays_and_is_counted(suite):  # noqa: F811
    """A living pytest keeps its checkpoint."""
    user = Store(suite.path / "cache")
    user.directory("checkpoints", {}, lambda folder: (folder / "w").write_bytes(b"1") and {})
    out = suite.tenpak("cache", "clear", "--yes")
    assert "checkpoints: 0.00 GiB freed; 1 entry stays, in use by a running process" in out
