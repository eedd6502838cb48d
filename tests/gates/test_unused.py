"""Unused baselines: named when their test is gone, and never when it is only out of sight."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from collected import GATE, Suite
from projects import CPU, LEAN

from pytest_tenpak.baselines.entry import Baseline
from pytest_tenpak.baselines.names import derived_name
from pytest_tenpak.gate.marker import claimed_names

ONE = "1 unused baseline (no test uses it):"


@pytest.fixture
def suite(pytester) -> Suite:
    """One test file with one gate, and two baselines: of that gate and of one that is gone."""
    suite = Suite(pytester)
    suite.test("test_a.py", "test_here")
    suite.accept("test_a.py::test_here", "test_a.py::test_gone")
    return suite


GONE = ["baselines/test_a/test_gone.json"]

# ---------------------------------------------------------------- what is said


def test_what_no_test_answers_to_is_listed_with_what_to_do(suite):
    """Count, path and the two commands; the run passes as it did."""
    result = suite.run()
    result.stdout.fnmatch_lines([ONE, f"  {GONE[0]}", "tenpak prune --yes removes it; *tenpak move OLD NEW*"])
    assert result.ret == 0


def test_nothing_is_said_where_nothing_is_unused(suite):
    """Nor is a section opened."""
    suite.test("test_a.py", "test_here", "test_gone")
    told = suite.run().stdout.str()
    assert "unused baseline" not in told
    assert "quantization gates" not in told


def test_a_suite_without_gates_lists_what_is_left_and_imports_nothing_heavy(suite):
    """Deleting the last gate leaves its baselines; to say so costs no schema, no numpy, no torch."""
    suite.test("test_a.py", head="def test_plain(): pass")
    code = (
        "import sys, pytest\n"
        f"code = pytest.main(['-q', *{LEAN}])\n"
        "print([name for name in ('torch', 'numpy', 'jsonschema') if name in sys.modules], int(code))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=suite.path, capture_output=True, text=True)
    assert "2 unused baselines (no test uses them):" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "[] 0"


def test_workers_say_what_they_saw(suite, distributed):
    """In one process, and under xdist, where only workers collect; reporters hear it. Skipped gates claim."""
    suite.test("test_a.py", head="pytestmark = pytest.mark.skip\n" + GATE.format("", "test_here"))
    result = suite.pytester.runpytest_subprocess(*LEAN, *distributed, "--tenpak-json=run.json")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines([ONE, f"  {GONE[0]}"])
    assert json.loads((suite.path / "run.json").read_text())["unused"] == GONE


def test_a_crashed_worker_makes_nothing_unused(suite):
    """Tests that it took along were collected: what is gone is gone, and nothing else."""
    suite.test("test_a.py", head="import os\ndef test_crash(): os._exit(3)\n" + GATE.format("", "test_here"))
    assert suite.unused("-n", "2", "-k", "crash") == GONE


def test_no_worker_that_lives_no_word(suite):
    """Where none delivers, nothing is known to be unused, and nothing fails for it."""
    suite.test("test_a.py", head="import os\ndef test_crash(): os._exit(3)\n")
    result = suite.run("-n", "1", "--max-worker-restart=0", "--tenpak-fail-unused")
    assert "crashed" in result.stdout.str()
    assert "unused baseline" not in result.stdout.str()


@pytest.mark.parametrize("given", ["option", "ini"])
def test_fail_unused_fails_the_run_and_names_the_files(suite, distributed, given):
    """Also where tests pass."""
    suite.test("test_a.py", head="def test_plain(): pass\n" + GATE.format("", "test_here"))
    if given == "ini":
        suite.ini("tenpak_fail_unused = true")
    args = ["--tenpak-fail-unused"] if given == "option" else []
    result = suite.pytester.runpytest_subprocess(*LEAN, *distributed, *args, "-k", "plain")
    assert result.ret == 1
    result.assert_outcomes(passed=1, deselected=0 if distributed else 1)
    result.stdout.fnmatch_lines([f"--tenpak-fail-unused: no test uses {GONE[0]}"])


def test_fail_unused_passes_where_nothing_is_unused(suite):
    """And is refused, by name, where it is neither true nor false."""
    suite.test("test_a.py", "test_here", "test_gone")
    assert suite.run("--tenpak-fail-unused").ret == 0
    suite.ini("tenpak_fail_unused = perhaps")
    result = suite.run()
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*ini tenpak_fail_unused: fail_unused='perhaps' is not accepted*"])


# ---------------------------------------------------------------- what claims


@pytest.mark.parametrize(
    "args",
    [("-k", "nothing"), ("-m", "nothing"), ("--deselect", "test_a.py::test_here"), ("--ff",), ("--nf",)],
)
def test_deselected_tests_claim(suite, args):
    """They are there, though they do not run."""
    assert suite.unused(*args) == GONE


def test_further_texts_are_claimed_and_those_no_longer_measured_on_are_unused(suite):
    """``NAME@TEXT`` of every text but the first, and of no other."""
    head = GATE.format(", corpus=['one', 'docs/two.txt']", "test_here")
    suite.test("test_a.py", head=head)
    (two,) = claimed_names({"corpus": ["one", "docs/two.txt"]}, "test_a.py::test_here")[1:]
    for name in (two, "test_a/test_here@three"):
        suite.accept("test_a.py::test_here", name=name)
    assert suite.unused() == [*GONE, "baselines/test_a/test_here@three.json"]


def test_each_of_several_markers_and_parameters_claims(suite):
    """What one of them answered before it was taken away is unused."""
    head = "@pytest.mark.parametrize('n', [1, 2])\n" + "@pytest.mark.quantize(method='int8')\n"
    suite.test("test_a.py", head=head + GATE.format("", "test_many").replace("()", "(n)"))
    ids = [f"test_a.py::test_many[{method}-{n}]" for method in ("int8", "fp16") for n in (1, 2)]
    ids += [f"test_a.py::test_many[{n}-{method}]" for method in ("int8", "fp16") for n in (1, 2)]
    suite.accept(*ids, "test_a.py::test_many[nf4-1]")
    listed = suite.unused()
    collected = [line for line in suite.run("-q").outlines if "::" in line]
    assert len(collected) == 4
    expected = {f"baselines/{derived_name(case)}.json" for case in (*ids, "test_a.py::test_many[nf4-1]")}
    expected -= {f"baselines/{derived_name(case)}.json" for case in collected}
    assert set(listed) == expected | {*GONE, "baselines/test_a/test_here.json"}


def test_markers_that_a_conftest_adds_claim(suite):
    """Also where the test is deselected afterwards."""
    suite.test("test_a.py", head="def test_here(): pass")
    suite.pytester.makeconftest(
        "import pytest\n"
        "def pytest_collection_modifyitems(items):\n"
        "    for item in items: item.add_marker(pytest.mark.quantize(method='fp16'))\n"
    )
    assert suite.unused("-k", "nothing") == GONE


def test_a_deselected_test_with_a_bad_marker_leaves_its_file_alone(suite):
    """Nobody knows what it claims; other files are judged, and the run goes on."""
    suite.test("test_a.py", "test_here", head=GATE.format(", baseline=3", "test_bad"))
    suite.test("test_b.py", head="def test_plain(): pass")
    suite.accept("test_b.py::test_gone")
    result = suite.run("-k", "plain", "--tenpak-fail-unused")
    assert [line.strip() for line in result.outlines if line.startswith("  b")] == [
        "baselines/test_b/test_gone.json"
    ]
    assert result.ret == 1


def test_a_deselected_test_of_an_unknown_method_claims(suite):
    """Its name is known all the same."""
    suite.test("test_a.py", head=GATE.replace("fp16", "no-such").format("", "test_here"))
    assert suite.unused("-k", "nothing") == GONE


def test_a_named_baseline_is_judged_only_by_the_whole_suite(suite):
    """Its test may have moved to any file: a part of the suite does not know."""
    suite.test("test_b.py", head=GATE.format(", baseline='named'", "test_named"))
    suite.accept("test_a.py::test_named", name="named")
    suite.accept("test_a.py::test_other", name="other")
    assert suite.unused("test_a.py") == GONE
    assert suite.unused() == ["baselines/other.json", *GONE]


# ---------------------------------------------------------------- what is judged


@pytest.mark.parametrize(
    "args", [("test_a.py::test_here",), ("test_a.py::test_here", "test_b.py"), ("test_b.py",)]
)
def test_a_file_of_which_only_some_tests_were_named_is_not_judged(suite, args):
    """Others are, where they were collected whole."""
    suite.test("test_b.py", "test_here")
    assert suite.unused(*args) == []
    assert suite.unused(*args, "test_a.py") == GONE


def test_a_file_that_is_gone_is_judged_where_its_folder_is_collected(suite):
    """By a folder above it, named or by ``testpaths``; a run elsewhere says nothing."""
    suite.test("tests/test_b.py", "test_here")
    suite.test("other/test_c.py", "test_here")
    suite.accept("tests/deep/test_d.py::test_gone")
    gone = "baselines/tests/deep/test_d/test_gone.json"
    assert suite.unused("tests") == [gone]
    assert suite.unused("tests/test_b.py") == suite.unused("other") == []
    assert suite.unused() == [*GONE, gone]
    suite.ini("testpaths = tests")
    assert suite.unused() == [gone]


def test_a_file_that_is_there_but_was_not_collected_is_not_judged(suite):
    """Ignored, of another name, or read for its doctests alone."""
    assert suite.unused("--ignore=test_a.py") == []
    suite.ini("python_files = gate_*.py")
    assert suite.unused() == []
    (suite.path / "test_a.py").write_text('"""\n>>> 1\n1\n"""\n')
    assert suite.unused("--doctest-modules") == []


def test_collection_errors_stop_all_judgement(suite):
    """The broken file could hold any claim."""
    suite.test("test_b.py", head="import no_such_module")
    assert suite.unused() == suite.unused("--continue-on-collection-errors") == []


@pytest.mark.parametrize(
    "head", ["pytest.importorskip('no_such')", "pytest.skip('', allow_module_level=True)"]
)
def test_a_module_that_skips_itself_is_not_judged(suite, head):
    """Others are."""
    suite.test("test_b.py", "test_here", head=head)
    suite.accept("test_b.py::test_here")
    assert suite.unused() == GONE


def test_parameters_that_are_found_elsewhere_are_not_judged(suite):
    """A list that is empty on this machine leaves one skip: what its tests answer to is not known here."""
    head = "@pytest.mark.parametrize('model', [])\n" + GATE.format("", "test_many").replace("()", "(model)")
    suite.test("test_b.py", head=head)
    suite.accept("test_b.py::test_many[a]")
    assert suite.unused() == GONE


def test_a_name_is_shown_and_not_obeyed(suite):
    """A baseline's file name may hold what a terminal or a runner of GitHub Actions would obey."""
    hostile = suite.path / "baselines" / "x\n::error::pwned \x1b[31m.json"
    hostile.write_bytes((suite.path / GONE[0]).read_bytes())
    told = suite.run("--tenpak-fail-unused").stdout.str()
    assert "\n::error" not in told
    assert "\x1b" not in told
    assert "pwned" in told


