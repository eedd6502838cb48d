"""Verdicts: two questions, unrounded values, and never a pass for what did not happen."""

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from made_up import IDENTITY, accepted, judged, measured, reference

from pytest_tenpak.metrics.intervals import Rule
from pytest_tenpak.verdict.checks import Limits, Status, Tolerances, Verdict
from pytest_tenpak.verdict.compare import needs_rounding, rounding_criterion
from pytest_tenpak.verdict.kinds import Question

NO_LIMITS = Limits()
DEFAULT = Tolerances()


def status_of(measurement, entry=None, limits=NO_LIMITS, tolerances=DEFAULT, ref=None) -> Status:
    return judged(measurement, ref or reference(), entry, limits, tolerances).status


def scaled(factor: float, **rest):
    """A measurement whose perplexity is ``factor`` times that of ``measured()``, with other weights."""
    return measured(
        nll=tuple(nll + 4 * math.log(factor) for nll in (9.0, 10.0, 11.0)), **{"weights": "e", **rest}
    )


@pytest.mark.parametrize(
    ("factor", "status"),
    [
        (1.0, "passed"),
        (1.0049, "passed"),
        (1.0051, "regressed"),
        (0.9951, "passed"),
        (0.9949, "improved"),
        (17.0, "regressed"),
    ],
)
def test_perplexity_against_the_baseline(factor, status):
    """Within half a per cent passes, above regresses, below improves."""
    assert status_of(scaled(factor), accepted()) is Status(status)


@pytest.mark.parametrize(
    ("tensor_bytes", "status"),
    [(50_000, "passed"), (50_040, "passed"), (50_060, "regressed"), (49_940, "improved")],
)
def test_compression_against_the_baseline(tensor_bytes, status):
    """A tenth of a per cent is tolerated; larger checkpoints regress, smaller ones improve."""
    assert status_of(measured(tensor_bytes=tensor_bytes), accepted(tensor_bytes=50_000)) is Status(status)


@given(st.floats(-0.5, 3), st.floats(0, 2))
def test_a_limit_regresses_exactly_when_it_is_broken(delta, limit):
    """The point decides, on unrounded values."""
    assume(abs(delta - limit) > 1e-9)
    verdict = judged(scaled(1 + delta), measured(), None, Limits(max_ppl_delta=limit), DEFAULT)
    check = next(check for check in verdict.checks if check.name == "max_ppl_delta")
    assert (check.status is Status.REGRESSED) == (check.difference > limit)
    assert check.difference == pytest.approx(delta, abs=1e-9)


def test_compression_limits_name_their_denominator():
    """The same bytes pass one denominator and break another, and the check says which."""
    limits = Limits(min_compression={"whole_vs_16bit": 4.0, "layers_vs_32bit": 8.1})
    verdict = judged(measured(), reference(), accepted(), limits, DEFAULT)
    whole, layers = verdict.answering(Question.LIMIT)
    assert (whole.status, layers.status) == (Status.PASSED, Status.REGRESSED)
    assert "quantized layers vs 32 bit" in layers.evidence


def test_a_layer_limit_on_an_unquantized_checkpoint_regresses():
    """A checkpoint in which nothing is quantized has compression 1, not none."""
    limits = Limits(min_compression={"layers_vs_16bit": 2.0})
    assert status_of(reference(), limits=limits) is Status.REGRESSED


def test_no_baseline_is_new_and_a_broken_limit_outranks_it():
    """A first run is told apart from a passing one; limits hold from the first run on."""
    assert status_of(measured()) is Status.NEW
    assert status_of(measured(), limits=Limits(max_ppl_delta=0.0)) is Status.REGRESSED


def test_another_identity_is_invalid_and_says_what_differs():
    """Figures of two questions are never compared; each field is listed, old and new."""
    other = {
        **IDENTITY,
        "model": "sha256:" + "f" * 64,
        "protocol": {"name": "gptq", "context": 8, "join": "\n\n"},
    }
    verdict = judged(replace(measured(), identity=other), reference(), accepted(), NO_LIMITS, DEFAULT)
    assert verdict.status is Status.INVALID
    evidence = verdict.failing[0].evidence
    assert "model: sha256:aaaaaaaaaaaa… → sha256:ffffffffffff…" in evidence
    assert "protocol.context: 4 → 8" in evidence
    assert "tokenizer" not in evidence


@pytest.mark.parametrize("where", ["measurement", "reference"])
def test_figures_that_are_not_finite_are_an_error(where):
    """NaN compares false with every limit; it must not pass one."""
    bad = measured(nonfinite=3)
    pair = (bad, reference()) if where == "measurement" else (measured(), bad)
    verdict = judged(*pair, accepted(), Limits(max_ppl_delta=10.0), DEFAULT)
    assert verdict.status is Status.ERROR
    assert "3 of 15 tokens" in verdict.failing[0].evidence


def test_no_windows_and_no_checks_are_errors():
    """What was not measured is not a pass."""
    assert status_of(measured(nll=())) is Status.ERROR
    assert Verdict(()).status is Status.ERROR


def test_another_tokenizer_regresses():
    """A checkpoint that reads the text as other tokens is no good, whatever its figures."""
    verdict = judged(measured(stream="other"), reference(), accepted(), NO_LIMITS, DEFAULT)
    assert verdict.status is Status.REGRESSED
    assert verdict.failing[0].name == "tokenizer"


def test_a_smaller_run_is_compared_over_the_windows_both_have():
    """A prefix of the baseline's windows is paired with their counterparts."""
    verdict = judged(measured(nll=(9.0, 10.0)), reference((8.0, 9.0)), accepted(), NO_LIMITS, DEFAULT)
    check = next(check for check in verdict.checks if check.name == "ppl_tolerance")
    assert check.difference == 0
    assert "2 windows (8 tokens)" in check.evidence


