"""Reports as a run writes them: files, GitHub, pytest-html, JUnit, and reporters of other plugins."""

import csv
import json
import re
import xml.etree.ElementTree as ElementTree
from html import unescape
from pathlib import Path

import jsonschema
import pytest
from places import ROOT
from projects import LEAN

from pytest_tenpak.reports.run_document import read_document
from pytest_tenpak.store.strict_json import published_schema

DOCUMENT = ROOT / "docs" / "reports.md"

#: A gate that fails before any work, since its model is not there; its marker is on line 4.
FAILS = """
@pytest.mark.filterwarnings("ignore")
@pytest.mark.quantize(method="nf4", model="nowhere")
def test_fails(): pass
"""
#: Runs load no other plugin than they name.
PYTEST_HTML = ("-p", "html", "-p", "html_fixtures", "-p", "metadata")
PLAIN = "\ndef test_plain(): pass\n"
GATES = FAILS + '\n@pytest.mark.quantize(method="nf4")\ndef test_nf4(): pass\n'


class Suite:
    """A project without a model, whose gates fail at once."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester, self.path = pytester, pytester.path
        pytester.makeini("[pytest]\ntenpak_cache_dir = cache\n")

    def run(self, body: str, *args: str) -> pytest.RunResult:
        (self.path / "test_gate.py").write_text("import pytest\n" + body)
        return self.pytester.runpytest_subprocess(*LEAN, *args)


@pytest.fixture
def suite(pytester) -> Suite:
    return Suite(pytester)


@pytest.fixture
def actions(monkeypatch, tmp_path) -> Path:
    """GitHub Actions, whose step summary is this file."""
    path = tmp_path / "step.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    return path


def commands(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if line.startswith("::")]


# ---------------------------------------------------------------- what did not run


def test_a_file_that_cannot_be_collected_is_a_problem_of_the_report(suite, distributed):
    """Its gates are not counted, and a merge of that report is no pass."""
    (suite.path / "test_broken.py").write_text("import no_such_module\n")
    suite.run(
        "@pytest.mark.quantize(method='nf4')\n@pytest.mark.skip\ndef test_nf4(): pass\n",
        *distributed,
        "--tenpak-json=run.json",
    )
    run = read_document(suite.path / "run.json")
    assert run.problems == ("test_broken.py could not be collected: its gates are not counted",)
    assert not run.ran_well


def test_a_process_that_crashed_is_a_problem_of_the_report(suite):
    """What it expected went with it; the report must not read as if nothing had been expected."""
    body = "import os\n@pytest.mark.quantize(method='nf4')\ndef test_nf4(): pass\n@pytest.fixture\ndef tenpak_model(): os._exit(3)\n"
    suite.run(body, "-n", "1", "--max-worker-restart=0", "--tenpak-json=run.json")
    run = read_document(suite.path / "run.json")
    assert run.problems == ("the process that ran test_gate.py::test_nf4 crashed",)
    assert not run.ran_well


def test_a_gate_that_its_suite_skips_is_skipped_and_not_missing(suite, distributed):
    """As one that ``may_skip``: counted, named, and no failure of the run."""
    body = "@pytest.mark.quantize(method='nf4')\n@pytest.mark.skip(reason='no GPU')\ndef test_nf4(): pass\n"
    result = suite.run(body, *distributed, "--tenpak-json=run.json")
    result.stdout.fnmatch_lines(["1 gate expected, 0 ran, 1 skipped"])
    assert result.ret == 0
    outcome = read_document(suite.path / "run.json").outcomes[0]
    assert outcome.skipped
    assert "no GPU" in outcome.problem


# ---------------------------------------------------------------- files


def test_every_report_of_a_real_run(project, distributed, actions):
    """One gate passes, one fails: all reports agree, and the JSON is what its schema says."""
    project.test(GATES)
    paths = ("--tenpak-json=out/run.json", "--tenpak-md=out/run.md", "--tenpak-md-comment=out/comment.md")
    result = project.run(*paths, "--junit-xml=junit.xml", *distributed)
    result.assert_outcomes(passed=1, failed=1)
    plain = json.loads((project.path / "out/run.json").read_text())
    jsonschema.Draft202012Validator(published_schema("pytest_tenpak.reports", "run-1")).validate(plain)
    run = read_document(project.path / "out/run.json")
    assert {one.title: str(one.status) for one in run.outcomes} == {
        "test_gate.py::test_fails": "error",
        "test_gate.py::test_nf4": "new",
    }
    assert run.expected == ("test_gate.py::test_fails", "test_gate.py::test_nf4")
    assert run.written == ("baselines/test_gate/test_nf4.json",)
    markdown = (project.path / "out/run.md").read_text()
    assert "2 gates expected, 2 ran" in markdown
    assert "| `test_gate.py::test_nf4` | `nf4` |" in markdown
    assert (project.path / "out/comment.md").read_text() == "<!-- pytest-tenpak -->\n" + markdown
    assert actions.read_text() == markdown
    error, warning = commands(result)
    assert error.startswith(
        "::error file=test_gate.py,line=4,title=tenpak%3A test_gate.py%3A%3Atest_fails::error: "
    )
    assert warning.startswith("::warning file=test_gate.py,line=7,")
    assert "new: baseline created" in warning
    values = [row.attrib["value"] for row in ElementTree.parse(project.path / "junit.xml").iter("property")]
    assert len(values) >= 8
    assert not [value for value in values if not value or re.search(r"[\[\]{}'\"\n]", value)]


@pytest.mark.parametrize("report", ["json", "md", "md-comment"])
def test_a_report_that_cannot_be_written_fails_the_run(suite, report):
    """It is named with its path; the others are written and say so; all tests passed, and yet the run fails."""
    (suite.path / "file").touch()
    result = suite.run(
        PLAIN, f"--tenpak-{report}=file/x", "--tenpak-json=run.json" if report != "json" else "-q"
    )
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"--tenpak-{report}: file/x cannot be written: *"])
    if report != "json":
        (problem,) = read_document(suite.path / "run.json").problems
        assert problem.startswith(f"--tenpak-{report}: file/x cannot be written: ")


def test_a_page_is_written_where_it_was_asked_for(suite):
    """--tenpak-html."""
    pytest.importorskip("pytest_tenpak.reports.html.page")
    suite.run(FAILS, "--tenpak-html=page.html").assert_outcomes(failed=1)
    assert "test_gate.py::test_fails" in (suite.path / "page.html").read_text()


def test_a_run_without_gates_reports_nothing_unasked(suite, actions):
    """No section, no annotation, no summary; nor where gates are only collected."""
    assert "quantization gates" not in suite.run(PLAIN).stdout.str()
    collected = suite.run(FAILS, "--collect-only")
    assert commands(collected) == []
    assert not actions.exists()


# ---------------------------------------------------------------- the terminal


def test_only_the_terminal_wraps_a_failure(suite, monkeypatch, distributed):
    """At COLUMNS, where that is set: JUnit and JSON have whole lines, as has output that is no terminal."""
    arguments = ("--junit-xml=junit.xml", "--tenpak-json=run.json", *distributed)
    for columns in (100, 0):
        monkeypatch.setenv("COLUMNS", str(columns or ""))
        printed = suite.run(FAILS, *arguments).outlines
        problem = read_document(suite.path / "run.json").outcomes[0].problem.splitlines()
        assert max(map(len, problem)) > 100
        (failed,) = ElementTree.parse(suite.path / "junit.xml").iter("failure")
        assert set(problem) <= set(failed.text.splitlines())
        first = next(n for n, line in enumerate(printed) if "= FAILURES =" in line)
        lines = printed[first : printed.index("method: nf4(bits=4, blocksize=64, compute_dtype=auto)")]
        assert " ".join(" ".join(problem).split()) in " ".join(" ".join(lines).split())
        assert (max(map(len, lines)) <= 100) == (columns > 0)
        assert any(line.startswith("FAILED test_gate.py::test_fails - ") for line in printed)


# ---------------------------------------------------------------- GitHub Actions


def test_annotations_are_the_last_that_is_printed(suite, actions, distributed):
    """Once, after pytest's own last line, whatever is captured; and nowhere else."""
    for more in ([], ["-s"], ["-qq"], ["-p", "no:terminal"])[: 1 if distributed else 4]:
        result = suite.run(FAILS, *distributed, *more)
        assert len(commands(result)) == 1
        assert [line for line in result.outlines if line][-1].startswith("::error file=test_gate.py,line=4,")