@pytest.mark.parametrize("option", ["--lf", "--sw"])
def test_a_run_of_what_failed_last_judges_nothing(suite, option):
    """--lf leaves out files that it knows to pass."""
    suite.test("test_b.py", head="def test_fails(): assert 0")
    suite.pytester.runpytest_subprocess(*LEAN, "test_b.py").assert_outcomes(failed=1)
    assert suite.unused(option) == []
    assert suite.unused("-p", "no:cacheprovider") == GONE


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"schema_version": 99, "case": "test_a.py::x", "entries": {}}', "\udcff"]
)
def test_a_file_that_cannot_be_read_is_not_judged(suite, text):
    """Nor what is no baseline at all."""
    path = suite.path / "baselines" / "test_a" / "test_broken.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert suite.unused() == GONE


def test_a_folder_outside_the_rootdir_is_not_judged(suite):
    """It may serve a suite whose tests have the same names."""
    suite.test("pkg/test_a.py", "test_here")
    (suite.path / "pkg/pytest.ini").write_text("[pytest]\ntenpak_baseline_dir = ../baselines\n")
    result = suite.pytester.runpytest_subprocess(
        *LEAN, "--rootdir=pkg", "-c", "pkg/pytest.ini", "--collect-only", "pkg"
    )
    result.stdout.fnmatch_lines(["*test_here*"])
    assert "unused baseline" not in result.stdout.str()
    arguments = ("--rootdir=pkg", "-c", "pkg/pytest.ini", "--collect-only", "--tenpak-fail-unused", "pkg")
    refused = suite.pytester.runpytest_subprocess(*LEAN, *arguments)
    assert refused.ret == pytest.ExitCode.TESTS_FAILED, "what was asked for cannot be answered"


