"""Timing and weighing in processes of their own, with models of which one has far more to do."""

import json
from pathlib import Path

import pytest
import tiny

from pytest_tenpak.errors import UnavailableError
from pytest_tenpak.execution import speed
from pytest_tenpak.execution.jobs import MemoryJob, SpeedJob, to_plain
from pytest_tenpak.execution.process import run_job
from pytest_tenpak.execution.speed import weigh
from pytest_tenpak.metrics.intervals import DEFAULT_RULE
from pytest_tenpak.metrics.speed import PREFILL, Memory, Speed
from pytest_tenpak.progress import ignore
from pytest_tenpak.spec import CHECKPOINT, QuantizeSpec
from pytest_tenpak.store.store import Store
from pytest_tenpak.verdict.checks import Limits, Status
from pytest_tenpak.verdict.speed import speed_checks

LAYERS = 8


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A model, one of eight times the layers, and one of some fifty megabytes."""
    folder = tmp_path_factory.mktemp("models")
    wide = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
    for name, sizes in {
        "small": {},
        "deep": {"num_hidden_layers": 2 * LAYERS},
        "wide": {**wide, "num_hidden_layers": 4},
    }.items():
        tiny.save(tiny.random_model("llama", **sizes), folder / name)
    return folder


def fields(models, name, reference="small"):
    """What both jobs say of a checkpoint that transformers loads."""
    return {
        "directory": models / name,
        "quantizer": None,
        "spec": QuantizeSpec(CHECKPOINT, {}),
        "device": "cpu",
        "dtype": "float32",
        "model": models / reference,
        "text": "To be, or not to be, that is the question: " * 20,
        "context": 96,
        "threads": 1,
    }


def test_a_checkpoint_of_eight_times_the_layers_is_slower_and_breaks_a_limit(models, tmp_path):
    """In both phases; a limit that is far below is met. The classes of the layers that are named are said."""
    least = {"prefill": 1.0, "decode": 1.0}
    layers = ("model.layers.0.mlp.up_proj",)
    job = SpeedJob(**fields(models, "deep"), layers=layers, least=least, rule=DEFAULT_RULE)
    found = Speed.from_dict(run_job(Store(tmp_path), job, ignore))
    assert all(one.ratio < 1 for one in found.phases)
    assert (found.prompt, found.kernel, found.dtype, found.threads) == (80, "Linear", "float32", 1)
    for bound, status in ((1.0, Status.REGRESSED), (0.01, Status.PASSED)):
        limits = Limits(min_speedup=dict.fromkeys(least, bound))
        assert {check.status for check in speed_checks(found, None, limits, DEFAULT_RULE)} == {status}


def test_the_models_change_places_and_the_ratio_is_the_inverse(models, tmp_path):
    """The reference is timed as the checkpoint is: what is slow is the model, not the role."""
    job = SpeedJob(**fields(models, "small", "deep"), layers=(), least={PREFILL: 1.0}, rule=DEFAULT_RULE)
    found = Speed.from_dict(run_job(Store(tmp_path), job, ignore))
    assert all(one.ratio > 1 for one in found.phases)
    assert found.kernel == ""


def test_the_peak_of_a_model_is_its_own_and_at_least_its_weights(models, tmp_path):
    """Each in a process of its own, without what the libraries take."""
    peaks = {
        name: run_job(Store(tmp_path), MemoryJob(**fields(models, name)), ignore)
        for name in ("small", "wide")
    }
    weights = (models / "wide" / "model.safetensors").stat().st_size
    assert peaks["wide"]["bytes"] > 0.9 * weights
    memory = Memory(peaks["wide"]["bytes"], peaks["small"]["bytes"], peaks["small"]["kind"], "float32")
    assert memory.ratio < 0.8
    assert memory.kind == "resident"


def test_jobs_come_back_from_json(models):
    """Both sides read the same fields."""
    job = SpeedJob(**fields(models, "small"), layers=("a",), least={"decode": 1.5}, rule=DEFAULT_RULE)
    assert SpeedJob.from_dict(json.loads(json.dumps(to_plain(job)))) == job
    alone = MemoryJob(**fields(models, "small"))
    assert MemoryJob.from_dict(json.loads(json.dumps(to_plain(alone)))) == alone


def test_a_system_that_tells_no_peak_is_an_error_that_says_so(models, monkeypatch):
    """Before any model is loaded; never a figure that is something else."""
    monkeypatch.setattr(speed, "Path", lambda name: Path("/nowhere") / name.lstrip("/"))
    with pytest.raises(UnavailableError, match="cannot be measured on this system") as raised:
        weigh(MemoryJob(**fields(models, "small")), ignore)
    assert "max_memory_ratio" in str(raised.value)
