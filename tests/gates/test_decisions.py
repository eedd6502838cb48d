"""Decisions as users meet them: early and clear, extended from the cache, told with their evidence."""

import json

import pytest
from made_up import better, rewrite
from projects import CPU

PLAIN = """
@pytest.mark.quantize(method="nf4", {})
def test_nf4():
    pass
"""

#: A recipe that depends on its seed as much as a bad day of GPTQ: noise of a size of its own on every layer.
SEEDED = """
from pytest_tenpak import Quantizer
from pytest_tenpak.quantizers.loading import load_pretrained
from pytest_tenpak.spec import Option

class Seeded(Quantizer):
    method = "seeded"
    options = (Option("seed", int, 0, "which noise"),)

    def quantize(self, job):
        import torch
        model = load_pretrained(job.model, job.device, "auto")
        chooser = torch.Generator().manual_seed(job.spec.options["seed"])
        for layer in model.model.layers:
            weight = layer.mlp.down_proj.weight.data
            weight += weight.std() * torch.randn(weight.shape, generator=chooser)
        model.half().save_pretrained(job.out)

def pytest_tenpak_register_quantizers(register):
    register(Seeded)
"""


def outcome(project, *args: str, passes: bool = True) -> dict:
    """The outcome of the project's one gate."""
    assert project.run(*args, "--tenpak-json=out.json").ret == (0 if passes else 1)
    return json.loads((project.path / "out.json").read_text())["outcomes"][0]


def tokens(plain: dict) -> tuple[int, int]:
    """(measured, budget) of a gate's first corpus."""
    measurement = plain["parts"][0]["measurement"]
    return sum(measurement["windows"]["tokens"]), measurement["budget"]


def check(plain: dict, name: str) -> dict:
    return next(check for check in plain["verdict"]["checks"] if check["name"] == name)


def entry(project, name: str = "test_gate/test_nf4.json") -> dict:
    return json.loads((project.path / "baselines" / name).read_text())["entries"][CPU]


def test_what_is_clear_takes_a_quarter_of_the_budget(project):
    """A first run measures all for its baseline; a clear pass and a clear failure a quarter or less."""
    project.test(PLAIN.format("max_ppl_delta=0.5"))
    assert tokens(outcome(project)) == (6930, 6930)
    passed = outcome(project)
    project.test(PLAIN.format("max_ppl_delta=-0.5"))
    failed = outcome(project, passes=False)
    for plain in (passed, failed):
        spent, budget = tokens(plain)
        assert 4 * spent <= budget == 6930
        assert check(plain, "max_ppl_delta")["decisive"]
    assert check(failed, "max_ppl_delta")["low"] > -0.5


@pytest.mark.slow
def test_a_larger_budget_adds_only_what_is_missing(project, tmp_path):
    """Windows on disk stay as they are and are followed by others; none is measured twice."""
    project.ini(**{**project.settings, "cache_dir": tmp_path / "cache"})
    project.test(PLAIN.format("max_ppl_delta=0.5"))

    def blocks() -> dict[str, list[tuple[str, int]]]:
        files = sorted((tmp_path / "cache" / "traces").glob("*/*-*.safetensors"))
        found: dict[str, list[tuple[str, int]]] = {}
        for file in files:
            found.setdefault(file.parent.name, []).append((file.stem, file.stat().st_mtime_ns))
        return found

    assert tokens(outcome(project, "--tenpak-max-tokens=1000")) == (945, 945)
    before = blocks()
    assert len(before) == 2
    again = outcome(project, "--tenpak-update=all")
    assert tokens(again) == (6930, 6930)
    for trace, files in blocks().items():
        assert files[: len(before[trace])] == before[trace]
        ends = [tuple(map(int, stem.split("-"))) for stem, _ in files]
        assert [start for start, _ in ends] == [0, *(stop for _, stop in ends[:-1])]
        assert ends[-1][1] == 110


def test_a_fixed_look_spends_the_budget_and_says_so(project):
    """Student's t at the end instead of an interval for any look."""
    project.test(PLAIN.format("max_ppl_delta=0.5"))
    project.run()
    plain = outcome(project, "--tenpak-fixed")
    assert tokens(plain) == (6930, 6930)
    assert "at one look" in check(plain, "ppl_tolerance")["evidence"]
    assert check(plain, "max_ppl_delta")["decisive"]


