"""The gate as its users meet it: real quantization of a small trained model, with and without xdist."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from made_up import better, rewrite
from projects import CPU

PLAIN = """
@pytest.mark.quantize(method="nf4", max_ppl_delta=0.5)
def test_nf4():
    pass
"""


def worsen_by(
    project, factor: float, name: str = "test_gate/test_nf4.json", same_weights: bool = False
) -> bytes:
    """Rewrite a baseline as if a checkpoint ``factor`` times better had been accepted; the new bytes.

    Other weights than these, or the same ones, which a better kernel ran.
    """
    path = project.path / "baselines" / name
    return rewrite(path, lambda entry: better(entry, factor, same_weights))


def test_a_first_run_creates_the_baseline_and_a_second_compares(project, distributed):
    """New, said and counted; then passed, and the file stays as it is."""
    project.test(PLAIN)
    first = project.run(*distributed)
    first.assert_outcomes(passed=1)
    first.stdout.fnmatch_lines(
        [
            "gate *method *bits/weight *compression *perplexity *Δ reference *Δ baseline *verdict*",
            "test_gate.py::test_nf4 *nf4 * new*",
            "bits/weight: quantized layers; compression: whole checkpoint vs 16 bit*",
            "1 gate expected, 1 ran",
            f"baselines/test_gate/test_nf4.json [[]{CPU}[]]: baseline created: review and commit it",
        ]
    )
    assert project.baselines == ["test_gate/test_nf4.json"]
    written = (project.path / "baselines/test_gate/test_nf4.json").read_bytes()
    second = project.run(*distributed)
    second.assert_outcomes(passed=1)
    second.stdout.fnmatch_lines(["test_gate.py::test_nf4 *nf4 *0.00% *passed"])
    assert (project.path / "baselines/test_gate/test_nf4.json").read_bytes() == written


def test_one_header_line_and_only_with_gates(project):
    """A run without gates says nothing about them."""
    project.test(PLAIN)
    project.test("def test_plain(): pass", name="test_other")
    project.run("--collect-only").stdout.fnmatch_lines(
        ["tenpak *: 1 gate, device auto, baselines in baselines/"]
    )
    assert "tenpak 0" not in project.run("test_other.py").stdout.str()


def test_a_regression_fails_in_the_call_phase_and_says_all(project, distributed):
    """Which test, which check, both values, difference, bound, provenance, and the command that accepts."""
    project.test(PLAIN)
    project.run(*distributed).assert_outcomes(passed=1)
    before = worsen_by(project, 1.25)
    result = project.run(*distributed, "--junit-xml=junit.xml")
    result.assert_outcomes(failed=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "regressed: perplexity vs baseline +25.00%, bound ≤ +0.5%",
            "test_gate.py::test_nf4 [[]nf4(bits=4, blocksize=64, compute_dtype=auto)[]]",
            "✓ *perplexity vs reference *≤ +50%",
            "✗ *perplexity vs baseline *+25.00% *≤ +0.5%",
            "✓ *compression vs baseline *0.00% *≥ -0.1%",
            "perplexity vs baseline: 99.9% interval +25.00% to +25.00% at any look; 8 windows (504 of 6,930 tokens); "
            "the baseline has 110 windows; other quantized weights; *was not measured",
            "KL divergence on text.txt (exact, nats): mean * ± *, median *, 99% *, 99.9% *, max *; top-1 agreement *",
            "NLL on text.txt (nats, reference → quantized): trimmed mean * → *, median *, worst 0.1% of tokens*",
            f"baseline: baselines/test_gate/test_nf4.json [[]{CPU}[]]",
            "differs in provenance: nothing that is recorded*",
            "to accept: pytest test_gate.py::test_nf4 --tenpak-update=failing --tenpak-accept 'why this is fine'",
            "test_gate.py::test_nf4 *+25.00% *regressed",
        ]
    )
    assert (project.path / "baselines/test_gate/test_nf4.json").read_bytes() == before
    suite = ElementTree.parse(project.path / "junit.xml").getroot().find("testsuite")
    assert (suite.get("failures"), suite.get("errors")) == ("1", "0")


def test_a_change_of_versions_is_named_as_the_likely_cause(project):
    """Provenance that differs is shown when a check fails."""
    project.test(PLAIN)
    project.run()
    worsen_by(project, 1.25)
    path = project.path / "baselines/test_gate/test_nf4.json"

    def older(entry):
        versions = {**entry.provenance.versions, "bitsandbytes": "0.1.2"}
        return replace(entry, provenance=replace(entry.provenance, versions=versions))

    rewrite(path, older)
    project.run().stdout.fnmatch_lines(["differs in provenance: bitsandbytes 0.1.2 → *"])


def test_accepting_needs_to_be_asked_for_and_keeps_what_it_replaces(project, distributed_at_length):
    """Update alone is refused with the remedy; with a reason the test passes, history and anchor remain."""
    project.test(PLAIN)
    project.run(*distributed_at_length)
    worsen_by(project, 1.25)
    refused = project.run(*distributed_at_length, "--tenpak-update=failing")
    refused.assert_outcomes(failed=1)
    refused.stdout.fnmatch_lines(
        ['not updated: the new figures are worse, which needs --tenpak-accept "reason"']
    )
    accepted = project.run(
        *distributed_at_length, "--tenpak-update=failing", "--tenpak-accept", "smaller kernels"
    )
    accepted.assert_outcomes(passed=1)
    accepted.stdout.fnmatch_lines(
        [
            "*regressed, accepted",
            f"*test_nf4.json [[]{CPU}[]]: baseline updated, accepted as worse: smaller kernels",
        ]
    )
    entry = json.loads((project.path / "baselines/test_gate/test_nf4.json").read_text())["entries"][CPU]
    assert entry["history"][0]["reason"] == "smaller kernels"
    assert entry["history"][0]["figures"]["perplexity"] < entry["figures"]["perplexity"]
    project.run(*distributed_at_length).assert_outcomes(passed=1)


def test_a_broken_limit_fails_and_no_update_settles_it(project):
    """Limits are the first question; nothing is written, even on a first run."""
    project.test(PLAIN.replace("0.5", "-0.5"))
    for args in ((), ("--tenpak-update=all", "--tenpak-accept", "please")):
        result = project.run(*args)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            ["✗ *perplexity vs reference *≤ -50%", "what to do: updating the baseline does not clear this*"]
        )
    assert project.baselines == []


def test_in_ci_a_missing_baseline_fails_and_writes_nothing(project, distributed_at_length, monkeypatch):
    """Unless it is asked for by name. Either of pytest's two variables means CI."""
    monkeypatch.setenv("BUILD_NUMBER" if distributed_at_length else "CI", "1")
    project.test(PLAIN)
    result = project.run(*distributed_at_length)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["no baseline, and CI creates none*", "to accept: * --tenpak-update=new"])
    assert project.baselines == []
    project.run(*distributed_at_length, "--tenpak-update=new").assert_outcomes(passed=1)
    assert project.baselines == ["test_gate/test_nf4.json"]