# ---------------------------------------------------------------- tenpak prune


def test_prune_lists_and_with_yes_removes(suite):
    """Nothing without --yes; then what is unused, printed, with folders that became empty, and nothing else."""
    suite.accept("gone/deep.py::test_x")
    before = suite.baselines
    listed = suite.tenpak("prune")
    assert (listed.returncode, listed.stdout.splitlines()[0][:18]) == (1, "2 unused baselines")
    assert suite.baselines == before
    pruned = suite.tenpak("prune", "--yes")
    assert pruned.returncode == 0
    assert pruned.stdout.splitlines() == ["removed baselines/gone/deep/test_x.json", f"removed {GONE[0]}"]
    assert suite.baselines == ["test_a", "test_a/test_here.json"]
    again = suite.tenpak("prune", "--yes")
    assert (again.returncode, again.stdout) == (
        0,
        "this collection finds no unused baseline\n",
    )


def test_prune_takes_pytests_arguments_and_the_suites_ini(suite):
    """Workers, verbosity and --tenpak-fail-unused of an ini do not get in its way."""
    suite.test("tests/test_b.py", "test_here")
    suite.accept("tests/test_b.py::test_gone")
    suite.ini("addopts = -n 2 -vv -ra -k nothing", "tenpak_fail_unused = true")
    pruned = suite.tenpak("prune", "tests", "--yes", "-p", "no:randomly")
    assert (pruned.returncode, pruned.stdout) == (0, "removed baselines/tests/test_b/test_gone.json\n")
    assert suite.unused() == GONE


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("import no_such_module", "No module named 'no_such_module'"),
        (GATE.format(", bits=99", "test_b"), "bits"),
    ],
)
def test_prune_removes_nothing_where_collection_fails(suite, file, said):
    """It shows what pytest says, and exits with an error."""
    suite.test("test_b.py", head=file)
    before = suite.baselines
    pruned = suite.tenpak("prune", "--yes")
    assert pruned.returncode not in (0, 1)
    assert said in pruned.stdout + pruned.stderr
    assert suite.baselines == before


