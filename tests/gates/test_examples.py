"""The examples: each does what it says, on a tiny model, and names only what there is."""

import csv
import re
import shutil

import pytest
import yaml
from places import ROOT

from pytest_tenpak.cli.main import COMMANDS
from pytest_tenpak.plugin import options

EXAMPLES = ROOT / "examples"


@pytest.fixture
def example(project):
    """Run an example's copy in a project, whose settings stand in for those of the example."""

    def run(name: str, *arguments: str):
        for path in (EXAMPLES / name).glob("*.py"):
            shutil.copyfile(path, project.path / path.name)
        return project.run(*arguments)

    return run


@pytest.mark.slow
def test_the_plugin_adds_a_method(example, project):
    """Registered from the conftest, quantized, measured, and gated by its limit."""
    example("plugin").assert_outcomes(passed=1)
    assert project.baselines == ["test_rounded/test_rounded.json"]


def rows(project):
    return list(csv.reader((project.path / "gates.csv").read_text().splitlines()))


@pytest.mark.slow
def test_the_reporter_appends_a_row_for_each_gate(example, project):
    """With its verdict and both perplexities, run after run."""
    for _ in range(2):
        example("reporter").assert_outcomes(passed=1)
    assert [row[:3] for row in rows(project)] == [
        ["test_model.py::test_unquantized", "text.txt", status] for status in ("new", "passed")
    ]
    for row in rows(project):
        reference, measured = map(float, row[3:])
        assert measured == pytest.approx(reference, rel=1e-4)


def test_the_reporter_names_what_could_not_be_measured(example, project):
    """Without figures."""
    example("reporter", "--tenpak-model=nowhere").assert_outcomes(failed=1)
    assert rows(project) == [["test_model.py::test_unquantized", "", "error", "", ""]]


def test_the_suite_has_gates_that_can_be_collected(example):
    """Methods, limits and options that there are; ``make demo`` measures the like."""
    collected = example("suite", "--collect-only", "-q")
    collected.stdout.fnmatch_lines(
        [f"test_model.py::test_it_still_speaks[[]{method}]" for method in ("int8", "nf4")]
    )


def test_every_example_names_only_settings_that_there_are():
    """In ini files, and in the workflow."""
    settings = (options.MODEL, *options.DEFAULTS, *options.RUN)
    for path in EXAMPLES.rglob("pytest.ini"):
        keys = re.findall(r"^(tenpak_\w+) =", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(keys) <= {setting.key for setting in settings if setting.ini}, path
    text = (EXAMPLES / "workflow" / "gates.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"--tenpak-[\w-]+", text)) <= {setting.flag for setting in settings}
    assert set(re.findall(r"\btenpak (\w+) ", text)) <= set(COMMANDS)


def test_the_workflow_gives_the_action_inputs_that_it_has():
    """And pins every action of others by its commit."""
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    workflow = yaml.safe_load((EXAMPLES / "workflow" / "gates.yml").read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    (ours,) = (step for step in steps if "pytest-tenpak@" in step.get("uses", ""))
    assert set(ours["with"]) <= set(action["inputs"])
    others = [step["uses"] for step in steps if "uses" in step and step is not ours]
    assert [name for name in others if not re.search(r"@[0-9a-f]{40}$", name)] == []