def test_a_users_own_failure_stays_his_and_creates_no_baseline(project, distributed_at_length):
    """The assertion is what is reported; a red test accepts nothing, then or from its document later."""
    project.test(PLAIN.replace("pass", "assert 1 == 2, 'mine'"))
    result = project.run(*distributed_at_length, "--tenpak-json=run.json")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *AssertionError: mine", "*baseline not written, since the test failed"])
    assert "baseline created" not in result.stdout.str()
    assert "regressed:" not in result.stdout.str()
    [outcome] = json.loads((project.path / "run.json").read_text())["outcomes"]
    assert not outcome["body_passed"]
    assert project.baselines == []


def test_the_fixture_gives_model_tokenizer_figures_and_checkpoint(project):
    """Everything the design promises, from the reloaded checkpoint."""
    project.test(
        """
        import json

        @pytest.mark.quantize(method="int8", min_compression=1.1)
        def test_all(quantized):
            assert quantized.verdict.status == "new"
            assert quantized.measurement.perplexity > 1
            assert quantized.reference.ledger.bits_per_weight is None
            assert quantized.measurement.ledger.bits_per_weight == pytest.approx(8.2, abs=0.2)
            recipe = json.loads((quantized.checkpoint / "config.json").read_text())["quantization_config"]
            assert recipe["load_in_8bit"]
            said = quantized.generate("In the beginning", max_new_tokens=5)
            assert said == quantized.generate("In the beginning", max_new_tokens=5)
            assert 0 < len(said) <= 5
            assert quantized.model.is_loaded_in_8bit
            assert quantized.tokenizer("a")["input_ids"]
        """
    )
    project.run().assert_outcomes(passed=1)


