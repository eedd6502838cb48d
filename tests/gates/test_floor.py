"""Gates that end before figures would mislead: a ruined quantization, a calibration on the corpus itself."""

import pytest

#: NF4 whose scales were changed after quantizing, as a broken kernel or search would leave them.
RUIN = """
from pytest_tenpak import Quantizer
from pytest_tenpak.quantizers.loading import load_pretrained

class Broken(Quantizer):
    method = "broken"
    requires = ("bitsandbytes",)

    def quantize(self, job):
        from transformers import BitsAndBytesConfig
        recipe = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        model = load_pretrained(job.model, job.device, "auto", quantization_config=recipe)
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.quant_state.absmax *= 60
        model.save_pretrained(job.out)

class Learner(Broken):
    method = "learner"
    calibrates = True

def pytest_tenpak_register_quantizers(register):
    register(Broken)
    register(Learner)
"""

#: What lets a ruin pass that is meant: no floor, and an audit that is told of it.
MEANT = "max_rtn_factor=0, may_differ=['*down_proj']"


@pytest.fixture
def broken(project):
    project.pytester.makeconftest(RUIN)
    return project


def gate(project, arguments, *args):
    project.test(f"@pytest.mark.quantize({arguments})\ndef test_it(): pass\n")
    return project.run(*args)


def test_a_first_run_without_limits_does_not_accept_a_ruin(broken):
    """The floor stops it, says what it is, and no baseline comes of it, not even by update."""
    for args in ((), ("--tenpak-update=all", "--tenpak-accept=please")):
        result = gate(broken, "method='broken'", *args)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            [
                "regressed: perplexity vs round-to-nearest *",
                "✗ *perplexity vs round-to-nearest *≤ +*",
                "*worse than round-to-nearest: * against *; the quantizer is probably broken*",
            ]
        )
    assert broken.baselines == []


def test_the_floor_can_be_moved_and_switched_off(broken):
    """Whoever means it says so in the marker; the audit sees the ruin too, and is told that it is meant."""
    gate(broken, f"method='broken', {MEANT}").assert_outcomes(passed=1)
    result = gate(broken, "method='broken', max_rtn_factor=-1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*max_rtn_factor=-1 is not accepted"])


def test_calibrating_on_the_corpus_is_invalid(broken):
    """Before any work, with the share and what to do; a longer text that contains the corpus is no way round."""
    text = (broken.path / "text.txt").read_text()
    (broken.path / "more.txt").write_text("Something else entirely. " * 3 + text)
    for calibration in ("text.txt", "more.txt"):
        result = gate(broken, f"method='learner', calibration='{calibration}'")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            [
                "*test_it: the calibration text overlaps the evaluation corpus, so figures would look better than they are",
                f"*calibration='{calibration}', corpus='text.txt': 100.0% was copied",
                "*calibrate on another text*",
                "*learner * invalid",
            ]
        )
        assert "quantizing" not in result.stdout.str()
    assert broken.baselines == []


@pytest.mark.slow
def test_the_calibration_text_is_part_of_the_identity(broken):
    """Another text is another question; a method that does not calibrate has none."""
    (broken.path / "other.txt").write_text("I learn from this and from nothing else. " * 20)
    gate(broken, f"method='learner', {MEANT}").assert_outcomes(passed=1)
    result = gate(broken, f"method='learner', {MEANT}, calibration='other.txt'")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*does not match this case: calibration: sha256:* → sha256:*"])
    gate(broken, f"method='learner', {MEANT}", "--tenpak-calibration=other.txt").assert_outcomes(failed=1)
    result = gate(broken, "method='nf4', calibration='other.txt'")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
