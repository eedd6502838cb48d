"""Wrong input: each ends in a clear message and the right exit code, and writes nothing."""

import json
import shutil

import pytest
import torch
from projects import CPU
from safetensors.torch import load_file, save_file

PLAIN = "@pytest.mark.quantize({})\ndef test_nf4(): pass\n"


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            'method="nf4", bit=4',
            ["*has no argument 'bit'; did you mean 'bits'?", "*given: *bit=4", "*accepted:*"],
        ),
        (
            'method="nf4", bits=5',
            ["*bits=5 is not accepted", "*given: *5 (int)", "*accepted: *one of 4", "*what to do:*"],
        ),
        ('method="nf4", blocksize=100', ["*blocksize=100 is not accepted", "*one of 32, 64, *"]),
        ('method="nf4", double_quant="yes"', ["*double_quant='yes' is not accepted", "*True or False"]),
        ('method="int8", threshold=-1', ["*threshold=-1 is not accepted", "*a number at least 0"]),
        (
            'method="nf5"',
            ["*there is no method 'nf5'; did you mean 'nf4'?", "*accepted: *int8, nf4; or a preset: *"],
        ),
        ("method=4", ["*method=4 is not accepted"]),
        ("", ["*needs one of method and checkpoint", "*given: *no arguments"]),
        ('method="nf4", checkpoint="x"', ["*needs one of method and checkpoint, not both"]),
        ('"nf4"', ["*keyword arguments only", "*write @pytest.mark.quantize(method='nf4', *"]),
        ('method="nf4", max_ppl_delta="1%"', ["*max_ppl_delta='1%' is not accepted", "*a number above -1"]),
        ('method="nf4", min_compression={"whole": 2}', ["*min_compression=*", "*whole_vs_16bit*"]),
        ('method="nf4", protocol="gtpq"', ["*protocol='gtpq' is not accepted; did you mean 'gptq'?"]),
        ('method="nf4", calibration="text.txt"', ["*method 'nf4' does not calibrate"]),
        ('method="nf4", baseline="../up"', ["*baseline='../up' is not a name"]),
    ],
)
def test_a_bad_marker_is_a_usage_error(project, arguments, lines):
    """Exit code 4 at collection, naming test, argument, given, accepted, remedy."""
    project.test(PLAIN.format(arguments))
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: test_gate.py::test_nf4: *", *lines[1:]])
    result.stderr.fnmatch_lines([lines[0]])
    assert project.baselines == []


def test_every_bad_marker_is_named_also_under_xdist(project, distributed):
    """All of them at once, with the same exit code."""
    project.test(
        PLAIN.format("method='x'") + PLAIN.format("method='nf4', y=1").replace("test_nf4", "test_two")
    )
    result = project.run(*distributed)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines_random(["*test_nf4: there is no method 'x'*", "*test_two: *no argument 'y'*"])


def test_a_test_that_is_not_selected_is_not_checked(project):
    """-k leaves a bad marker alone."""
    project.test(PLAIN.format("method='x'") + "def test_other(): pass\n")
    project.run("-k", "other").assert_outcomes(passed=1, deselected=1)


def test_two_cases_cannot_share_a_baseline(project):
    """A name given twice is a usage error naming both tests."""
    project.test(
        """
        @pytest.mark.parametrize("n", [1, 2])
        @pytest.mark.quantize(method="nf4", baseline="mine")
        def test_two(n): pass
        """
    )
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_two[[]2[]]: the baseline 'mine' is already used by *test_two[[]1[]]"])


def test_markers_on_function_and_parameter_do_not_mix(project):
    """What that would mean is not guessed."""
    project.test(
        """
        @pytest.mark.quantize(method="nf4")
        @pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.quantize(method="int8"))])
        def test_two(n): pass
        """
    )
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*2 markers apply to one test"])