@pytest.mark.parametrize("distributed", [("-n", "2")], ids=["xdist"])
@pytest.mark.slow
def test_several_markers_make_several_cases_with_readable_ids(project, distributed):
    """One item, one baseline each; what tells two of one method apart stands in the id."""
    project.test(
        """
        @pytest.mark.quantize(method="nf4")
        @pytest.mark.quantize(method="nf4", double_quant=True)
        @pytest.mark.quantize(method="int8")
        def test_many(quantized):
            assert quantized.measurement.perplexity
        """
    )
    project.run(*distributed).assert_outcomes(passed=3)
    assert project.baselines == [
        "test_gate/test_many--int8.json",
        "test_gate/test_many--nf4-double_quant=True.json",
        "test_gate/test_many--nf4.json",
    ]
    ids = project.run("--collect-only", "-q").stdout.str()
    assert "test_many[int8]" in ids
    assert "test_many[nf4-double_quant=True]" in ids


@pytest.mark.parametrize("distributed", [("-n", "2")], ids=["xdist"])
def test_methods_classes_and_parameters(project, distributed):
    """A marker on a class, on a method, and in pytest.param, the unmarked parameter left alone."""
    project.test(
        """
        @pytest.mark.quantize(method="nf4")
        class TestClass:
            def test_method(self, quantized):
                assert quantized.verdict

        @pytest.mark.parametrize("number", [
            pytest.param(1, marks=pytest.mark.tenpak_quantize(method="nf4")),
            pytest.param(2, marks=pytest.mark.quantize(method="int8")),
            3,
        ])
        def test_parameter(number, request):
            assert (number == 3) == ("quantized" not in request.fixturenames)
        """
    )
    result = project.run(*distributed)
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["3 gates expected, 3 ran"])
    assert project.baselines == [
        "test_gate/TestClass.test_method.json",
        "test_gate/test_parameter--1.json",
        "test_gate/test_parameter--2.json",
    ]


def test_async_tests_are_left_to_their_plugin(project):
    """pytest-asyncio runs the coroutine; the gate still gates it."""
    project.test(
        """
        import asyncio

        @pytest.mark.asyncio
        @pytest.mark.quantize(method="nf4")
        async def test_async(quantized):
            await asyncio.sleep(0)
            assert quantized.verdict.status == "new"
        """
    )
    asked = ("-p", "asyncio", "-o", "asyncio_default_fixture_loop_scope=function")
    project.run(*asked).assert_outcomes(passed=1)
    assert project.baselines == ["test_gate/test_async.json"]


def test_unittest_methods_are_gated(project):
    """A marker on a TestCase's method works without the fixture in its signature."""
    project.test(
        """
        import unittest

        class TestOld(unittest.TestCase):
            @pytest.mark.quantize(method="nf4", max_ppl_delta=-0.5)
            def test_method(self):
                pass
        """
    )
    project.run().assert_outcomes(failed=1)


@pytest.mark.slow
def test_the_model_may_be_a_pair_made_by_the_users_own_fixture(project):
    """A (model, tokenizer) in memory is gated like a directory, and gives the same figures."""
    project.pytester.makeconftest(
        f"""
        import pytest

        @pytest.fixture(scope="session")
        def tenpak_model():
            from transformers import AutoModelForCausalLM, AutoTokenizer

            path = {str(project.model)!r}
            return AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
        """
    )
    project.test(PLAIN)
    project.run("--tenpak-json=pair.json").assert_outcomes(passed=1)
    (project.path / "conftest.py").unlink()
    project.run("--tenpak-json=path.json", "--tenpak-baseline-dir=elsewhere").assert_outcomes(passed=1)
    pair, path = (json.loads((project.path / f"{name}.json").read_text()) for name in ("pair", "path"))
    assert pair["outcomes"][0]["figures"] == path["outcomes"][0]["figures"]


@pytest.mark.slow
def test_a_checkpoint_that_somebody_else_made(project):
    """A directory that transformers can load is gated against the model it came from."""
    project.test(PLAIN)
    project.run("--tenpak-json=made.json").assert_outcomes(passed=1)
    made = json.loads((project.path / "made.json").read_text())["outcomes"][0]
    project.test(
        f"""
        @pytest.mark.quantize(checkpoint={made["checkpoint"]!r}, max_ppl_delta=0.5, min_compression=1.2)
        def test_theirs(quantized):
            assert quantized.generate("In", max_new_tokens=2)
        """,
        name="test_theirs",
    )
    project.run("test_theirs.py", "--tenpak-json=theirs.json").assert_outcomes(passed=1)
    theirs = json.loads((project.path / "theirs.json").read_text())["outcomes"][0]
    assert theirs["figures"] == made["figures"]