def test_outside_actions_nothing_is_annotated(suite):
    """Lines for a runner are for a runner."""
    assert commands(suite.run(FAILS)) == []


def test_the_checkout_may_be_above_the_suite(suite, actions, monkeypatch):
    """Files are named from the workspace."""
    monkeypatch.setenv("GITHUB_WORKSPACE", str(suite.path.parent))
    assert f"file={suite.path.name}/test_gate.py," in commands(suite.run(FAILS))[0]


def test_an_expected_failure_is_no_error(suite, actions, distributed):
    """xfail: a warning that says so, in a report that counts no failure."""
    result = suite.run("@pytest.mark.xfail(reason='known')" + FAILS, "--tenpak-json=run.json", *distributed)
    result.assert_outcomes(xfailed=1)
    (line,) = commands(result)
    assert line.startswith("::warning file=test_gate.py,line=")
    assert line.endswith("::error: expected to fail: known")
    assert actions.read_text().startswith("### Quantization gates: the gate passed\n")
    assert read_document(suite.path / "run.json").ran_well


def test_errors_are_left_to_the_plugin_that_annotates_failures(suite, actions):
    """Two annotations of one failure help nobody."""
    (suite.path / "pytest_github_actions_annotate_failures.py").touch()
    result = suite.run(FAILS, "-p", "pytest_github_actions_annotate_failures")
    result.assert_outcomes(failed=1)
    assert commands(result) == []
    assert actions.exists()


def test_a_step_summary_that_cannot_be_written(suite, actions):
    """A problem like any other."""
    actions.mkdir()
    result = suite.run(FAILS)
    result.stdout.fnmatch_lines(["GITHUB_STEP_SUMMARY cannot be written: *"])


