"""Timing a checkpoint beside its reference: what is refused before either is loaded."""

import os
from types import SimpleNamespace

import pytest
from made_up import case

from pytest_tenpak.errors import MeasurementError
from pytest_tenpak.evaluation.corpus import Corpus
from pytest_tenpak.evaluation.protocol import Protocol
from pytest_tenpak.gate.experiment import Experiment, Subject
from pytest_tenpak.gate.timing import require_room
from pytest_tenpak.machines.device import Device
from pytest_tenpak.models.model import Model

#: More than any machine has, of which a sparse file takes nothing.
TEBIBYTES = 8 << 40


def experiment(folder, model_bytes, checkpoint_bytes, dtype="float32"):
    """A case whose weight files have these sizes; the model's are stored in 16 bit."""
    for name, size in (("model", model_bytes), ("checkpoint", checkpoint_bytes)):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").touch()
        os.truncate(folder / name / "model.safetensors", size)
    return Experiment(
        case=case(dtype=dtype),
        run=SimpleNamespace(),
        device=Device("cpu", "cpu", "some processor"),
        model=Model(folder / "model", "sha256:model", "sha256:tokenizer", {"dtype": "float16"}),
        corpus=Corpus("text", ["words"]),
        calibration=None,
        protocol=Protocol.resolve("gptq", 64, None, 128),
    )


@pytest.mark.parametrize(("dtype", "model"), [("float32", "16384.00"), ("bfloat16", "8192.00")])
def test_two_models_that_do_not_fit_together_are_refused_with_the_sums(tmp_path, dtype, model):
    """A model stored in 16 bit takes twice as much in float32, packed weights what they take on disk."""
    case = experiment(tmp_path, TEBIBYTES, 1 << 30, dtype)
    with pytest.raises(MeasurementError, match="do not fit in memory together") as raised:
        require_room(case, Subject("checkpoint", tmp_path / "checkpoint"))
    said = str(raised.value)
    assert f"{model} GiB for the model in {dtype} and 1.00 GiB for the checkpoint" in said
    assert "free" in said
    assert "min_speedup" in said


def test_two_models_that_fit_are_not_refused(tmp_path):
    """What is needed beyond the weights is no reason by itself."""
    case = experiment(tmp_path, 1000, 1000)
    require_room(case, Subject("checkpoint", tmp_path / "checkpoint"))