def test_prune_says_why_it_cannot_tell(suite):
    """A partial collection is no reason to remove anything; no folder is nothing to remove."""
    refused = suite.tenpak("prune", "--yes", "--lf")
    assert refused.returncode == 4
    assert "a collection without --lf or --sw" in refused.stderr
    suite.ini("tenpak_baseline_dir = none")
    assert "there are no baselines in" in suite.tenpak("prune").stdout


# ---------------------------------------------------------------- the proposal of a rename


@pytest.fixture
def renamed(project):
    """A project whose only gate was renamed after its baseline was accepted."""
    project.test("@pytest.mark.quantize(method='fp16')\ndef test_old(): pass\n")
    project.run().assert_outcomes(passed=1)
    project.test("@pytest.mark.quantize(method='fp16')\ndef test_new(): pass\n")
    return project


MOVE = "tenpak move baselines/test_gate/test_old.json test_gate.py::test_new"


def test_a_new_case_is_told_of_the_baseline_it_had(renamed, distributed_at_length):
    """Nothing is created; the command that is named settles it, with history and anchor kept."""
    result = renamed.run(*distributed_at_length)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "test_gate.py::test_new *new",
            f"baselines/test_gate/test_new.json [[]{CPU}[]]: no baseline, but an unused baseline matches this case; "
            f"to move it here: {MOVE}; or --tenpak-update=new to create a new one",
        ]
    )
    assert renamed.baselines == ["test_gate/test_old.json"]
    old = json.loads((renamed.path / "baselines/test_gate/test_old.json").read_text())
    command = [sys.executable, "-m", "pytest_tenpak", *MOVE.split()[1:]]
    subprocess.run(command, cwd=renamed.path, check=True)
    assert renamed.baselines == ["test_gate/test_new.json"]
    new = json.loads((renamed.path / "baselines/test_gate/test_new.json").read_text())
    assert new == {**old, "case": "test_gate.py::test_new"}
    settled = renamed.run(*distributed_at_length)
    settled.stdout.fnmatch_lines(["test_gate.py::test_new *passed"])
    assert "unused baseline" not in settled.stdout.str()


def test_in_ci_the_failure_names_the_move(renamed, monkeypatch):
    """It fails as before."""
    monkeypatch.setenv("CI", "1")
    result = renamed.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*no baseline, and CI creates none*; an unused baseline matches *{MOVE}"])
    assert renamed.baselines == ["test_gate/test_old.json"]


def test_asking_for_a_new_baseline_gives_one(renamed):
    """Whoever names --tenpak-update has decided."""
    result = renamed.run("--tenpak-update=new")
    result.stdout.fnmatch_lines([f"*test_new.json [[]{CPU}[]]: baseline created: review and commit it", ONE])
    assert renamed.baselines == ["test_gate/test_new.json", "test_gate/test_old.json"]


def test_another_question_or_a_test_that_is_still_there_is_no_rename(renamed):
    """A baseline is created as ever: for another identity, another device, or beside the old test."""
    path = renamed.path / "baselines/test_gate/test_old.json"
    baseline = Baseline.read(path)
    entry = baseline.entries[CPU]
    other = replace(entry, identity={**entry.identity, "metrics_version": 99})
    both = "@pytest.mark.quantize(method='fp16')\ndef test_old(): pass\n"
    for entries in ({CPU: other}, {"cuda-sm90": entry}, {CPU: entry}):
        if CPU in entries and entries[CPU] is entry:
            renamed.test(both + both.replace("old", "new"))
        Baseline(baseline.case, entries).write(path)
        result = renamed.run()
        result.stdout.fnmatch_lines([f"*test_new.json [[]{CPU}[]]: baseline created: review and commit it"])
        (renamed.path / "baselines/test_gate/test_new.json").unlink()


def test_a_named_baseline_is_proposed_by_its_name(renamed):
    """Where a test's own id is not where its baseline would be looked for."""
    renamed.test("@pytest.mark.quantize(method='fp16', baseline='mine')\ndef test_new(): pass\n")
    renamed.run().stdout.fnmatch_lines(["*: tenpak move baselines/test_gate/test_old.json mine; or *"])