def test_windows_of_other_sizes_are_not_paired():
    """Token counts that differ window by window are no smaller run of the same question."""
    odd = measured(tokens=(4, 4, 5))
    assert status_of(odd, accepted(), ref=reference(tokens=(4, 4, 5))) is Status.INVALID


def test_evidence_tells_requantized_weights_from_the_same():
    """Same bytes, moved figures: a kernel or library; other bytes: it was quantized anew."""
    for weights, said in (("d", "the same"), ("e", "other")):
        verdict = judged(measured(weights=weights), reference(), accepted(), NO_LIMITS, DEFAULT)
        assert f"{said} quantized weights" in verdict.checks[0].evidence


def test_a_verdict_survives_the_trip_to_the_controller():
    """Plain form and back, statuses included."""
    verdict = judged(scaled(2), reference(), accepted(), Limits(0.1, {"whole_vs_16bit": 1.0}), DEFAULT)
    assert Verdict.from_dict(verdict.to_dict()) == verdict


def floor(lost: float, rounded: float, factor: float = 3.0) -> Verdict:
    """The verdict where quantizing lost so many nats per token, and rounding to nearest so many."""
    nll = reference().windows.nll
    ours, plain = (measured(tuple(n + 4 * nats for n in nll)) for nats in (lost, rounded))
    return judged(ours, reference(), None, Limits(max_rtn_factor=factor), DEFAULT, plain)


def test_what_is_far_worse_than_rounding_to_nearest_is_suspicious():
    """AutoAWQ on CPU, once: 798,046 against 20.2 where the model has 15.47. The text says what that means."""
    verdict = floor(lost=math.log(798_046 / 15.47), rounded=math.log(20.2 / 15.47))
    check = next(check for check in verdict.failing if check.name == "max_rtn_factor")
    assert check.value == pytest.approx(798_046 / 15.47 * reference().perplexity)
    assert "worse than round-to-nearest: " in check.evidence
    assert "the quantizer is probably broken" in check.evidence


@pytest.mark.parametrize(
    ("lost", "rounded", "factor", "status"),
    [
        (0.69, 0.2, 3.0, Status.NEW),
        (0.71, 0.2, 3.0, Status.REGRESSED),
        (0.09, 0.0, 3.0, Status.NEW),
        (0.11, 0.0, 3.0, Status.REGRESSED),
        (0.11, -0.01, 3.0, Status.REGRESSED),
        (0.31, 0.1, 2.0, Status.REGRESSED),
        # Where rounding ruins the model, the factor holds for perplexity: 3 nats, and ln 3, and the allowance.
        (4.19, 3.0, 3.0, Status.NEW),
        (4.21, 3.0, 3.0, Status.REGRESSED),
    ],
)
def test_the_floor_is_a_multiple_of_what_rounding_loses_plus_an_allowance(lost, rounded, factor, status):
    """lost ≤ min(factor × rounded, rounded + ln factor) + 0.1 nats per token, shown as a difference in per cent."""
    verdict = floor(lost, rounded, factor)
    assert verdict.status is status
    check = next(check for check in verdict.checks if check.name == "max_rtn_factor")
    assert (check.difference > check.bound) == (status is Status.REGRESSED)


@given(st.floats(0.11, 4), st.floats(-0.5, 4), st.floats(0.5, 8))
def test_windows_of_rounding_decide_what_the_whole_would(lost, rounded, factor):
    """The mean that ends the measuring of the floor early is on the bound's side that the check finds."""
    ours, plain = (measured(tuple(n + 4 * nats for n in reference().windows.nll)) for nats in (lost, rounded))
    criterion = rounding_criterion(ours, reference(), Limits(max_rtn_factor=factor))
    value = criterion.sampled(plain.windows, Rule()).value
    assume(abs(value - criterion.bound) > 1e-6)
    assert (value < criterion.bound) == (floor(lost, rounded, factor).status is Status.REGRESSED)


def test_rounding_is_only_asked_for_where_it_can_matter():
    """Not within the allowance, not when switched off, not for figures that are not finite."""
    nll = reference().windows.nll
    bad, good = (measured(tuple(n + 4 * lost for n in nll)) for lost in (0.2, 0.09))
    assert needs_rounding(bad, reference(), Limits())
    assert not needs_rounding(good, reference(), Limits())
    assert not needs_rounding(bad, reference(), Limits(max_rtn_factor=0))
    assert not needs_rounding(measured(nonfinite=1), reference(), Limits())
    assert not needs_rounding(bad, reference((3e3,) * 3), Limits())


def test_a_rounded_prefix_is_compared_over_its_own_windows():
    """Rounding is measured on fewer windows: those are the ones that count."""
    ours = measured((12.0, 9.0, 10.0))
    verdict = judged(ours, reference(), None, Limits(), DEFAULT, measured((8.4,)))
    check = next(check for check in verdict.checks if check.name == "max_rtn_factor")
    assert check.status is Status.REGRESSED
    assert check.value == pytest.approx(math.exp(3))


def test_a_floor_that_is_not_finite_is_an_error():
    """No comparison happened, and that is no pass."""
    ours = measured(tuple(n + 4 for n in reference().windows.nll))
    verdict = judged(ours, reference(), None, Limits(), DEFAULT, measured(nonfinite=2))
    assert verdict.status is Status.ERROR
    assert "so there is nothing to compare with" in verdict.failing[0].evidence
