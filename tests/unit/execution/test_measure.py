"""Measuring in a worker process: windows are added until the verdict is clear, and not one more."""

import json
import math

import pytest
from tiny import random_model
from traces import TOKENS, begin, run

from pytest_tenpak.errors import MeasurementError
from pytest_tenpak.evaluation.perplexity import Scorer
from pytest_tenpak.evaluation.protocol import Protocol
from pytest_tenpak.execution import measure as measuring
from pytest_tenpak.execution.jobs import (
    BlameJob,
    ConvertJob,
    GenerateJob,
    MeasureJob,
    QuantizeJob,
    Rounding,
    Text,
    to_plain,
)
from pytest_tenpak.metrics.intervals import DEFAULT_RULE, Rule, estimate, looks
from pytest_tenpak.progress import ignore
from pytest_tenpak.quantizers.bitsandbytes import Nf4
from pytest_tenpak.quantizers.locate import Place
from pytest_tenpak.spec import QuantizeSpec
from pytest_tenpak.verdict.criteria import Criterion, first_decisive_look

PROTOCOL = Protocol.resolve("gptq", 16, None, 256)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A reference's trace over windows of 16 tokens, and a scorer of another model."""
    plan = PROTOCOL.windows(len(TOKENS))
    reference = run(random_model("llama"), tmp_path_factory.mktemp("reference"), plan, keep="exact")
    return plan, reference, Scorer(random_model("llama", seed=1), TOKENS)


def job(folder, **given) -> MeasureJob:
    """A job of which only the loop over windows is done."""
    fields = {
        **{"directory": folder, "quantizer": None, "spec": QuantizeSpec("fp16", {}), "layers": ()},
        **{
            "rounding": None,
            "text": Text(folder, folder),
            "protocol": PROTOCOL,
            "device": "cpu",
            "dtype": "float32",
        },
        **{"batch_size": 0, "threads": 0, "trace": folder, "reference": None, "is_reference": False},
        **{"divergence": "auto", "budget": 0, "limit": None, "criteria": (), "rule": DEFAULT_RULE},
    }
    return MeasureJob(**{**fields, "whole": False, **given})


def work(folder, pair, criteria, progress=ignore, **given):
    """A trace that the worker's loop wrote."""
    plan, reference, scorer = pair
    trace = begin(folder, plan, reference.kind)
    order = job(folder, criteria=tuple(criteria), reference=reference.folder, **given)
    measuring._score(order, subject(plan, scorer), trace, reference, progress)
    return trace


def subject(plan, scorer):
    return measuring._Subject(None, "transformers", None, plan, scorer)


def tight(pair, trace, by: float) -> Criterion:
    """A bound on NLL so far from the mean of a whole trace, in nats per token."""
    measured = trace.windows(0)
    mean = estimate(
        [a - b for a, b in zip(measured.nll, pair[1].windows(0).nll, strict=True)], measured.tokens
    )
    return Criterion("max_ppl_delta", "nll", mean.value + by, pair[1].windows(0).nll)


@pytest.fixture(scope="module")
def everything(tmp_path_factory, pair):
    """The trace of a worker that nothing stopped."""
    return work(tmp_path_factory.mktemp("everything"), pair, [])


@pytest.mark.parametrize("by", [-0.3, -0.05, -0.02, 0.0, 0.01, 0.03, 0.05, 0.3])
@pytest.mark.parametrize("whole", [False, True])
def test_the_worker_stops_where_the_verdict_looks(tmp_path, pair, everything, by, whole):
    """Not a window later than the look that the verdict takes, nor one earlier: real models, real windows."""
    planned = len(pair[0])
    assert everything.count == planned == 34
    criteria = [tight(pair, everything, by)]
    expected = first_decisive_look(criteria, everything.windows(0), planned, DEFAULT_RULE, whole)
    trace = work(tmp_path, pair, criteria, whole=whole)
    assert trace.count == (expected or planned)
    assert first_decisive_look(criteria, trace.windows(0), planned, DEFAULT_RULE, whole) == expected
    assert trace.windows(0).nll == pytest.approx(everything.windows(0).prefix(trace.count).nll, rel=1e-9)