def test_what_the_budget_cannot_tell_is_decided_by_the_point_estimate_and_said(project):
    """A limit at the very figure: the report tells the interval and how many tokens would decide it."""
    project.test(PLAIN.format("max_ppl_delta=0.5"))
    figure = check(outcome(project), "max_ppl_delta")["difference"]
    project.test(PLAIN.format(f"max_ppl_delta={figure + 1e-6}"))
    passed = check(outcome(project), "max_ppl_delta")
    project.test(PLAIN.format(f"max_ppl_delta={figure - 1e-6}"))
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "perplexity vs reference: point estimate: 99.9% interval * tokens would decide it; with 110 windows (6,930*"
        ]
    )
    assert (passed["status"], passed["decisive"]) == ("passed", False)
    assert passed["low"] < figure < passed["high"]


def test_limits_on_divergence(project):
    """Mean KL divergence and top-1 agreement are gated against the reference, with their intervals."""
    project.test(PLAIN.format("max_kld=0.5, min_top1=0.5"))
    plain = outcome(project)
    divergence = plain["parts"][0]["measurement"]["divergence"]
    assert divergence["kind"] == "exact"
    assert 0 < divergence["median"] < divergence["mean"] < divergence["p99"] < divergence["maximum"]
    assert 0.5 < divergence["top1"] < 1
    assert plain["figures"]["kld"] == pytest.approx(divergence["mean"], abs=1e-6)
    for limits, said in (("max_kld=1e-6", "KL divergence from"), ("min_top1=0.99999", "top-1 agreement")):
        project.test(PLAIN.format(limits))
        result = project.run()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines([f"regressed: {said}*", f"✗ *{said}*reference*"])


@pytest.mark.slow
def test_top_tokens_give_a_lower_bound_and_its_name(project):
    """What is kept of the reference can be chosen; less than everything is told wherever it counts."""
    project.test(PLAIN.format("max_kld=0.5"))
    exact = outcome(project)["figures"]["kld"]
    plain = outcome(project, "--tenpak-divergence=top-k", "--tenpak-update=all", "--tenpak-accept=bound")
    assert 0 < plain["figures"]["kld"] <= exact
    assert "top-k lower bound" in check(plain, "max_kld")["evidence"]


@pytest.fixture
def two_texts(project):
    """A project that gates on two texts."""
    text = (project.path / "text.txt").read_text()
    (project.path / "other.txt").write_text(text[::-1])
    project.test(PLAIN.format("corpus=['text.txt', 'other.txt'], max_ppl_delta=0.5"))
    return project


@pytest.mark.parametrize("distributed", [()], ids=["alone"])
def test_two_corpora_have_their_own_checks_and_baselines(two_texts, distributed):
    """One case, a row and a file for each text; a text that got worse fails the case by name."""
    project = two_texts
    first = project.run(*distributed)
    first.assert_outcomes(passed=1)
    first.stdout.fnmatch_lines(["*::test_nf4 on text.txt *new*", "*::test_nf4 on other.txt *new*"])
    assert project.baselines == ["test_gate/test_nf4.json", "test_gate/test_nf4@other.txt.json"]
    path = project.path / "baselines/test_gate/test_nf4@other.txt.json"
    rewrite(path, lambda entry: better(entry, 1.25))
    result = project.run(*distributed)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "regressed: perplexity vs baseline on other.txt *",
            "✓ *perplexity vs baseline on text.txt *",
            "✗ *perplexity vs baseline on other.txt *",
        ]
    )


@pytest.mark.slow
def test_another_corpus_leaves_the_first_ones_baseline_alone(two_texts):
    """What is new is created; what is there keeps its windows, figures and history."""
    project = two_texts
    project.test(PLAIN.format("corpus='text.txt', max_ppl_delta=0.5"))
    project.run()
    path = project.path / "baselines/test_gate/test_nf4.json"
    before = path.read_bytes()
    project.test(PLAIN.format("corpus=['text.txt', 'other.txt'], max_ppl_delta=0.5"))
    project.run("--tenpak-max-tokens=1000").assert_outcomes(passed=1)
    assert project.baselines == ["test_gate/test_nf4.json", "test_gate/test_nf4@other.txt.json"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("corpus", ["[]", "['a.txt', 'a.txt']", "['a.txt', 3]", "7"])
def test_corpora_that_make_no_sense_are_usage_errors(project, corpus):
    """None, the same twice, or what is no text's name."""
    project.test(PLAIN.format(f"corpus={corpus}"))
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*test_nf4: corpus=* is not accepted", "*one text, or a list of different ones"]
    )


