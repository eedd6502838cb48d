"""Window NLLs against an independent computation, on a tiny model of every family."""

import numpy as np
import pytest
import torch
from tiny import FAMILIES, byte_tokenizer, random_model

from pytest_tenpak.evaluation import perplexity, predictions
from pytest_tenpak.evaluation.protocol import Protocol

TOKENS = byte_tokenizer()("O, she doth teach the torches to burn bright! " * 12)["input_ids"]


def independent(model, tokens, windows, bos=None):
    """The definition, one token at a time in float64 numpy: −ln softmax(logits)[target]."""
    sums = []
    for start, stop, first in windows:
        ids = list(tokens[start:stop])
        if bos is not None:
            ids[0] = bos
        with torch.no_grad():
            logits = model(torch.tensor([ids[:-1]])).logits[0].numpy().astype(np.float64)
        total = 0.0
        for position in range(first - start, stop - start):
            row = logits[position - 1]
            total += np.log(np.exp(row - row.max()).sum()) + row.max() - row[ids[position]]
        sums.append(total)
    return sums


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_agrees_with_the_definition(family):
    """Llama, Qwen, Gemma (soft caps included), GPT-2, OPT and GPT-NeoX, to 1e-5 relative."""
    model = random_model(family)
    if family == "gemma2":
        model.get_output_embeddings().weight.data *= 400  # far enough for the soft cap to matter
    windows = Protocol.resolve("gptq", 64, None, 256).windows(len(TOKENS))
    measured = perplexity.measure_windows(model, TOKENS, windows)
    assert measured.nll == pytest.approx(independent(model, TOKENS, windows), rel=1e-5)
    assert measured.tokens == (63,) * len(windows)


@pytest.mark.parametrize(
    ("protocol", "bos"),
    [(("llamacpp", 64, None), 256), (("sliding", 64, 24), None), (("sliding", 64, 64), None)],
)
def test_every_protocol_agrees_with_the_definition(protocol, bos):
    """BOS in front of each window, second halves, and strides, the short last window included."""
    model = random_model("llama")
    windows = Protocol.resolve(*protocol, 256).windows(len(TOKENS))
    measured = perplexity.measure_windows(model, TOKENS, windows, bos=bos)
    assert measured.nll == pytest.approx(independent(model, TOKENS, windows, bos), rel=1e-5)
    assert measured.total_tokens == sum(window.scored for window in windows)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rolling_windows_agree_with_the_definition(family):
    """GPT-2 has a place for each of 256 positions and no more, and a window holds 257 tokens."""
    model = random_model(family)
    windows = Protocol.resolve("rolling", 256, None, 256).windows(len(TOKENS), starts=(0, 40))
    assert max(stop - start for start, stop, _ in windows) == 257
    measured = perplexity.measure_windows(model, TOKENS, windows)
    assert measured.nll == pytest.approx(independent(model, TOKENS, windows), rel=1e-5)
    assert measured.total_tokens == len(TOKENS) - 2


@pytest.mark.parametrize("protocol", ["gptq", "rolling"])
def test_a_batch_on_a_cpu_runs_1024_tokens(protocol):
    """Also where a window holds a token more than the model runs, which is only predicted."""
    model, tokens = random_model("llama"), TOKENS * 8
    sizes = []
    model.base_model.register_forward_hook(
        lambda _, __, out: sizes.append(out.last_hidden_state.shape[:2].numel())
    )
    windows = Protocol.resolve(protocol, 128, None, 256).windows(len(tokens))
    perplexity.measure_windows(model, tokens, windows)
    assert max(sizes) == (1024 if protocol == "rolling" else 8 * 127)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batches_and_chunks_do_not_change_a_figure(monkeypatch, batch_size):
    """Whatever the batch, and however few positions a chunk holds."""
    model = random_model("qwen2")
    windows = Protocol.resolve("sliding", 48, 20, 256).windows(len(TOKENS))
    expected = perplexity.measure_windows(model, TOKENS, windows).nll
    monkeypatch.setitem(perplexity._CHUNK_BYTES, "cpu", 4 * 258 * 7)
    measured = perplexity.measure_windows(model, TOKENS, windows, batch_size=batch_size)
    assert measured.nll == pytest.approx(expected, rel=1e-6)


def test_no_logits_tensor_is_larger_than_a_chunk(monkeypatch):
    """The head is never asked for more positions than a chunk holds, the model never for all."""
    model = random_model("llama")
    windows = Protocol.resolve("gptq", 128, None, 256).windows(len(TOKENS))
    monkeypatch.setitem(perplexity._CHUNK_BYTES, "cpu", 4 * 258 * 16)
    sizes = []
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda module, given, out: sizes.append(out.shape[0] * out.shape[1]))
    perplexity.measure_windows(model, TOKENS, windows)
    # The first two are the comparison of head and model on 32 tokens.
    assert max(sizes[2:]) == 16
    assert sum(sizes[2:]) == 127 * len(windows)


def test_a_large_vocabulary_costs_no_precision():
    """49,152 logits: within float32's last digits of float64, on average too, where a bias would show."""
    chooser = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 64, 49152, generator=chooser) * 3
    targets = torch.randint(49152, (1, 64), generator=chooser)
    exact = torch.nn.functional.cross_entropy(logits[0].double(), targets[0], reduction="none")
    errors = predictions.score(logits, targets, wants_all=False)[0][0].double() - exact
    assert errors.abs().max() < 4e-6
    assert errors.mean().abs() < 3e-7


def test_tokens_that_are_not_finite_are_counted_not_averaged():
    """One poisoned embedding: its tokens are counted, the rest is summed, the perplexity is NaN."""
    model = random_model("gpt_neox")
    windows = Protocol.resolve("gptq", 64, None, 256).windows(len(TOKENS))
    clean = perplexity.measure_windows(model, TOKENS, windows)
    with torch.no_grad():
        model.get_output_embeddings().weight[TOKENS[0]] = float("nan")
    measured = perplexity.measure_windows(model, TOKENS, windows)
    assert measured.nonfinite == clean.total_tokens
    assert np.isnan(measured.perplexity)
    assert measured.nll == (0.0,) * len(windows)


def test_running_out_of_memory_halves_the_batch(monkeypatch):
    """The measurement goes on with smaller batches and the same figures."""
    model = random_model("llama")
    windows = Protocol.resolve("gptq", 64, None, 256).windows(len(TOKENS))
    expected = perplexity.measure_windows(model, TOKENS, windows).nll
    whole = perplexity.Scorer._score

    def small(self, batch, *rest):
        if len(batch) > 2:
            raise torch.OutOfMemoryError("too much")
        return whole(self, batch, *rest)

    monkeypatch.setattr(perplexity.Scorer, "_score", small)
    assert perplexity.measure_windows(model, TOKENS, windows, batch_size=8).nll == pytest.approx(expected)


def test_progress_ends_at_the_number_of_scored_tokens():
    """Whoever watches sees it grow to the total."""
    seen = []
    windows = Protocol.resolve("gptq", 64, None, 256).windows(len(TOKENS))
    perplexity.measure_windows(
        random_model("llama"), TOKENS, windows, batch_size=2, progress=lambda *row: seen.append(row)
    )
    assert seen[-1] == (63 * len(windows), 63 * len(windows), "tokens")
    assert [row[0] for row in seen] == sorted(row[0] for row in seen)
