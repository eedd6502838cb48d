"""Speed and memory as figures: ratios paired by round, their interval, and when rounds are enough."""

import json
import math

import pytest

from pytest_tenpak.metrics.intervals import DEFAULT_RULE, Rule
from pytest_tenpak.metrics.speed import DECODE, PREFILL, Memory, PhaseSpeed, Speed, are_decided

#: How slow the machine is, round by round, and how much it disturbs one model of a round.
MACHINE = (1.0, 3.0, 0.5, 2.0, 1.0, 4.0, 0.7, 1.5)
JITTER = (1.0, 1.02, 0.99, 1.01, 0.98, 1.0, 1.01, 0.99)


def phase(ratio=2.0, rounds=8, name=DECODE):
    """A checkpoint so many times as fast as the reference, on a machine whose own speed varies eightfold."""
    reference = MACHINE[:rounds]
    pairs = zip(reference, JITTER, strict=False)
    return PhaseSpeed(name, 30, reference, tuple(slow * jitter / ratio for slow, jitter in pairs))


def test_what_slows_both_models_of_a_round_moves_no_ratio():
    """The interval is that of the ratios, two per cent wide, and not of the eightfold seconds."""
    found = phase().interval(DEFAULT_RULE)
    assert found.value == pytest.approx(2.0, rel=0.01)
    assert 1.9 < found.low < found.value < found.high < 2.1


def test_speeds_agree_with_their_ratio():
    """Tokens over the geometric mean of seconds, for either model."""
    one = PhaseSpeed(PREFILL, 100, (1.0, 4.0), (0.5, 8.0))
    assert (one.reference_speed, one.checkpoint_speed) == pytest.approx((50, 50))
    assert one.ratio == pytest.approx(1.0)
    assert one.ratio == pytest.approx(one.interval(DEFAULT_RULE).value)


def test_a_bound_is_decided_where_the_interval_lies_on_one_side_of_it():
    """Surely at least, surely not, or not decided; with too few rounds nothing is."""
    one = phase(2.0)
    assert one.is_at_least(1.5, DEFAULT_RULE) is True
    assert one.is_at_least(2.5, DEFAULT_RULE) is False
    assert one.is_at_least(2.0, DEFAULT_RULE) is None
    assert phase(2.0, rounds=5).is_at_least(1.0, DEFAULT_RULE) is None
    assert phase(2.0, rounds=5).interval(DEFAULT_RULE)[1:] == (0, math.inf)
    assert one.rounds_to_decide(2.03, DEFAULT_RULE) > 8


def test_rounds_are_enough_where_all_bounds_are_decided_or_one_is_broken():
    """A phase without a bound decides nothing; at one fixed look, or without bounds, no round ends it."""
    phases = phase(0.5, name=PREFILL), phase(2.0)
    assert are_decided(phases, {DECODE: 1.5}, DEFAULT_RULE)
    assert are_decided(phases, {PREFILL: 1.0, DECODE: 2.0}, DEFAULT_RULE)
    assert not are_decided(phases, {PREFILL: 0.4, DECODE: 2.0}, DEFAULT_RULE)
    assert not are_decided(phases, {DECODE: 1.5}, Rule(fixed=True))
    assert not are_decided(phases, {}, DEFAULT_RULE)


def test_records_come_back_from_json():
    """With the derived figures beside them, for other programs."""
    speed = Speed((phase(0.5, name=PREFILL), phase()), 480, "Linear4bit", "float32", "x86_64", 1)
    plain = json.loads(json.dumps(speed.to_dict()))
    assert plain["phases"][1]["ratio"] == pytest.approx(2.0, rel=0.01)
    assert plain["phases"][1]["rounds"] == 8
    assert Speed.from_dict(plain) == speed
    memory = Memory(400, 100, "resident", "float32")
    assert memory.to_dict()["ratio"] == 0.25
    assert Memory.from_dict(json.loads(json.dumps(memory.to_dict()))) == memory
