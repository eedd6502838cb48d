"""Baselines as a contract: they change when somebody asked, as far as was asked, and by one writer."""

import json
import math
from dataclasses import replace

import pytest
from made_up import better, rewrite
from projects import CPU

from pytest_tenpak.baselines.entry import Anchor, Baseline, baseline_files

TWO = """
@pytest.mark.quantize(method="nf4")
def test_one():
    pass

@pytest.mark.quantize(method="nf4")
def test_two():
    pass
"""
ONE = TWO.partition("\n\n")[0]


def path_of(project, name: str = "test_one"):
    return project.path / "baselines/test_gate" / f"{name}.json"


def entry_of(project, name: str = "test_one", device_class: str = CPU):
    return Baseline.read(path_of(project, name)).entries[device_class]


def better_from_the_start(entry):
    """A quarter better when it was first accepted, and ever since."""
    entry = better(entry, 1.25)
    return replace(entry, anchor=Anchor(entry.figures, entry.layers))


@pytest.fixture
def two(project, distributed):
    """Two gates, accepted when both were a quarter better."""
    project.test(TWO)
    project.run(*distributed).assert_outcomes(passed=2)
    for name in ("test_one", "test_two"):
        rewrite(path_of(project, name), lambda entry: better(entry, 1.25))
    return project


def test_one_test_of_many_is_accepted_by_its_id(two, distributed):
    """The other one keeps its baseline and still fails, in the very run that updates."""
    kept = path_of(two, "test_two").read_bytes()
    reason = ("--tenpak-accept-test", "test_gate.py::test_one", "smaller kernels")
    result = two.run(*distributed, "--tenpak-update=failing", *reason)
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [f"*test_one.json [[]{CPU}[]]: baseline updated, accepted as worse: smaller kernels"]
    )
    assert entry_of(two).history[0].reason == "smaller kernels"
    assert path_of(two, "test_two").read_bytes() == kept


def test_a_reason_for_a_test_that_is_no_gate_is_a_usage_error(two, distributed):
    """Else a mistyped id would leave its test red, or worse, another one green."""
    result = two.run(
        *distributed, "--tenpak-update=failing", "--tenpak-accept-test", "test_gate.py::test_on", "fine"
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "*--tenpak-accept-test: there is no gate 'test_gate.py::test_on' in this run; "
            "did you mean 'test_gate.py::test_one'?"
        ]
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tenpak-reanchor"], "*--tenpak-reanchor needs a reason*"),
        (["--tenpak-update=failing", "--tenpak-accept= "], "*accepting needs a reason*"),
        (["--tenpak-accept-test", "test_gate.py::test_one", "fine"], "*accepts nothing by itself*"),
        (["--tenpak-baseline-device=nearest"], "*baseline_device='nearest' is not accepted*"),
        (["--tenpak-drift-limit=-1"], "*drift_limit=-1.0 is not accepted*"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(project, arguments, said):
    """Before any work, with what is accepted."""
    project.test(ONE)
    result = project.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


def test_improvements_are_taken_alone(two, distributed):
    """``improved`` tightens the one that got better; the one that regressed stays, and fails."""
    rewrite(path_of(two, "test_two"), lambda entry: better(entry, 1 / 1.25**2))
    kept = path_of(two).read_bytes()
    result = two.run(*distributed, "--tenpak-update=improved")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([f"*test_two.json [[]{CPU}[]]: baseline updated"])
    assert entry_of(two, "test_two").history[0].reason == "updated on request"
    assert path_of(two).read_bytes() == kept


@pytest.mark.parametrize("distributed", [()], ids=["alone"])
def test_what_is_past_the_drift_limit_needs_a_new_anchor(project, distributed):
    """The failure's own command says so; a reason alone is refused; then the drift counts from the new anchor."""
    project.test(ONE)
    project.run(*distributed)
    rewrite(path_of(project), better_from_the_start)
    failed = project.run(*distributed)
    failed.stdout.fnmatch_lines(["to accept: pytest *--tenpak-accept 'why this is fine' --tenpak-reanchor"])
    accept = ("--tenpak-update=failing", "--tenpak-accept", "smaller kernels")
    refused = project.run(*distributed, *accept)
    refused.assert_outcomes(failed=1)
    refused.stdout.fnmatch_lines(
        ["not updated: the drift since its anchor is past the drift limit*--tenpak-reanchor*"]
    )
    project.run(*distributed, *accept, "--tenpak-reanchor").assert_outcomes(passed=1)
    entry = entry_of(project)
    assert entry.anchor.figures == entry.figures
    assert entry.anchor.reason == entry.history[0].reason == "smaller kernels"
    project.run(*distributed).assert_outcomes(passed=1)


def test_only_tests_with_a_reason_are_anchored_anew(project):
    """``--tenpak-reanchor`` beside one test's reason leaves every other test's anchor where it is."""
    project.test(TWO)
    project.run()
    for name in ("test_one", "test_two"):
        rewrite(
            path_of(project, name), lambda entry: replace(entry, anchor=replace(entry.anchor, drift=0.01))
        )
    reason = ("--tenpak-accept-test", "test_gate.py::test_one", "measured anew")
    project.run("--tenpak-update=all", *reason, "--tenpak-reanchor").assert_outcomes(passed=2)
    assert entry_of(project).anchor.drift == 0
    assert entry_of(project).anchor.reason == "measured anew"
    assert entry_of(project, "test_two").anchor.drift == 0.01


def test_a_body_that_skips_itself_is_no_way_around_the_gate(project, distributed):
    """A gate that regressed fails its test all the same; one that passed is skipped, as the body wants."""
    project.test(ONE.replace("pass", "pytest.skip('not today')"))
    project.run(*distributed, "--tenpak-update=new").assert_outcomes(skipped=1)
    project.test(ONE)
    project.run(*distributed)
    project.test(ONE.replace("pass", "pytest.skip('not today')"))
    project.run(*distributed).assert_outcomes(skipped=1)
    rewrite(path_of(project), lambda entry: better(entry, 1.25))
    result = project.run(*distributed)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["regressed: perplexity vs baseline +25.00%*"])


