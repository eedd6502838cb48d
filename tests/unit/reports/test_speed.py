"""Speed and memory in words: what stands below a gate, in a failure and in the notes of a run."""

from dataclasses import replace

from made_up import outcome

from pytest_tenpak.metrics.speed import DECODE, PREFILL, Memory, PhaseSpeed, Speed
from pytest_tenpak.reports.speed import speed_lines
from pytest_tenpak.reports.terminal import failure
from pytest_tenpak.reports.wording import notes

TIMED = Speed(
    (
        PhaseSpeed(PREFILL, 480, (2.0, 2.0), (4.0, 4.0)),
        PhaseSpeed(DECODE, 32, (1.0, 1.0), (0.5, 0.5)),
    ),
    480,
    "Linear4bit",
    "float32",
    "x86_64",
    1,
)
WEIGHED = Memory(1200 << 20, 300 << 20, "resident", "float32")
LINES = [
    "speed over the reference's: prefill 0.500×, 120.0 against 240.0 tokens/s; decode 2.000×, 64.0 against "
    "32.0 tokens/s (2 rounds, prompt of 480 tokens, float32, 1 thread)",
    "peak memory over the reference's: 0.250×, 300.0 against 1,200.0 MiB resident (float32)",
]


def test_both_phases_and_both_peaks_are_said_with_what_they_are_multiples_of():
    """And how they were measured; nothing where neither was asked for."""
    assert speed_lines(replace(outcome(), speed=TIMED, memory=WEIGHED)) == LINES
    assert speed_lines(replace(outcome(), memory=WEIGHED)) == LINES[1:]
    assert speed_lines(outcome()) == []


def test_a_passing_gate_has_them_in_a_note_and_a_failing_one_in_its_failure():
    """Once each."""
    passing = replace(outcome(), speed=TIMED, memory=WEIGHED)
    failing = replace(outcome(factor=2.0), speed=TIMED, memory=WEIGHED)
    assert [line for line in notes([passing], ()) if "over the reference" in line] == [
        f"test_a.py::test_a: {line}" for line in LINES
    ]
    assert not [line for line in notes([failing], ()) if "over the reference" in line]
    assert [line for line in failure(failing).splitlines() if "over the reference" in line] == LINES