@pytest.mark.slow
def test_noise_of_a_recipe_without_a_seed(project):
    """Quantized once more, it gives the same weights: no spread, and what the runtime does to them is stored."""
    project.test(PLAIN.format("max_ppl_delta=0.5"))
    project.run()
    before = entry(project)
    calibrated = project.run("--tenpak-calibrate-noise")
    calibrated.assert_outcomes(passed=1)
    calibrated.stdout.fnmatch_lines(
        ["*noise on text.txt: quantizing again gives the same weights; * dtype *%*"]
    )
    noise = entry(project)["noise"]
    assert (noise["requantizations"], noise["spread"], noise["layers"]) == (1, 0, 0)
    assert noise["runtime"].keys() == {"batch_size", "dtype", "threads"}
    assert noise["runtime"]["dtype"] > noise["runtime"]["batch_size"]
    assert {**entry(project), "noise": None, "digest": before["digest"]} == before
    project.run("--tenpak-update=all").assert_outcomes(passed=1)
    assert entry(project)["noise"] == noise


@pytest.mark.slow
def test_a_tolerance_below_the_noise_is_refused(project):
    """Requantizing spreads more than half a per cent: the gate would flake, and says what to set instead."""
    project.pytester.makeconftest(SEEDED)
    gate = "@pytest.mark.quantize(method='seeded', max_rtn_factor=0, {})\ndef test_nf4(): pass\n"
    project.test(gate.format(""))
    refused = project.run("--tenpak-calibrate-noise=3")
    refused.assert_outcomes(failed=1)
    refused.stdout.fnmatch_lines(
        [
            "invalid: tolerance vs noise *",
            "tolerance vs noise: ppl_tolerance=0.005 is below the noise of this recipe: 3 requantizations *",
            "what to do: set the tolerance that is named*",
        ]
    )
    assert project.baselines == []
    project.test(gate.format("ppl_tolerance=5.0"))
    project.run("--tenpak-calibrate-noise=3").assert_outcomes(passed=1)
    noise = entry(project)["noise"]
    assert noise["requantizations"] == 3
    assert noise["spread"] > 0
    project.test(gate.format("ppl_tolerance=0.0001"))
    project.run().stdout.fnmatch_lines(["invalid: tolerance vs noise *"])
    assert entry(project)["noise"] == noise
    project.test(gate.format("ppl_tolerance=0.0001, seed=9"))
    project.run("--tenpak-update=failing", "--tenpak-accept=another seed").assert_outcomes(passed=1)
    assert entry(project)["noise"] is None


@pytest.mark.slow
def test_threads_batches_and_order_do_not_move_a_verdict(project, monkeypatch):
    """1 and 2 threads, batches of 1 and 8, shuffled tests: the same verdicts, differences printed."""
    project.test(
        """
        @pytest.mark.quantize(method="nf4", max_ppl_delta=0.5, max_kld=0.2)
        def test_nf4(): pass

        @pytest.mark.quantize(method="int8", max_ppl_delta=0.5)
        def test_int8(): pass

        @pytest.mark.quantize(method="nf4", double_quant=True, max_ppl_delta=-0.01)
        def test_fails(): pass
        """
    )
    project.run()
    seen = {}
    for threads in ("1", "2"):
        for batch in ("1", "8"):
            monkeypatch.setenv("OMP_NUM_THREADS", threads)
            project.run("-p", "randomly", f"--tenpak-batch-size={batch}", "--tenpak-json=out.json")
            plain = json.loads((project.path / "out.json").read_text())
            seen[threads, batch] = {
                row["case"]["nodeid"]: (row["verdict"]["status"], row["figures"]["perplexity"])
                for row in plain["outcomes"]
            }
    verdicts = [{gate: status for gate, (status, _) in way.items()} for way in seen.values()]
    assert all(verdict == verdicts[0] for verdict in verdicts)
    assert sorted(verdicts[0].values()) == ["passed", "passed", "regressed"]
    first = seen["1", "1"]
    for way, gates in seen.items():
        for gate, (_, perplexity) in gates.items():
            print(way, gate, f"{perplexity / first[gate][1] - 1:+.2e}")
            assert perplexity == pytest.approx(first[gate][1], rel=1e-4)


@pytest.mark.slow
def test_two_identical_runs_give_identical_baselines(project, tmp_path):
    """From two empty caches, byte for byte: no times, no paths, nothing of the machine's mood."""
    project.test(PLAIN.format("max_ppl_delta=0.5"))
    written = []
    for number in "12":
        project.ini(**{**project.settings, "cache_dir": tmp_path / number, "baseline_dir": f"b{number}"})
        project.run().assert_outcomes(passed=1)
        written.append((project.path / f"b{number}" / "test_gate/test_nf4.json").read_bytes())
    assert written[0] == written[1]
