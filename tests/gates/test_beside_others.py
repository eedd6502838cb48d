"""Beside other plugins and options: the gate neither breaks nor is broken."""

import pytest
from projects import OTHERS, Project

PLAIN = """
@pytest.mark.quantize(method="nf4")
def test_nf4():
    pass
"""
FLAKY = """
import pathlib

@pytest.mark.quantize(method="nf4")
def test_nf4():
    flag = pathlib.Path("flag")
    if not flag.exists():
        flag.touch()
        raise ValueError("flaky")
"""


@pytest.fixture
def project(project) -> Project:
    """With every plugin that is installed here, but the one that reorders tests."""
    project.others = OTHERS - {"randomly"}
    return project


@pytest.mark.parametrize(
    "args",
    [
        ("-n", "0"),
        ("-p", "no:xdist"),
        ("-p", "randomly"),
        ("--strict-markers",),
        ("-p", "no:terminal"),
        ("-v",),
    ],
    ids=lambda args: " ".join(args),
)
def test_common_ways_to_run(project, args):
    """Each gives the same outcome and baseline."""
    project.test(PLAIN)
    assert project.run(*args).ret == 0
    assert project.baselines == ["test_gate/test_nf4.json"]


def test_without_the_plugin_marked_tests_still_run(project):
    """-p no:tenpak switches gates off; only an unknown mark remains to be warned of."""
    (project.path / "tox.ini").write_text("[pytest]\n")
    project.test(PLAIN)
    project.run("-p", "no:tenpak").assert_outcomes(passed=1, warnings=1)
    assert project.baselines == []


def test_reruns_do_not_turn_a_refused_baseline_green(project, monkeypatch):
    """A rerun is answered as the first run was: what is missing in CI stays missing."""
    monkeypatch.setenv("CI", "1")
    project.test(PLAIN)
    result = project.run("--reruns", "2")
    assert result.ret == 1
    assert project.baselines == []


def test_a_rerun_that_passes_is_still_told_as_new(project, distributed):
    """The first attempt fails on its own; the second creates the baseline and says that it is new."""
    project.test(FLAKY)
    result = project.run("--reruns", "1", *distributed)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["test_gate.py::test_nf4 * new", "1 gate expected, 1 ran", "*baseline created*"]
    )


def test_last_failed_and_exit_first(project):
    """--lf reruns the gate that failed; -x stops after it and the summary says what did not run."""
    bad = "@pytest.mark.quantize(method='nf4', max_ppl_delta=-0.5)\ndef test_bad(): pass\n"
    project.test(bad + PLAIN)
    stopped = project.run("-x")
    stopped.assert_outcomes(failed=1)
    stopped.stdout.fnmatch_lines(["2 gates expected, 1 ran"])
    again = project.run("--lf")
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["1 gate expected, 1 ran"])


def test_collect_only_measures_nothing(project):
    """Markers are checked; no baseline is made."""
    project.test(PLAIN)
    result = project.run("--collect-only", "-q")
    assert result.ret == 0
    assert project.baselines == []


def test_xfail_and_skip_markers(project):
    """An expected regression is an xfail; a skipped gate is not run, and counted as skipped."""
    project.test(
        """
        @pytest.mark.xfail(strict=True)
        @pytest.mark.quantize(method="nf4", max_ppl_delta=-0.5)
        def test_expected(): pass

        @pytest.mark.skip
        @pytest.mark.quantize(method="int8")
        def test_skipped(): pass
        """
    )
    result = project.run()
    result.assert_outcomes(xfailed=1, skipped=1)
    result.stdout.fnmatch_lines(["2 gates expected, 1 ran, 1 skipped"])
    assert project.baselines == []


def test_a_crashed_xdist_worker_loses_its_own_test_only(project):
    """Its case is missing from the count; the other is gated."""
    project.test(
        """
        import os

        @pytest.mark.quantize(method="nf4")
        def test_one(): pass

        @pytest.mark.quantize(method="nf4")
        def test_two(): os._exit(3)
        """
    )
    result = project.run("-n", "2", "--max-worker-restart=0")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["2 gates expected, 1 ran"])
    assert project.baselines == ["test_gate/test_one.json"]


def test_loadgroup_does_not_rename_a_gate(project):
    """xdist appends the group to ids in its workers; the baseline keeps its name."""
    project.test("@pytest.mark.xdist_group('gpu')" + PLAIN)
    result = project.run("-n", "2", "--dist=loadgroup")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["test_gate.py::test_nf4 *", "1 gate expected, 1 ran"])
    assert project.baselines == ["test_gate/test_nf4.json"]


def test_a_marker_added_in_a_conftest_is_a_gate(project):
    """Markers may also come from pytest_collection_modifyitems."""
    project.pytester.makeconftest(
        "import pytest\n"
        "def pytest_collection_modifyitems(items):\n"
        "    for item in items: item.add_marker(pytest.mark.quantize(method='nf4'))\n"
    )
    project.test("def test_plain(): pass\n")
    project.run().assert_outcomes(passed=1)
    assert project.baselines == ["test_gate/test_plain.json"]


def test_a_marked_item_that_cannot_be_gated_fails(project):
    """An item of another plugin's kind has no fixtures: it must not pass as if it had been gated."""
    project.pytester.makeconftest(
        """
        import pytest

        class Other(pytest.Item):
            def runtest(self): pass

        class File(pytest.File):
            def collect(self):
                item = Other.from_parent(self, name="other")
                item.add_marker(pytest.mark.quantize(method="nf4"))
                yield item

        def pytest_collect_file(file_path, parent):
            if file_path.suffix == ".other":
                return File.from_parent(parent, path=file_path)
        """
    )
    (project.path / "a.other").write_text("")
    result = project.run("a.other")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*a marked test must be gated*",
        ]
    )


def test_output_of_the_test_is_still_captured(project):
    """Progress goes past pytest's capturing; the test's own output does not."""
    project.test(PLAIN.replace("pass", "print('quiet, please')"))
    assert "quiet, please" not in project.run().stdout.str()


def test_an_importing_test_beside_gates_is_not_touched(project):
    """Unmarked tests of the same module get no fixture and no outcome."""
    project.test(PLAIN + "def test_plain(request): assert 'quantized' not in request.fixturenames\n")
    project.run("-q").assert_outcomes(passed=2)