def test_every_outcome_is_written_as_json(project, distributed):
    """Versioned, with what was expected, and figures beside each outcome."""
    project.test(PLAIN)
    project.run(*distributed, "--tenpak-json=out/gates.json")
    plain = json.loads((project.path / "out/gates.json").read_text())
    assert plain["schema_version"] == 1
    assert plain["expected"] == ["test_gate.py::test_nf4"]
    assert plain["ran"] == 1
    outcome = plain["outcomes"][0]
    assert outcome["verdict"]["status"] == "new"
    assert outcome["figures"]["perplexity"] != outcome["figures"]["reference_perplexity"]
    assert len(outcome["parts"][0]["measurement"]["windows"]["nll"]) == 110
    assert outcome["case"]["line"] == 3


def test_junit_properties_are_scalars(project, distributed):
    """Figures reach whoever reads JUnit, as plain numbers and words."""
    project.test(PLAIN)
    project.run(*distributed, "--junit-xml=junit.xml")
    rows = ElementTree.parse(project.path / "junit.xml").getroot().iter("property")
    properties = {row.get("name"): row.get("value") for row in rows}
    assert properties["tenpak.status"] == "new"
    assert float(properties["tenpak.ppl"]) > 1
    delta = float(properties["tenpak.ppl"]) / float(properties["tenpak.ppl_reference"]) - 1
    assert float(properties["tenpak.ppl_delta"]) == pytest.approx(delta, abs=1e-6)
    assert float(properties["tenpak.compression"]) > 1


def test_an_improvement_passes_and_is_told(project):
    """Better than the baseline by more than the tolerance: green, with the way to tighten it."""
    project.test(PLAIN)
    project.run()
    worsen_by(project, 0.8)
    result = project.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "*-20.00% *improved",
            "*baseline can be tightened by -20.00% of perplexity, with --tenpak-update=improved",
        ]
    )
    project.run("--tenpak-update=improved").stdout.fnmatch_lines(["*baseline updated"])
    project.run().stdout.fnmatch_lines(["*0.00% *passed"])


@pytest.mark.slow
def test_tolerances_come_from_marker_over_option_over_ini(project):
    """Each overrides the next."""
    project.test(PLAIN)
    project.run()
    worsen_by(project, 1.25)
    project.run("--tenpak-ppl-tolerance=0.3").assert_outcomes(passed=1)
    project.ini(**project.settings, ppl_tolerance=0.3)
    project.run().assert_outcomes(passed=1)
    project.run("--tenpak-ppl-tolerance=0.1").assert_outcomes(failed=1)
    project.test(PLAIN.replace("max_ppl_delta=0.5", "ppl_tolerance=0.3"))
    project.run("--tenpak-ppl-tolerance=0.1").assert_outcomes(passed=1)


def test_a_smaller_budget_compares_the_prefix(project):
    """Fewer tokens than the baseline: its first windows are compared, and no file changes."""
    project.test(PLAIN)
    project.run()
    result = project.run("--tenpak-max-tokens=630", "--tenpak-json=out.json")
    result.assert_outcomes(passed=1)
    outcome = json.loads((project.path / "out.json").read_text())["outcomes"][0]
    assert outcome["figures"]["tokens"] == 504
    assert outcome["parts"][0]["measurement"]["budget"] == 630
    written = (project.path / "baselines/test_gate/test_nf4.json").read_bytes()
    kept = project.run("--tenpak-max-tokens=630", "--tenpak-update=all", "--tenpak-accept=smaller")
    kept.stdout.fnmatch_lines(["*baseline not updated: this run measured fewer windows*"])
    assert (project.path / "baselines/test_gate/test_nf4.json").read_bytes() == written


def test_another_recipe_under_an_old_name_is_invalid(project):
    """The baseline answers another question: red, fields listed, and replaced only when asked."""
    project.test(PLAIN)
    project.run()
    project.test(PLAIN.replace('"nf4"', '"nf4", double_quant=True'))
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "invalid: *",
            "baseline: the baseline does not match this case: spec.options.double_quant: False → True",
            "to accept: * --tenpak-update=failing --tenpak-accept 'why this is fine'",
        ]
    )
    accept = ("--tenpak-update=failing", "--tenpak-accept=smaller maxima")
    project.run(*accept).assert_outcomes(passed=1)
    project.run().assert_outcomes(passed=1)