def test_small_steps_that_add_up_regress(project):
    """Three accepted steps of 0.4 % passed; the fourth is inside its tolerance, and past the limit."""
    project.test(ONE)
    project.run()

    def crept(entry):
        anchor = Anchor(better(entry, 1.016).figures, entry.layers, drift=math.log(1.016 / 1.004))
        return replace(better(entry, 1.004), anchor=anchor)

    rewrite(path_of(project), crept)
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["regressed: perplexity vs anchor +1.60%, bound ≤ +1.5%"])
    project.run("--tenpak-drift-limit=4").assert_outcomes(passed=1)


@pytest.mark.parametrize("distributed", [()], ids=["alone"])
def test_a_class_without_an_entry_is_new_or_borrows_the_nearest(project, distributed):
    """Each class has its own entry; ``any`` compares with another one's, says so, and writes only if asked."""
    project.test(ONE)
    project.run(*distributed)
    path = path_of(project)
    Baseline("test_gate.py::test_one", {"cuda-sm90": better(entry_of(project), 0.999)}).write(path)
    kept = path.read_bytes()
    borrowed = ("--tenpak-baseline-device=any",)
    result = project.run(*distributed, *borrowed)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*-0.10% *passed"])
    assert path.read_bytes() == kept
    strict = project.run(*distributed, *borrowed, "--tenpak-ppl-tolerance=0", "--tenpak-json=out.json")
    checks = json.loads((project.path / "out.json").read_text())["outcomes"][0]["verdict"]["checks"]
    told = next(check["evidence"] for check in checks if check["name"] == "ppl_tolerance")
    assert "compared with the entry of cuda-sm90, the nearest device class" in told
    assert strict.ret == 0
    project.run(*distributed, *borrowed, "--tenpak-update=new").assert_outcomes(passed=1)
    baseline = Baseline.read(path)
    assert sorted(baseline.entries) == [CPU, "cuda-sm90"]
    assert len(baseline.entries[CPU].nll) == len(baseline.entries["cuda-sm90"].nll)
    # Without it, a class of its own is new.
    Baseline("test_gate.py::test_one", {"cuda-sm90": baseline.entries["cuda-sm90"]}).write(path)
    project.run(*distributed).stdout.fnmatch_lines(["*new", f"*test_one.json [[]{CPU}[]]: baseline created*"])


@pytest.mark.slow
def test_eight_workers_write_two_hundred_baselines(project):
    """The controller alone writes: 200 cases, 200 whole files, each that of its own test."""
    project.test(
        "@pytest.mark.parametrize('n', range(200))\n"
        "@pytest.mark.quantize(method='nf4', max_tokens=504)\n"
        "def test_many(n): pass\n"
    )
    project.run("-k", "many[0]").assert_outcomes(passed=1)
    project.run("-n", "8").assert_outcomes(passed=200)
    files = baseline_files(project.path / "baselines")
    assert len(files) == 200
    baselines = {Baseline.read(path).case for path in files.values()}
    assert baselines == {f"test_gate.py::test_many[{n}]" for n in range(200)}
