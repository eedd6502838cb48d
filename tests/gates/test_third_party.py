"""Quantizers from conftests, and what their worker processes can do to a run: nothing but fail one case."""

import textwrap

import pytest

CONFTEST = '''
import os, signal, sys, time
import pytest
from pytest_tenpak.errors import SpecError
from pytest_tenpak import Quantizer
from pytest_tenpak.quantizers.loading import load_pretrained
from pytest_tenpak.spec import Option


class Own(Quantizer):
    """Halves the last layer's weights: a quantizer of the project's own."""

    method = "own"
    options = (Option("factor", float, 1.0, "what the head is multiplied with", above=0),)
    calibrates = {calibrates}
    requires = {requires}

    def check(self, spec, model, device, dtype):
        if spec.options["factor"] > model.architecture["hidden_size"]:
            raise SpecError("factor is larger than the model", given=spec.options["factor"])

    def quantize(self, job):
        {body}
        model = load_pretrained(job.model, job.device, "auto")
        model.model.norm.weight.data *= job.spec.options["factor"]
        model.save_pretrained(job.out)


def pytest_tenpak_register_quantizers(register):
    register(Own)
'''


def conftest(project, body="pass", calibrates=False, requires=()):
    """A conftest that registers ``own``, with these lines in front of its work."""
    lines = textwrap.indent(textwrap.dedent(body), " " * 8).strip()
    project.pytester.makeconftest(CONFTEST.format(body=lines, calibrates=calibrates, requires=requires))


def gate(project, arguments="method='own'", *args, name="test_own"):
    project.test(f"@pytest.mark.quantize({arguments})\ndef {name}(quantized): assert quantized.model\n")
    return project.run(*args)


@pytest.mark.parametrize("distributed", [("-n", "2")], ids=["xdist"])
def test_a_conftest_registers_a_method(project, distributed):
    """Its options are declared, validated and part of the spec; its checkpoint is saved, reloaded, gated."""
    conftest(project)
    gate(project, "method='own', factor=0.8", *distributed).assert_outcomes(passed=1)
    assert project.baselines == ["test_gate/test_own.json"]
    result = gate(project, "method='own', factor=-1", *distributed)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*factor=-1 is not accepted", "*a number above 0"])


@pytest.mark.slow
def test_an_edited_recipe_is_quantized_anew(project):
    """The cache key covers the quantizer's source: a changed recipe cannot pass on an old checkpoint."""
    conftest(project)
    gate(project).assert_outcomes(passed=1)
    conftest(project, body="object.__setattr__(job.spec, 'options', {'factor': 0.2})")
    result = gate(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["✗ *perplexity vs baseline*"])


def test_a_spec_that_does_not_fit_the_model(project):
    """Refused by the quantizer's own check before any work."""
    conftest(project)
    result = gate(project, "method='own', factor=1000")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["test_gate.py::test_own: factor is larger than the model"])


@pytest.mark.slow
def test_calibration_reaches_the_quantizer_and_the_identity(project):
    """Texts arrive in the job; another text is another question."""
    (project.path / "cal.txt").write_text("calibrate on this")
    conftest(project, body="assert job.calibration == ['calibrate on this']", calibrates=True)
    gate(project, "method='own', calibration='cal.txt'").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            ["*should quantize was killed by SIGKILL from outside (*counter did not move)*"],
        ),
        ("os.kill(os.getpid(), signal.SIGSEGV)", ["*should quantize was killed by SIGSEGV"]),
        (
            "print('x' * 10_000_000); raise RuntimeError('boom')",
            ["*ended with exit code 1", "*| RuntimeError: boom"],
        ),
        ("sys.exit(0)", ["*ended with exit code 0"]),
        ("bytearray(1 << 60)", ["*should quantize ran out of memory", "*| MemoryError", "*what to do: *"]),
        (
            "hog = bytearray(3 << 30); time.sleep(600)",
            ["*should quantize took * GiB of memory, more than 2.00 GiB, and was stopped"],
        ),
        ("return", ["*method 'own' did not save a complete checkpoint", "*given: *no [*].safetensors file"]),
        ("time.sleep(600)", ["*ran longer than 8 s and was stopped", "*raise --tenpak-timeout*"]),
    ],
    ids=["killed", "crash", "raises", "leaves", "no memory", "too much", "saves nothing", "hangs"],
)
def test_whatever_a_worker_does_is_one_failed_case(project, body, lines):
    """A kill, a crash, megabytes of output, a hang: one clear failure; the other gate is untouched."""
    conftest(project, body=body)
    project.test("@pytest.mark.quantize(method='nf4')\ndef test_other(): pass\n", name="test_other")
    bound = "--tenpak-memory=2" if "hog" in body else "--tenpak-timeout=8" if "sleep" in body else "-q"
    result = gate(project, "method='own'", bound)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(lines)
    assert len(result.stdout.str()) < 40_000
    assert project.baselines == ["test_other/test_other.json"]


@pytest.mark.parametrize("ci", ["", "true"])
def test_a_missing_library_fails_and_is_skipped_only_where_that_was_asked(project, monkeypatch, ci):
    """Red with the pip line, in CI and at home; a skip, by marker or option, is counted as missing."""
    monkeypatch.setenv("CI", ci)
    conftest(project, requires=("no-such-library",))
    failed = gate(project)
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(
        ["*method 'own' needs no-such-library, which is not installed", "*pip install no-such-library"]
    )
    gate(project, "method='own', may_skip=True").assert_outcomes(skipped=1)
    skipped = gate(project, "method='own'", "--tenpak-unavailable=skip")
    skipped.assert_outcomes(skipped=1)
    skipped.stdout.fnmatch_lines(
        ["test_gate.py::test_own *own *skipped", "1 gate expected, 0 ran, 1 skipped"]
    )
    assert project.baselines == []


def test_a_device_that_is_not_there(project, monkeypatch):
    """CUDA asked for by name where there is none: unavailable, like a missing library."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PATH", "/nowhere")
    project.test("@pytest.mark.quantize(method='nf4')\ndef test_gpu(): pass\n")
    project.run("--tenpak-device=cuda").assert_outcomes(failed=1)
    project.run("--tenpak-device=cuda", "--tenpak-unavailable=skip").assert_outcomes(skipped=1)


@pytest.mark.parametrize(
    ("registered", "said"),
    [
        ("object", "*only a subclass of pytest_tenpak.Quantizer*"),
        ("Nf4", "*method name 'nf4' is taken*"),
    ],
)
def test_what_cannot_be_registered(project, registered, said):
    """Not a quantizer, or a name that is taken: a usage error."""
    project.pytester.makeconftest(
        "from pytest_tenpak.quantizers.bitsandbytes import Nf4 as Theirs\n"
        "class Nf4(Theirs): pass\n"
        f"def pytest_tenpak_register_quantizers(register): register({registered})\n"
    )
    result = gate(project, "method='nf4'")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])