# ---------------------------------------------------------------- reporters of other plugins


def test_the_reporter_of_the_document(suite, distributed):
    """The example in docs/reports.md works as it stands, and is called once, by one process."""
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S)
    assert "pytest_tenpak_register_reporters" in example
    suite.pytester.makeconftest(example)
    suite.run(FAILS + FAILS.replace("test_fails", "test_more"), *distributed).assert_outcomes(failed=2)
    with (suite.path / "gates.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [[f"test_gate.py::test_{name}", "", "error", "", ""] for name in ("fails", "more")]


def test_a_reporter_that_raises_is_named_and_costs_nothing_else(suite, distributed):
    """The next reporter and the files know of it; no verdict changes; the run fails."""
    suite.pytester.makeconftest(
        """
        class Keeper:
            def __init__(self, config): self.path = config.rootpath / "kept.txt"
            def report(self, summary): self.path.write_text("; ".join(summary.problems))

        def broken(summary):
            raise KeyError("no such column")

        def pytest_tenpak_register_reporters(register, config):
            for reporter in (broken, Keeper(config).report, 3):
                register(reporter)
        """
    )
    result = suite.run(PLAIN + FAILS, "--tenpak-json=run.json", *distributed)
    result.assert_outcomes(passed=1, failed=1)
    said = "reporter conftest.broken raised KeyError: 'no such column'"
    result.stdout.fnmatch_lines([said])
    assert (suite.path / "kept.txt").read_text() == said
    run = read_document(suite.path / "run.json")
    assert run.problems == (said, "reporter builtins.int raised TypeError: 'int' object is not callable")
    assert [str(one.status) for one in run.outcomes] == ["error"]


def test_a_reporter_that_leaves(suite):
    """Whatever way it takes: sys.exit, pytest.fail and pytest.skip end nothing but itself."""
    suite.pytester.makeconftest(
        """
        import sys, pytest

        def pytest_tenpak_register_reporters(register):
            for leave in (sys.exit, pytest.fail, pytest.skip, pytest.exit):
                register(lambda summary, leave=leave: leave("bye"))
        """
    )
    suite.run(FAILS, "--tenpak-json=run.json").assert_outcomes(failed=1)
    kinds = [problem.split()[3] for problem in read_document(suite.path / "run.json").problems]
    assert kinds == ["SystemExit:", "Failed:", "Skipped:", "Exit:"]


def test_a_hook_that_raises(suite):
    """The hook itself is a problem too, and the run fails though every test passed."""
    suite.pytester.makeconftest("def pytest_tenpak_register_reporters(register): raise ValueError('x')\n")
    result = suite.run(PLAIN, "--tenpak-json=run.json")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["pytest_tenpak_register_reporters raised ValueError: x"])
    assert read_document(suite.path / "run.json").problems


# ---------------------------------------------------------------- pytest-html


def test_rows_of_pytest_html(project, distributed):
    """Figures for a gate that passes, the failure for one that fails, and a link to our page."""
    project.test(GATES)
    project.run(*PYTEST_HTML, "--html=out/theirs.html", "--tenpak-html=pages/our gates.html", *distributed)
    rows = html_rows(project.path / "out/theirs.html")
    passed, failed = rows["test_gate.py::test_nf4"][0], rows["test_gate.py::test_fails"][0]
    assert "1 gate" not in passed["log"]
    assert re.search(r"test_gate.py::test_nf4 +nf4 +[\d.]+ +[\d.]+×", passed["log"])
    assert "nowhere" in failed["log"]
    for row in (passed, failed):
        assert 'href="../pages/our%20gates.html">gates</a></td>' in "".join(row["resultsTableRow"])


def test_hostile_ids_in_pytest_html(suite):
    """Shown as text, which pytest-html does not see to; other tests' rows are left as they are."""
    hostile = "@pytest.mark.parametrize('x', ['<img src=x onerror=alert(1)>', 'a' * 10_000, '&amp;'])"
    suite.run(
        hostile + FAILS.replace("()", "(x)") + PLAIN,
        *PYTEST_HTML,
        "--html=theirs.html",
        "--self-contained-html",
    )
    rows = html_rows(suite.path / "theirs.html")
    cells = [cell for tests in rows.values() for row in tests for cell in row["resultsTableRow"]]
    ids = [cell for cell in cells if "col-testId" in cell]
    assert '<td class="col-testId">test_gate.py::test_plain</td>' in ids
    assert any("[&lt;img src=x onerror=alert(1)&gt;]</td>" in cell for cell in ids)
    assert any("[&amp;amp;]</td>" in cell for cell in ids)
    assert all(len(cell) < 400 for cell in ids)
    assert not [cell for cell in cells if "<img" in cell]
    assert not [row for tests in rows.values() for row in tests if "<img" in row["log"]]


def html_rows(path: Path) -> dict[str, list[dict]]:
    """The tests that a report of pytest-html shows."""
    (blob,) = re.findall(r'data-jsonblob="(.*?)"', path.read_text())
    return json.loads(unescape(blob))["tests"]


def test_without_pytest_html(suite):
    """Nothing is missing."""
    suite.run(FAILS).assert_outcomes(failed=1)
