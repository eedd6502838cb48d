"""Speed and memory as a gate: bounds that no machine meets fail, and those that every machine meets pass."""

import json

import pytest

GATE = "@pytest.mark.quantize(method='nf4', max_tokens=1000, {})\ndef test_it(quantized): {}\n"


def run(project, limits, *args, body="pass"):
    project.test(GATE.format(limits, body))
    return project.run("--tenpak-json=run.json", "--tenpak-html=run.html", "--tenpak-md=run.md", *args)


def outcome_of(project):
    (outcome,) = json.loads((project.path / "run.json").read_text())["outcomes"]
    return outcome


def test_limits_that_no_checkpoint_meets_fail_and_name_what_ran(project, distributed_at_length):
    """Phase, ratio with interval, speeds of both, kernel and both peaks; no baseline comes of it."""
    limits = "min_speedup={'prefill': 0.001, 'decode': 50}, max_memory_ratio=0.001"
    result = run(project, limits, *distributed_at_length)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*regressed: decode speed vs reference *×, bound ≥ 50×; peak memory vs reference *×, bound ≤ 0.001×",
            "✓ *prefill speed vs reference * ≥ 0.001×",
            "✗ *decode speed vs reference * ≥ 50×",
            "✗ *peak memory vs reference * ≤ 0.001×",
            "decode speed vs reference: 99.9% interval *× to *× at any look; * rounds; * tokens/s where the "
            "reference has * (float32, 16 tokens a round); layers run through Linear4bit",
            "peak memory vs reference: peak of * MiB resident where the reference has * (float32)",
            "speed over the reference's: prefill *×, * against * tokens/s; decode *×* rounds, prompt of 48 "
            "tokens, float32, * thread*)",
            "what to do: see through which kernel the quantized layers ran*",
        ]
    )
    assert project.baselines == []


def test_limits_that_every_checkpoint_meets_pass_and_every_report_has_the_figures(project):
    """The fixture has them too; the baseline that is created knows nothing of speed."""
    body = "assert quantized.speed.phases[1].ratio > 0.01 and quantized.memory.ratio < 100"
    result = run(project, "min_speedup=0.01, max_memory_ratio=100", body=body)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "*test_it: speed over the reference's: prefill *×, *; decode *×, * tokens/s (*)",
            "*test_it: peak memory over the reference's: *×, * against * MiB resident (float32)",
        ]
    )
    outcome = outcome_of(project)
    prefill, decode = outcome["speed"]["phases"]
    for one in (prefill, decode):
        assert one["ratio"] == pytest.approx(one["checkpoint_speed"] / one["reference_speed"])
        assert len(one["reference"]) == len(one["checkpoint"]) == one["rounds"] >= 6
    assert outcome["speed"]["kernel"] == "Linear4bit"
    assert outcome["memory"]["ratio"] == outcome["memory"]["checkpoint"] / outcome["memory"]["reference"]
    checks = {check["name"]: check for check in outcome["verdict"]["checks"]}
    assert checks["decode_speedup"]["value"] == pytest.approx(decode["ratio"])
    assert {"prefill_speedup", "decode_speedup", "max_memory_ratio"} <= checks.keys()
    for report in ("run.md", "run.html"):
        assert "speed over the reference" in (project.path / report).read_text()
    (baseline,) = project.baselines
    assert "speed" not in (project.path / "baselines" / baseline).read_text()


def test_without_limits_nothing_is_timed_or_weighed(project):
    """No process is started for it, and the report has null in its place."""
    result = run(project, "", body="assert quantized.speed is None and quantized.memory is None")
    result.assert_outcomes(passed=1)
    for words in ("*timing*", "*weighing*", "*over the reference's*"):
        result.stdout.no_fnmatch_line(words)
    assert (outcome_of(project)["speed"], outcome_of(project)["memory"]) == (None, None)


def test_a_wrong_phase_is_a_usage_error(project):
    """With the nearest name."""
    result = run(project, "min_speedup={'decoding': 1}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*min_speedup={'decoding': 1} is not accepted; did you mean 'decode'?"])
