"""`quantized.generate`: answers of the checkpoint, from a process of its own."""

import pytest

CONFTEST = """
from pytest_tenpak import Quantizer, load_pretrained

class Crashes(Quantizer):
    \"\"\"A method whose kernels crash when they generate, and hang with one option.\"\"\"

    method = "crashes"

    def quantize(self, job):
        load_pretrained(job.model, "cpu", "float16").save_pretrained(job.out)

    def load(self, spec, checkpoint, device, dtype):
        import os, signal, time
        model = super().load(spec, checkpoint, device, dtype)
        model.generate = lambda **named: time.sleep(600) if "top_k" in named else os.kill(os.getpid(), signal.SIGSEGV)
        return model

def pytest_tenpak_register_quantizers(register):
    register(Crashes)
"""


def test_a_suite_that_only_generates_imports_no_torch(project):
    """One prompt or a list; the same words as the model itself says, which is loaded here only if asked for."""
    project.test(
        """
        import sys

        SAID = {}

        @pytest.mark.quantize(method="int8")
        def test_words(quantized):
            SAID["one"] = quantized.generate("In the beginning", max_new_tokens=5)
            SAID["list"] = quantized.generate(["In the beginning", "KING"], max_new_tokens=5)
            assert "torch" not in sys.modules
            assert SAID["list"][0] == SAID["one"] and len(SAID["list"]) == 2

        @pytest.mark.quantize(method="int8")
        def test_model(quantized):
            inputs = quantized.tokenizer("In the beginning", return_tensors="pt")
            ids = quantized.model.generate(**inputs, do_sample=False, max_new_tokens=5)
            said = quantized.tokenizer.decode(ids[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
            assert said == SAID["one"]
        """
    )
    project.run().assert_outcomes(passed=2)


@pytest.mark.slow
def test_a_crash_or_a_hang_is_one_failed_test(project):
    """Each says what the process did, with the way out; the next test answers."""
    project.pytester.makeconftest(CONFTEST)
    project.test(
        """
        @pytest.mark.quantize(method="crashes")
        def test_crash(quantized):
            quantized.generate("KING", max_new_tokens=2)

        @pytest.mark.quantize(method="crashes")
        def test_hang(quantized):
            quantized.generate("KING", top_k=1)

        @pytest.mark.quantize(method="fp16")
        def test_next(quantized):
            assert quantized.generate("KING", max_new_tokens=2)

        @pytest.mark.quantize(method="fp16")
        def test_wrong(quantized):
            with pytest.raises(Exception, match="(?s)transformers refuses.*no_such_option"):
                quantized.generate("KING", no_such_option=1)
            with pytest.raises(Exception, match="cannot send stopping_criteria"):
                quantized.generate("KING", stopping_criteria=object())
            with pytest.raises(Exception, match="takes a prompt"):
                quantized.generate([7])
        """
    )
    result = project.run("--tenpak-timeout=15")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "*the worker process that should generate was killed by SIGSEGV*",
            "*the worker process that should generate ran longer than 15 s and was stopped*",
        ]
    )


LOADS = """
from pathlib import Path
from pytest_tenpak import Quantizer, load_pretrained

class Counted(Quantizer):
    \"\"\"Writes down each load.\"\"\"

    method = "counted"

    def quantize(self, job):
        model = load_pretrained(job.model, "cpu", "float32")
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.data *= 1.02
        model.save_pretrained(job.out)

    def load(self, spec, checkpoint, device, dtype):
        with Path(__file__).with_name("loads").open("a") as log:
            log.write("x")
        return super().load(spec, checkpoint, device, dtype)

def pytest_tenpak_register_quantizers(register):
    register(Counted)
"""


def test_a_checkpoint_is_loaded_once_and_the_reference_once_for_all(project):
    """However often windows are added, whatever is generated, and for two cases of one model."""
    project.pytester.makeconftest(LOADS)
    project.test(
        """
        @pytest.fixture(autouse=True)
        def processes(request):
            yield
            from pytest_tenpak.plugin.run_state import session_key
            assert request.config.stash[session_key].run.workers.started <= 3

        @pytest.mark.quantize(method="counted", may_differ=["*"])
        def test_one(quantized):
            assert len(quantized.generate(["KING", "QUEEN"], max_new_tokens=2)) == 2
            assert quantized.generate("KING", max_new_tokens=2)

        @pytest.mark.quantize(method="fp16")
        def test_other(quantized):
            assert quantized.generate("KING", max_new_tokens=2)
        """
    )
    project.run().assert_outcomes(passed=2)
    assert (project.path / "loads").read_text() == "x"