def test_accepting_without_an_update_is_a_usage_error(project):
    """A reason alone would silently do nothing."""
    project.test(PLAIN.format("method='nf4'"))
    result = project.run("--tenpak-accept=fine")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--tenpak-accept accepts nothing by itself", "*--tenpak-update=failing*"])


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--tenpak-update=some", "*--tenpak-update: update='some' is not accepted*"),
        ("--tenpak-max-tokens=many", "*--tenpak-max-tokens: max_tokens='many' is not accepted*"),
        ("--tenpak-ppl-tolerance=-1", "*--tenpak-ppl-tolerance: ppl_tolerance=-1.0 is not accepted*"),
        ("--tenpak-device=tpu", "*there is no device 'tpu'*"),
        ("--tenpak-python=auto-gpt=x", "*an interpreter is named for 'auto-gpt', *did you mean 'auto-gptq'*"),
    ],
)
def test_a_bad_option_is_a_usage_error(project, option, said):
    """Exit code 4, naming the option."""
    project.test(PLAIN.format("method='nf4'"))
    result = project.run(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


def test_a_bad_ini_value_names_the_ini_key(project):
    """Not the option that was never given."""
    project.ini(**{**project.settings, "context": "wide"})
    project.test(PLAIN.format("method='nf4'"))
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*ini tenpak_context: context='wide' is not accepted*"])


def fails_with(project, *lines: str, marker: str = "method='nf4'", args=()) -> None:
    """The gate fails in its call phase with these lines, and no baseline is written."""
    project.test(PLAIN.format(marker))
    result = project.run(*args)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*test_gate.py::test_nf4: {lines[0]}", *lines[1:]])
    assert "Traceback" not in result.stdout.str()
    assert project.baselines == []


def test_no_model(project):
    """The four ways to name one are listed."""
    project.ini(**{k: v for k, v in project.settings.items() if k != "model"})
    fails_with(project, "no model was named", "*accepted: *--tenpak-model*")


def test_a_missing_model_directory(project):
    """A path is a path: the hub is not asked."""
    fails_with(
        project,
        "there is no model './none'",
        "*given: *none does not exist",
        marker="method='nf4', model='./none'",
    )


def test_a_hub_id_that_cannot_be_reached(project, monkeypatch):
    """Offline, the error says so and how to go on."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = "there is no model 'nobody/nothing', neither as a directory nor on the hub"
    fails_with(
        project, said, "*what to do: *pass its directory", marker="method='nf4', model='nobody/nothing'"
    )


def test_a_gguf_file_without_its_library(project):
    """The pip line is named; like any missing library it skips here and fails in CI."""
    (project.path / "model.gguf").write_bytes(b"GGUF")
    project.pytester.makeconftest(
        "from pytest_tenpak.gate import inputs\n"
        "whole = inputs.installed_versions\n"
        "inputs.installed_versions = lambda *names: {k: v for k, v in whole(*names).items() if k != 'gguf'}\n"
    )
    marker = "method='nf4', model='model.gguf'"
    said = "reading model.gguf needs the gguf library, which is not installed"
    fails_with(
        project, said, "*pip install 'pytest-tenpak*gguf*", marker=marker, args=["--tenpak-unavailable=fail"]
    )


def copied(project) -> object:
    """A copy of the model that a test may harm."""
    folder = project.path / "model"
    shutil.copytree(project.model, folder)
    project.ini(**{**project.settings, "model": "model"})
    return folder


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("tokenizer.json", "the model directory * has no tokenizer"),
        ("config.json", "the model directory * has no config.json"),
        ("model.safetensors", "the model directory * has no weights"),
    ],
)
def test_a_model_directory_with_a_file_missing(project, file, said):
    """Which file is missing, before any work."""
    (copied(project) / file).unlink()
    fails_with(project, said)


def test_a_quantized_model_is_no_reference(project):
    """Its config says so; the error says where it belongs."""
    path = copied(project) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": {"bits": 4}}))
    fails_with(project, "the model in * is already quantized and cannot be the reference*", "*as checkpoint=")


def test_a_context_longer_than_the_model_takes(project):
    """The model's maximum is named."""
    said = "context=512 exceeds the model's context"
    fails_with(project, said, "*at most 256 tokens*", marker="method='nf4', context=512")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the corpus 'text.txt' is empty"),
        (b"too short", "the corpus is shorter than one window"),
        (b"caf\xe9" * 100, "the corpus 'text.txt' is not UTF-8"),
    ],
)
def test_a_corpus_that_cannot_be_measured_on(project, content, said):
    """Empty, shorter than a window, or not UTF-8."""
    (project.path / "text.txt").write_bytes(content)
    fails_with(project, said)


