"""Models that do not fit: layers read from disk, what cannot be there, and a disk too small for states."""

import json

import pytest

FP16 = "@pytest.mark.quantize(method='fp16')\ndef test_gate(): pass\n"
NF4 = "@pytest.mark.quantize(method='nf4')\ndef test_gate(): pass\n"
#: Less than what is kept free for activations: no layer stays in memory.
STREAMED = ("--tenpak-device=cpu", "--tenpak-offload=disk", "--tenpak-memory=1")


@pytest.fixture
def reported(project):
    """Runs of the project, each from an empty cache: gives the outcome that the JSON report has."""

    def run(*args):
        file = project.path / "out.json"
        project.run(f"--tenpak-cache-dir=cache-{len(args)}", f"--tenpak-json={file}", *args)
        (outcome,) = json.loads(file.read_text())["outcomes"]
        return outcome

    return run


def device_of(project, folder="baselines") -> dict[str, str]:
    """The device's facts in the only entry of the baseline."""
    plain = json.loads((project.path / folder / "test_gate/test_gate.json").read_text())
    (entry,) = plain["entries"].values()
    facts: dict[str, str] = entry["provenance"]["device"]
    return facts


def test_layers_on_disk_give_the_same_figures_and_are_named_in_provenance(project, reported):
    """To the last digit, so the baseline of a run in memory holds; a new one says where the layers were."""
    project.test(FP16)
    whole = reported()
    streamed = reported(*STREAMED, "--tenpak-update=all")
    assert streamed["verdict"]["status"] == "passed"
    assert streamed["figures"] == whole["figures"]
    project.run(*STREAMED, "--tenpak-cache-dir=cache-4", "--tenpak-baseline-dir=new").assert_outcomes(
        passed=1
    )
    assert "placement" not in device_of(project)
    assert device_of(project, "new")["placement"] == "disk layers 0-1"
    assert not list(project.path.glob("cache-*/jobs/*"))


@pytest.mark.slow
def test_generated_text_is_that_of_a_model_in_memory(project):
    """The process that measured it answers."""
    project.test(
        """
        @pytest.mark.quantize(method='fp16')
        def test_gate(quantized):
            print("said", repr(quantized.generate("KING", max_new_tokens=8)))
        """
    )
    said = []
    for args in ((), STREAMED):
        ran = project.run("-s", f"--tenpak-cache-dir=cache-{len(args)}", *args)
        ran.assert_outcomes(passed=1)
        said += [line for line in ran.outlines if line.startswith("said")]
    assert len(said) == 2
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("memory", "line"),
    [
        ("1", "*layers in the format 'bitsandbytes' cannot be in host memory or on disk*"),
        ("0.0001", "*the layers of method 'nf4' cannot be in host memory or on disk*"),
    ],
    ids=["when it is loaded", "before anything is measured"],
)
def test_a_method_whose_layers_cannot_be_on_disk(project, memory, line):
    """No traceback of the library: what does not fit, what can, and what to do."""
    project.test(NF4)
    ran = project.run(*STREAMED[:2], f"--tenpak-memory={memory}", "--tenpak-cache-dir=cache")
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines([line, "*accepted:*int4*", "*what to do:*--tenpak-memory*"])
    traces = list((project.path / "cache").glob("traces/*/*.safetensors"))
    assert bool(traces) == (memory == "1")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "--tenpak-offload=gpu",
            ["--tenpak-offload: offload='gpu' is not accepted*", "*'none', 'cpu', 'disk'"],
        ),
        ("--tenpak-device=cuda:0,0", ["*names a GPU twice*"]),
        ("--tenpak-device=cpu:1", ["*there is no device 'cpu:1'*", "*cuda:0,1*"]),
    ],
)
def test_a_wrong_place_is_a_usage_error(project, given, said):
    """It names the option and what is accepted, and nothing has run."""
    project.test(FP16)
    ran = project.run(given)
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    ran.stderr.fnmatch_lines([f"*{line}" for line in said])


def test_the_ini_file_may_say_where_layers_go(project):
    """A wrong word there is named as such."""
    project.test(FP16)
    project.ini(**project.settings, offload="everywhere")
    ran = project.run()
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    ran.stderr.fnmatch_lines(["*ini tenpak_offload: offload='everywhere' is not accepted*"])


def test_a_disk_too_small_for_the_states_is_found_before_anything_is_measured(project, small_disk):
    """Half a million tokens would leave 300 MB of states: the sum is named; a budget that fits is measured."""
    (project.path / "text.txt").write_text("To be, or not to be, that is the question.\n" * 50_000)
    project.test(FP16)
    cache = f"--tenpak-cache-dir={small_disk / 'cache'}"
    ran = project.run(cache)
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(
        [
            "*the reference's states do not fit on the disk of the cache",
            f"*up to 0.* GiB for the budget of this case; 0.0* GiB free in {small_disk / 'cache'}",
            "*what to do: set a smaller max_tokens*--tenpak-divergence=top-k*",
        ]
    )
    assert not list(small_disk.glob("cache/traces/*/plan.json"))
    project.run(cache, "--tenpak-max-tokens=630").assert_outcomes(passed=1)
