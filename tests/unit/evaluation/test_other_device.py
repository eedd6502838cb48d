"""What a GPU would have to do: no tensors of two devices in one operation, and nothing that waits for values."""

import pytest
import torch
from other_device import DEVICE, OtherDevice
from tiny import byte_tokenizer, random_model

from pytest_tenpak.evaluation import perplexity
from pytest_tenpak.evaluation.divergence import EXACT, LOWER_BOUND, Comparer, ReferenceRecorder
from pytest_tenpak.evaluation.perplexity import Scorer
from pytest_tenpak.evaluation.protocol import Protocol
from pytest_tenpak.evaluation.trace import Plan, Trace
from pytest_tenpak.quantizers.int4.matrix import Recipe, Statistics, quantize_matrix
from pytest_tenpak.quantizers.int4.modules import Int4Linear

TOKENS = byte_tokenizer()("O, she doth teach the torches to burn bright! " * 12)["input_ids"]
WINDOWS = Protocol.resolve("gptq", 64, None, 256).windows(len(TOKENS))


@pytest.fixture
def scorer(monkeypatch):
    """A model on the other device, scored in several chunks a batch."""
    on_cpu = Scorer(random_model("llama"), TOKENS)
    monkeypatch.setitem(perplexity._CHUNK_BYTES, "cpu", 4 * 258 * 2 * 16)
    monkeypatch.setattr(
        Scorer, "_head_is_all", lambda self: on_cpu.head_is_all
    )  # asks once, before all batches
    return Scorer(random_model("llama").to(DEVICE), TOKENS, batch_size=2)


class Elsewhere(Trace):
    """A trace whose head is handed over by torch: safetensors loads to a GPU, and not to what stands for one."""

    def head(self, device):
        return tuple(row if row is None else row.to(device) for row in super().head("cpu"))


def recorded(folder, kind):
    """What a reference's run on the CPU recorded."""
    model = Scorer(random_model("llama", 1), TOKENS)
    trace = Elsewhere(folder)
    trace.begin(Plan("", [window.scored for window in WINDOWS], [0] * len(WINDOWS), kind), {})
    trace.save_head(model.head)
    trace.add(model.score(WINDOWS, observer=ReferenceRecorder(kind)))
    return trace


def observer_of(name, folder, kind):
    """What runs beside the NLL, with the number of tensors that it gives."""
    if name == "comparing":
        return Comparer(recorded(folder, kind), DEVICE), 4
    return (ReferenceRecorder(kind), 2 if kind == EXACT else 3) if name == "recording" else (None, 1)


@pytest.mark.parametrize("kind", [EXACT, LOWER_BOUND])
@pytest.mark.parametrize("name", ["none", "recording", "comparing"])
def test_the_evaluator_waits_for_nothing_within_a_batch(scorer, tmp_path, kind, name):
    """However many chunks a batch has, its figures are downloaded once, and nothing else is asked for.

    But for transformers itself, which looks for sequences that are packed into one, at the start of each batch.
    """
    observer, tensors = observer_of(name, tmp_path, kind)
    with OtherDevice() as device:
        block = scorer.score(WINDOWS, observer=observer)
    batches = -(-len(WINDOWS) // 2)
    assert device.downloads == batches * tensors
    assert device.asked in ([], ["is_nonzero"] * batches)
    assert len(block.sums["nll"]) == len(WINDOWS)


def test_what_was_recorded_is_read_once_the_device_has_work(scorer, tmp_path, monkeypatch):
    """For each batch, after its layers: a GPU computes them while the host waits for the disk."""
    steps = []
    read = Trace.read

    def noted(self, name, *rest):
        steps.append(name)
        return read(self, name, *rest)

    monkeypatch.setattr(Trace, "read", noted)
    observer = Comparer(recorded(tmp_path, EXACT), DEVICE)
    scorer._model.model.layers[-1].register_forward_hook(lambda *_: steps.append("layers"))
    with OtherDevice():
        scorer.score(WINDOWS, observer=observer)
    assert steps == ["layers", "nll", "states"] * -(-len(WINDOWS) // 2)


@pytest.mark.parametrize("sym", [True, False])
def test_int4_computes_where_its_layer_is_and_waits_for_nothing(sym):
    """With scaled inputs and outliers: dequantizing needs no value of the device once the layer was used."""
    weights = torch.randn(96, 80, generator=torch.Generator().manual_seed(0))
    recipe = Recipe(group=32, outliers=0.01, sym=sym, scaled=True)
    found = quantize_matrix(weights, recipe, Statistics(torch.rand(80) + 0.5, torch.rand(80) + 0.5))
    layer = Int4Linear(80, 96, found.tensors())
    expected = layer(torch.ones(3, 80))  # reads the layer's layout
    with OtherDevice() as device:
        given = layer.to(DEVICE)(torch.ones(3, 80, dtype=torch.bfloat16, device=DEVICE))
    assert (given.shape, given.dtype, given.device) == (expected.shape, torch.bfloat16, DEVICE)
    assert (device.downloads, device.asked) == (0, [])
