"""The checks of speed and memory: what breaks a limit, what does not decide it, and what a failure says."""

import pytest

from pytest_tenpak.metrics.intervals import DEFAULT_RULE, Rule
from pytest_tenpak.metrics.speed import DECODE, PREFILL, Memory, PhaseSpeed, Speed
from pytest_tenpak.verdict.checks import Limits, Status
from pytest_tenpak.verdict.kinds import Question
from pytest_tenpak.verdict.speed import speed_checks

JITTER = (1.0, 1.02, 0.99, 1.01, 0.98, 1.0, 1.01, 0.99)


def speed(prefill=0.5, decode=2.0, rounds=8, kernel="Linear4bit"):
    """Both phases of a checkpoint, as multiples of a reference that needs a second for ten tokens."""
    phases = [
        PhaseSpeed(name, 10, (1.0,) * rounds, tuple(jitter / ratio for jitter in JITTER[:rounds]))
        for name, ratio in ((PREFILL, prefill), (DECODE, decode))
    ]
    return Speed(tuple(phases), 10, kernel, "float32", "x86_64", 1)


def checks(speed=None, memory=None, rule=DEFAULT_RULE, **limits):
    """The checks by name."""
    return {check.name: check for check in speed_checks(speed, memory, Limits(**limits), rule)}


def test_each_bounded_phase_has_a_check_against_the_reference():
    """A limit, so that no baseline holds it and no update clears it; a phase without a bound has none."""
    found = checks(speed(), min_speedup={"prefill": 0.4, "decode": 2.5})
    assert {name: check.status for name, check in found.items()} == {
        "prefill_speedup": Status.PASSED,
        "decode_speedup": Status.REGRESSED,
    }
    assert all(check.kind.question is Question.LIMIT for check in found.values())
    assert not any(check.kind.is_cleared_by_update for check in found.values())
    assert list(checks(speed(), min_speedup={"decode": 1.0})) == ["decode_speedup"]
    assert checks(speed(), Memory(2, 1, "resident", "float32")) == {}


def test_a_failure_names_ratio_interval_rounds_speeds_and_kernel():
    """So that a kernel that fell back to a slow path is seen."""
    check = checks(speed(), min_speedup={"decode": 2.5})["decode_speedup"]
    assert (check.value, check.bound) == (pytest.approx(2.0, rel=0.01), 2.5)
    assert check.low < check.value < check.high < 2.5
    assert check.decisive is True
    for words in (
        "99.9% interval 1.9",
        "at any look; 8 rounds",
        "20.0 tokens/s where the reference has 10.0 (float32, 10 tokens a round)",
        "layers run through Linear4bit",
    ):
        assert words in check.evidence


def test_where_the_interval_straddles_the_bound_the_point_estimate_decides_and_says_so():
    """With the rounds that would decide it; a checkpoint without quantized layers has no kernel."""
    met, missed = (
        checks(speed(kernel=""), min_speedup={"decode": least})["decode_speedup"] for least in (1.98, 2.02)
    )
    assert (met.status, missed.status) == (Status.PASSED, Status.REGRESSED)
    assert (met.decisive, missed.decisive) == (False, False)
    assert "rounds would decide it" in met.evidence
    assert "layers run through" not in met.evidence


def test_too_few_rounds_give_no_interval_and_the_evidence_says_so():
    """The ends of the interval are left out, since JSON has no infinity."""
    check = checks(speed(rounds=5), min_speedup={"decode": 1.0})["decode_speedup"]
    assert (check.status, check.low, check.high, check.decisive) == (Status.PASSED, None, None, False)
    assert "no confidence interval: too few rounds; 5 rounds" in check.evidence


def test_at_one_fixed_look_the_interval_is_students():
    """Narrower, and named as such."""
    fixed = checks(speed(), rule=Rule(fixed=True), min_speedup={"decode": 1.0})["decode_speedup"]
    anytime = checks(speed(), min_speedup={"decode": 1.0})["decode_speedup"]
    assert "at one look" in fixed.evidence
    assert fixed.high - fixed.low < anytime.high - anytime.low


@pytest.mark.parametrize(("most", "status"), [(0.5, Status.PASSED), (0.49, Status.REGRESSED)])
def test_memory_is_exact(most, status):
    """A ratio of two peaks, with both in the evidence, and of which memory they are."""
    memory = Memory(8 << 20, 4 << 20, "resident", "float32")
    check = checks(memory=memory, max_memory_ratio=most)["max_memory_ratio"]
    assert (check.status, check.value, check.bound, check.decisive) == (status, 0.5, most, None)
    assert check.evidence == "peak of 4.0 MiB resident where the reference has 8.0 (float32)"