def test_the_worker_goes_on_where_it_stopped(tmp_path, pair):
    """With other criteria, a limit, or a smaller budget, it adds what is missing; more than enough stays."""
    rough, sharp = Criterion("max_kld", "kld", 1e-9), Criterion("max_kld", "kld", 1e9)
    assert work(tmp_path, pair, [rough]).count == 8
    assert work(tmp_path, pair, [sharp], whole=True, limit=11).count == 11
    assert work(tmp_path, pair, [sharp], limit=11).count == 11
    assert work(tmp_path, pair, [], budget=15 * 9).count == 11
    trace = work(tmp_path, pair, [], limit=None)
    stops = [stop for _, stop, _ in trace.blocks]
    assert stops[:2] == [8, 11]
    assert stops[2:] == [look for look in looks(34) if look > 11]
    fresh = work(tmp_path / "fresh", pair, [])
    assert trace.windows(0).nll == pytest.approx(fresh.windows(0).nll, rel=1e-6)
    assert trace.windows(0).kld == pytest.approx(fresh.windows(0).kld, rel=1e-3, abs=1e-6)


def test_a_fixed_rule_spends_the_whole_plan(tmp_path, pair):
    """One look, at the end."""
    hopeless = Criterion("max_kld", "kld", 1e-9)
    assert work(tmp_path, pair, [hopeless], rule=Rule(0.001, fixed=True)).count == len(pair[0])


def test_a_checkpoint_of_other_tokens_is_not_measured_to_the_end(tmp_path, pair):
    """There is nothing to pair: the first look is enough for the verdict to say so."""
    plan, reference, scorer = pair
    trace = begin(tmp_path, plan, "")
    order = job(
        tmp_path, criteria=(Criterion("max_kld", "kld", 1.0),), reference=reference.folder, whole=True
    )
    measuring._score(order, subject(plan, scorer), trace, None, ignore)
    assert trace.count == looks(len(plan))[0]
    assert trace.windows(0).kld == ()


def test_progress_ends_where_the_work_may_end(tmp_path, pair):
    """It counts what was there before, and grows to the limit's tokens."""
    work(tmp_path, pair, [], limit=11)
    seen = []
    trace = work(tmp_path, pair, [], lambda *row: seen.append(row), whole=True)
    assert seen[0][0] > 11 * 15
    assert seen[-1] == (34 * 15, 34 * 15, "tokens")
    assert [row[0] for row in seen] == sorted(row[0] for row in seen)
    assert not math.isnan(trace.windows(0).perplexity)


# ------------------------------------------------------------ jobs


def test_every_job_crosses_into_the_process_as_it_is(tmp_path):
    """As JSON and back to an equal value, every field of it, whatever is left out."""
    place = Place("ours.module", "/ours/module.py", "Ours.Inner")
    spec = QuantizeSpec.build("nf4", Nf4.options, {"skip_modules": ("a", "b")})
    measuring_job = job(
        tmp_path,
        quantizer=place,
        spec=spec,
        layers=("model.0",),
        rounding=Rounding(("model.0",), 4, 64),
        text=Text(tmp_path / "text", tmp_path / "tokens", part=7),
        reference=tmp_path / "reference",
        criteria=(Criterion("max_kld", "kld", 0.1), Criterion("ppl_tolerance", "nll", 0.01, (1.0, 2.0))),
        limit=3,
    )
    quantizing_job = QuantizeJob(place, spec, tmp_path, tmp_path / "out", "cpu", "float32", tmp_path / "text")
    loading = (tmp_path, place, spec, "cpu", "float32")
    blaming_job = BlameJob(
        *loading,
        model=tmp_path / "model",
        whole_blocks=True,
        text=Text(tmp_path, tmp_path),
        protocol=measuring_job.protocol,
        batch_size=2,
        threads=1,
        reference=tmp_path / "reference",
        trace=tmp_path / "trace",
        windows=3,
        budget=100,
    )
    generating_job = GenerateJob(*loading, prompts=("KING",), options={"max_new_tokens": 2})
    converting_job = ConvertJob(tmp_path / "a.gguf", tmp_path)
    for one in (job(tmp_path), measuring_job, quantizing_job, blaming_job, generating_job, converting_job):
        assert type(one).from_dict(json.loads(json.dumps(to_plain(one)))) == one


def test_layers_that_compute_in_another_type_are_an_error_of_ours(tmp_path, monkeypatch):
    """As checkpoints in NVFP4 do on a CPU: bfloat16, whatever was requested; other faults stay what they are."""
    model = random_model("llama")
    for layer in model.model.layers:
        layer.mlp.down_proj.bfloat16()
    monkeypatch.setattr(measuring, "_load", lambda _: Scorer(model, TOKENS))
    with pytest.raises(MeasurementError, match="compute in another type") as caught:
        measuring.measure(job(tmp_path), ignore)
    assert caught.value.remedy == "set dtype='bfloat16' in the marker"

    def fail(_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(measuring, "_load", fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        measuring.measure(job(tmp_path), ignore)