def baseline(project):
    """Run once; the path of the baseline that was made."""
    project.test(PLAIN.format("method='nf4'"))
    project.run().assert_outcomes(passed=1)
    return project.path / "baselines/test_gate/test_nf4.json"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda text: text[:200], "*the baseline * is not valid JSON"),
        (
            lambda text: text.replace('"schema_version": 2', '"schema_version": 7'),
            "*written by a newer pytest-tenpak",
        ),
        (
            lambda text: text.replace('"nll": [', '"nll": [null, '),
            f"*has a fault in entries.{CPU}.windows.nll.0",
        ),
    ],
    ids=["corrupted", "another schema version", "a field of another kind"],
)
def test_a_baseline_that_cannot_be_read_fails_and_is_left_alone(project, harm, said):
    """Neither overwritten nor ignored, whatever update was asked for."""
    path = baseline(project)
    path.write_text(harm(path.read_text()))
    harmed = path.read_bytes()
    result = project.run("--tenpak-update=all", "--tenpak-accept", "please")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([said])
    assert path.read_bytes() == harmed


@pytest.mark.slow
def test_a_baseline_for_another_model_is_invalid(project):
    """The digests differ, and the message says so."""
    path = baseline(project)
    before = path.read_bytes()
    folder = copied(project)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor * 1.5 for name, tensor in tensors.items()}, folder / "model.safetensors")
    result = project.run("--tenpak-max-tokens=600")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["baseline: the baseline does not match this case: model: sha256:*"])
    assert path.read_bytes() == before


def test_a_checkpoint_that_is_not_there_or_damaged(project):
    """Missing, without weights, or with a shard cut short."""
    fails_with(project, "there is no checkpoint 'none'", marker="checkpoint='none'")
    folder = project.path / "theirs"
    shutil.copytree(project.model, folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    said = "model.safetensors is truncated or damaged"
    fails_with(project, said, "*bytes on disk, but * by its header*", marker="checkpoint='theirs'")


def test_a_perplexity_that_is_not_finite(project):
    """NaN in the weights: an error that counts tokens, never a pass, whatever the limit."""
    folder = copied(project)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    project.test(PLAIN.format("checkpoint='model', max_ppl_delta=100.0"))
    result = project.run(f"--tenpak-model={project.model}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the checkpoint's perplexity is not finite: 504 of 504 tokens*", "*error"])
    assert project.baselines == []


def test_the_fixture_without_a_marker(project):
    """It says what is missing."""
    project.test("def test_it(quantized): pass\n")
    result = project.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*the fixture 'quantized' needs a marker: @pytest.mark.quantize(method=*"])


def test_a_model_fixture_of_another_kind(project):
    """What was given and what is accepted."""
    project.pytester.makeconftest("import pytest\n@pytest.fixture\ndef tenpak_model(): return 7\n")
    project.test(PLAIN.format("method='nf4'"))
    project.run().stdout.fnmatch_lines(
        [
            "*the fixture tenpak_model returned int",
            "*accepted: *a path, a hub id, or a (model, tokenizer) pair",
            "*error",
            "1 gate expected, 1 ran",
        ]
    )


def test_a_report_that_cannot_be_written_fails_the_run(project):
    """Not silently lost."""
    (project.path / "file").write_text("")
    project.test(PLAIN.format("method='nf4'"))
    result = project.run("--tenpak-json=file/out.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["--tenpak-json: file/out.json cannot be written*"])
