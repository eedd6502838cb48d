"""KL divergence from the reference, against the definition: every token, the whole vocabulary, in float64."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, random_model
from traces import SIDE_BY_SIDE, TOKENS, letter, run

from pytest_tenpak.errors import MeasurementError
from pytest_tenpak.evaluation import divergence, perplexity, predictions
from pytest_tenpak.evaluation.divergence import EXACT, LOWER_BOUND, kind_of
from pytest_tenpak.evaluation.perplexity import Scorer
from pytest_tenpak.evaluation.protocol import Protocol
from pytest_tenpak.evaluation.trace import Plan, Trace

#: A letter that the text has none of, and the two special tokens: no target is one of them.
NEVER = [letter("Z"), 256, 257]


def sharp(family: str, seed: int, factor: float = 20.0):
    """A random model whose predictions are far from even: two of them diverge by whole nats."""
    model = random_model(family, seed, tie_word_embeddings=False)
    model.get_output_embeddings().weight.data *= factor
    return model


def with_bias(model, bias: torch.Tensor):
    """The model with a bias at its output head."""
    old = model.get_output_embeddings()
    head = torch.nn.Linear(old.in_features, old.out_features)
    head.weight.data, head.bias.data = old.weight.data.clone(), bias
    model.set_output_embeddings(head)
    return model.eval()


def predicted(model, windows, bos=None) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each window (log-probabilities, targets) of its scored positions, by the model's own logits."""
    found = []
    for start, stop, first in windows:
        ids = list(TOKENS[start:stop])
        if bos is not None:
            ids[0] = bos
        with torch.no_grad():
            logits = model(torch.tensor([ids[:-1]])).logits[0].numpy().astype(np.float64)
        logits = logits[first - start - 1 :]
        peak = logits.max(axis=1, keepdims=True)
        log_p = logits - peak - np.log(np.exp(logits - peak).sum(axis=1, keepdims=True))
        found.append((log_p, np.array(TOKENS[first:stop])))
    return found


def by_definition(reference, checkpoint, windows, bos=None) -> dict[str, list[float]]:
    """KLD, disagreement and squared differences, summed over each window."""
    sums: dict[str, list[float]] = {"kld": [], "disagreement": [], "squared_dp": []}
    pairs = zip(predicted(reference, windows, bos), predicted(checkpoint, windows, bos), strict=True)
    for (log_p, targets), (log_q, _) in pairs:
        p, q = np.exp(log_p), np.exp(log_q)
        with np.errstate(invalid="ignore"):
            terms = np.where(p > 0, p * (log_p - log_q), 0.0)
        rows = np.arange(len(targets))
        sums["kld"].append(terms.sum())
        sums["disagreement"].append((log_p.argmax(1) != log_q.argmax(1)).sum())
        sums["squared_dp"].append(((p[rows, targets] - q[rows, targets]) ** 2).sum())
    return sums


def compared(tmp_path, reference, checkpoint, windows=SIDE_BY_SIDE, mode="exact", bos=None, **how):
    """(what the reference kept, what the checkpoint's run found) for all windows."""
    kept = run(reference, tmp_path / "reference", windows, keep=mode, bos=bos)
    trace = run(checkpoint, tmp_path / "checkpoint", windows, beside=kept, bos=bos, **how)
    return kept, trace


def agree(windows, expected) -> None:
    assert windows.kld == pytest.approx(expected["kld"], rel=1e-4)
    assert windows.disagreement == pytest.approx(expected["disagreement"])
    assert windows.squared_dp == pytest.approx(expected["squared_dp"], rel=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_exact_figures_agree_with_the_definition(tmp_path, family):
    """KLD over the whole vocabulary, disagreement, and squared differences of the true token's probability."""
    reference, checkpoint = sharp(family, 0), sharp(family, 1)
    kept, trace = compared(tmp_path, reference, checkpoint)
    assert kept.kind == trace.kind == EXACT
    expected = by_definition(reference, checkpoint, SIDE_BY_SIDE)
    assert sum(expected["kld"]) > 0.05 * len(TOKENS)  # no figure of rounding errors
    agree(trace.windows(0), expected)
    _, summed = trace.summary(trace.windows(0).prefix(len(SIDE_BY_SIDE)))
    tokens = sum(window.scored for window in SIDE_BY_SIDE)
    assert summed.kind == "exact"
    assert summed.mean == pytest.approx(sum(expected["kld"]) / tokens, rel=1e-4)
    assert summed.top1 == pytest.approx(1 - sum(expected["disagreement"]) / tokens)
    assert summed.rms_dp == pytest.approx((sum(expected["squared_dp"]) / tokens) ** 0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("protocol", "bos"),
    [(("llamacpp", 64, None), 256), (("sliding", 64, 24), None), (("rolling", 48, None), None)],
    ids=["llamacpp", "sliding", "rolling"],
)
def test_windows_stretches_and_batches_do_not_show(tmp_path, protocol, bos):
    """Every protocol, whatever the batch, and where the checkpoint stopped and went on elsewhere."""
    windows = Protocol.resolve(*protocol, 256).windows(len(TOKENS), starts=(0, 100, 130))
    reference, checkpoint = sharp("llama", 2), sharp("llama", 3)
    kept = run(reference, tmp_path / "r", windows, keep="exact", stops=(5, 7), bos=bos)
    expected = by_definition(reference, checkpoint, windows, bos)
    for size in (1, 3, 0):
        folder = tmp_path / str(size)
        trace = run(checkpoint, folder, windows, beside=kept, stops=(1, 6), batch_size=size, bos=bos)
        assert [stop for _, stop, _ in kept.blocks] != [stop for _, stop, _ in trace.blocks]
        agree(trace.windows(0), expected)


def test_chunks_of_positions_do_not_show(tmp_path, monkeypatch):
    """However few positions a chunk holds, each is compared with its own counterpart."""
    reference, checkpoint = sharp("llama", 0), sharp("llama", 1)
    monkeypatch.setitem(perplexity._CHUNK_BYTES, "cpu", 4 * VOCABULARY * 7)
    _, trace = compared(tmp_path, reference, checkpoint, batch_size=3)
    agree(trace.windows(0), by_definition(reference, checkpoint, SIDE_BY_SIDE))


@pytest.mark.parametrize("factor", [1.0, 20.0, 60.0])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox"])
def test_top_tokens_bound_the_divergence_from_below(tmp_path, family, factor):
    """Never above the exact one, token by token, and named for what it is; agreement is exact all the same."""
    reference, checkpoint = sharp(family, 4, factor), sharp(family, 5, factor)
    kept, bound = compared(tmp_path, reference, checkpoint, mode="top-k")
    _, exact = compared(tmp_path / "exact", reference, checkpoint)
    assert kept.kind == bound.kind == LOWER_BOUND
    assert bound.summary(bound.windows(0).prefix(8))[1].kind == "top-k lower bound"
    count = len(SIDE_BY_SIDE)
    less, whole = (trace.read("kld", 0, count).numpy() for trace in (bound, exact))
    assert (less <= whole + 1e-6 + 1e-5 * whole).all()
    assert 0 < less.sum() < whole.sum()
    assert bound.windows(0).disagreement == exact.windows(0).disagreement
    assert bound.windows(0).squared_dp == exact.windows(0).squared_dp


def test_top_tokens_agree_with_their_own_definition(tmp_path):
    """The reference's most likely tokens one by one, and all others as one class."""
    reference, checkpoint = sharp("llama", 4), sharp("llama", 5)
    _, trace = compared(tmp_path, reference, checkpoint, mode="top-k")
    pairs = zip(predicted(reference, SIDE_BY_SIDE), predicted(checkpoint, SIDE_BY_SIDE), strict=True)
    expected = []
    for (log_p, _), (log_q, _) in pairs:
        top = np.argsort(-log_p, axis=1)[:, : divergence.TOP_K]
        p, q = (np.exp(np.take_along_axis(row, top, axis=1)) for row in (log_p, log_q))
        rest, other = 1 - p.sum(1), 1 - q.sum(1)
        expected.append(((p * np.log(p / q)).sum(1) + rest * np.log(rest / other)).sum())
    assert trace.windows(0).kld == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("top_k", [VOCABULARY, 2 * VOCABULARY])
def test_a_top_of_all_tokens_is_exact(tmp_path, monkeypatch, top_k):
    """Where the list holds the whole vocabulary nothing is lost."""
    monkeypatch.setattr(divergence, "TOP_K", top_k)
    reference, checkpoint = sharp("llama", 6), sharp("llama", 7)
    _, trace = compared(tmp_path, reference, checkpoint, mode="top-k")
    agree(trace.windows(0), by_definition(reference, checkpoint, SIDE_BY_SIDE))


def test_longer_lists_bound_more_closely(tmp_path, monkeypatch):
    """Splitting the class of all others can only add divergence."""
    reference, checkpoint = sharp("gpt2", 8), sharp("gpt2", 9)
    sums = []
    for top_k in (1, 4, 16, 64, VOCABULARY):
        monkeypatch.setattr(divergence, "TOP_K", top_k)
        _, trace = compared(tmp_path / str(top_k), reference, checkpoint, mode="top-k")
        sums.append(sum(trace.windows(0).kld))
    assert all(less < more for less, more in pairwise(sums))


@pytest.mark.parametrize("mode", ["exact", "top-k"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_model_does_not_diverge_from_itself(tmp_path, family, mode):
    """KLD 0, agreement 100 %, no probability moved: exactly in the same stretches, nearly in others."""
    model = sharp(family, 0)
    kept, trace = compared(tmp_path, model, model, mode=mode)
    _, summed = trace.summary(trace.windows(0).prefix(len(SIDE_BY_SIDE)))
    assert (summed.mean, summed.maximum, summed.top1, summed.rms_dp) == (0, 0, 1, 0)
    elsewhere = run(model, tmp_path / "elsewhere", beside=kept, stops=(3,), batch_size=1)
    _, summed = elsewhere.summary(elsewhere.windows(0).prefix(len(SIDE_BY_SIDE)))
    assert summed.mean == pytest.approx(0, abs=1e-6)
    assert summed.top1 == 1
    assert summed.rms_dp == pytest.approx(0, abs=1e-6)


def test_soft_caps_leave_only_the_bound(tmp_path):
    """gemma2's logits are more than its head's product: ``auto`` takes its top tokens, from its own logits."""
    reference, checkpoint = sharp("gemma2", 0, 400), sharp("gemma2", 1, 400)
    kept, trace = compared(tmp_path, reference, checkpoint, mode="auto")
    assert kept.kind == LOWER_BOUND
    assert not (kept.folder / "head.safetensors").exists()
    expected = by_definition(reference, checkpoint, SIDE_BY_SIDE)
    windows = trace.windows(0)
    assert all(less < whole for less, whole in zip(windows.kld, expected["kld"], strict=True))
    assert sum(windows.kld) > 0.5 * sum(expected["kld"])
    assert windows.disagreement == pytest.approx(expected["disagreement"])
    assert windows.squared_dp == pytest.approx(expected["squared_dp"], rel=1e-4)


def test_exactness_that_cannot_be_had_is_refused():
    """The error says why, what is accepted, and what to do."""
    scorer = Scorer(sharp("gemma2", 0, 400), TOKENS)
    with pytest.raises(MeasurementError, match="cannot be computed") as caught:
        kind_of(scorer, "exact")
    assert "soft caps" in str(caught.value)
    assert "--tenpak-divergence=auto" in str(caught.value)


def test_a_large_head_is_only_kept_where_it_is_asked_for(monkeypatch):
    """``auto`` keeps no gigabytes beside the reference; ``exact`` does, ``top-k`` never keeps a head."""
    scorer = Scorer(sharp("llama", 0), TOKENS)
    assert [kind_of(scorer, mode) for mode in divergence.MODES] == [EXACT, EXACT, LOWER_BOUND]
    monkeypatch.setattr(divergence, "_HEAD_BYTES", 4 * 64 * VOCABULARY - 1)
    assert [kind_of(scorer, mode) for mode in divergence.MODES] == [LOWER_BOUND, EXACT, LOWER_BOUND]


def masked(*tokens: int) -> torch.Tensor:
    """A bias that rules some tokens out."""
    bias = torch.linspace(-1, 1, VOCABULARY)
    bias[list(tokens)] = -torch.inf
    return bias


@pytest.mark.parametrize("mode", ["exact", "top-k"])
def test_tokens_that_both_rule_out_do_not_count(tmp_path, mode):
    """Logits of −inf, as padded vocabularies have, are 0 · ln 0; biases of heads are kept too."""
    reference, checkpoint = (with_bias(sharp("llama", seed), masked(*NEVER)) for seed in (0, 1))
    _, trace = compared(tmp_path, reference, checkpoint, mode=mode)
    windows = trace.windows(0)
    expected = by_definition(reference, checkpoint, SIDE_BY_SIDE)
    assert windows.nonfinite == 0
    if mode == "exact":
        agree(windows, expected)
    else:
        assert all(0 < less < whole for less, whole in zip(windows.kld, expected["kld"], strict=True))


@pytest.mark.parametrize("mode", ["exact", "top-k"])
def test_what_only_the_reference_rules_out_costs_what_the_definition_says(tmp_path, mode, monkeypatch):
    """A class of probability 0 in the reference adds nothing of its own."""
    monkeypatch.setattr(divergence, "TOP_K", VOCABULARY)
    reference, checkpoint = (
        with_bias(sharp("llama", 0), masked(*NEVER)),
        with_bias(sharp("llama", 1), masked()),
    )
    _, trace = compared(tmp_path, reference, checkpoint, mode=mode)
    agree(trace.windows(0), by_definition(reference, checkpoint, SIDE_BY_SIDE))


@pytest.mark.parametrize("mode", ["exact", "top-k"])
def test_what_only_the_checkpoint_rules_out_is_dear_but_a_number(tmp_path, mode, monkeypatch):
    """Infinite by definition: thousands of nats times the reference's probability, neither NaN nor lost."""
    monkeypatch.setattr(divergence, "TOP_K", VOCABULARY)
    reference, checkpoint = (
        with_bias(sharp("llama", 0), masked()),
        with_bias(sharp("llama", 1), masked(*NEVER)),
    )
    _, trace = compared(tmp_path, reference, checkpoint, mode=mode)
    windows = trace.windows(0)
    assert windows.nonfinite == 0
    probabilities = [np.exp(log_p[:, NEVER]).sum() for log_p, _ in predicted(reference, SIDE_BY_SIDE)]
    assert all(kld > 5000 * p for kld, p in zip(windows.kld, probabilities, strict=True))
    assert all(np.isfinite(windows.kld))


def test_a_target_that_is_ruled_out_is_lost_not_averaged(tmp_path):
    """Its NLL is infinite: it is counted as lost and left out of every sum, divergences included."""
    reference, checkpoint = (
        with_bias(sharp("llama", 0), masked()),
        with_bias(sharp("llama", 1), masked(letter("b"))),
    )
    _, trace = compared(tmp_path, reference, checkpoint)
    windows = trace.windows(0)
    targets = [TOKENS[first:stop] for _, stop, first in SIDE_BY_SIDE]
    assert windows.lost == tuple(row.count(letter("b")) for row in targets)
    assert windows.nonfinite > 0
    assert windows.tokens == tuple(len(row) - row.count(letter("b")) for row in targets)
    assert all(np.isfinite([*windows.kld, *windows.nll, *windows.squared_dp]))


#: What a CPU computes in pieces, and what a GPU computes at once, without asking for a value.
WAYS = [predictions._divergence_in_pieces, predictions._divergence_at_once]


def logits_of(seed: int, *nothing: int) -> torch.Tensor:
    """Random logits of 2 × 25 positions, some tokens ruled out."""
    logits = 6 * torch.randn(2, 25, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    logits[..., list(nothing)] = -torch.inf
    return logits


@pytest.mark.parametrize("theirs", [(), (3, 4)], ids=["all", "reference rules out"])
@pytest.mark.parametrize("ours", [(), (3,)], ids=["all", "checkpoint rules out"])
def test_what_a_gpu_computes_is_what_a_cpu_does(theirs, ours):
    """To float32's last digits where nothing is ruled out, and where that is the same; else as dear, to 1e-3."""
    (kld, agrees), (other_kld, other_agrees) = (
        way(logits_of(0, *theirs), (logits_of(0) + logits_of(1, *ours)).log_softmax(-1)) for way in WAYS
    )
    assert torch.equal(agrees, other_agrees)
    assert 0 < int(agrees.sum()) < agrees.numel()
    assert torch.allclose(kld, other_kld, rtol=1e-3 if theirs or ours else 2e-6)
    assert torch.isfinite(other_kld).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_log_probabilities_of_a_gpu_are_float32(dtype):
    """Whatever the type of the logits: the softmax's sum is not rounded to 16 bits."""
    logits = logits_of(0).to(dtype)
    targets = torch.arange(50).view(2, 25) % VOCABULARY
    ways = [
        predictions._score_in_place(logits.float(), targets, True),
        predictions._score_at_once(logits, targets, True),
    ]
    for in_place, at_once in zip(*ways, strict=True):
        assert at_once.dtype == torch.float32
        assert torch.allclose(at_once, in_place, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_number_does_not_become_one(value, way):
    """A reference whose logits overflowed at a position has no divergence there."""
    theirs = logits_of(0)
    theirs[0, 7, 11] = value
    kld, _ = way(theirs, logits_of(1).log_softmax(-1))
    assert not torch.isfinite(kld[0, 7])
    assert torch.isfinite(kld[0, 8:]).all()
    assert torch.isfinite(kld[1]).all()


def head_of(weight: torch.Tensor) -> torch.nn.Linear:
    """An output head without bias."""
    head = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    head.weight.data = weight
    return head


def comparer_of(folder, weight: torch.Tensor, own=None) -> divergence.Comparer:
    """What compares with a reference that has this head."""
    trace = Trace(folder)
    trace.begin(Plan("", [], [], EXACT), {})
    trace.save_head(head_of(weight))
    return divergence.Comparer(trace, torch.device("cpu"), own)


@pytest.mark.parametrize(
    ("vocabulary", "windows"), [(1031, 1), (1031, 2), (1031, 5), (49_153, 1), (49_153, 5), (100_003, 2)]
)
def test_pieces_have_the_figures_of_the_whole_chunk(tmp_path, monkeypatch, vocabulary, windows):
    """Bit for bit, by one thread and by two, also where rows do not end where the processor's words do."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(windows, 11, 8, generator=generator)
    weight = torch.randn(vocabulary, 8, generator=generator)
    ours = states @ weight.T + torch.randn(windows, 11, vocabulary, generator=generator)
    targets = torch.randint(vocabulary, (windows, 11), generator=generator)
    comparer = comparer_of(tmp_path, weight)

    def figures(size):
        monkeypatch.setattr(predictions, "_PIECE_BYTES", size)
        nll, predicted = predictions.score(ours.clone(), targets, True)
        alone, _ = predictions.score(ours.clone(), targets, False)
        return nll, alone, *predictions.divergence(comparer._logits(states), predicted)

    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            whole, pieces = figures(1 << 30), figures(4 * vocabulary)
            assert all(torch.equal(*pair) for pair in zip(whole, pieces, strict=True))
            assert torch.equal(whole[0], whole[1])
    finally:
        torch.set_num_threads(threads)


def test_pieces_are_small_and_hold_more_than_one_row():
    """What is made beside logits stays in the cache; and threads share no row, which would change its sum."""
    for shape in ((1, 255, 49_152), (4, 85, 49_152), (1, 64, 262_144), (1, 7, 600_000), (2, 1, 600_000)):
        pieces = predictions.in_pieces(torch.empty(shape, device="cpu"))
        rows = [piece.shape[0] * piece.shape[1] for piece in pieces]
        assert sum(rows) == shape[0] * shape[1]
        assert rows[0] == max(rows)
        assert min(rows) > 1
        assert pieces[0].nbytes <= 8 << 20


def test_a_head_that_is_the_references_own_is_held_once(tmp_path):
    """Where no method touched it; another one, or one that is quantized, is not taken for the reference's."""
    weight = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    same, other, double = head_of(weight.clone()), head_of(weight.clone()), head_of(weight.double())
    other.weight.data[39, 7] += 1e-6
    assert comparer_of(tmp_path, weight, same)._head[0].data_ptr() == same.weight.data_ptr()
    for head in (other, double, torch.nn.Identity(), None):
        comparer = comparer_of(tmp_path, weight, head)
        assert torch.equal(comparer._head[0], weight)
        assert comparer._head[0].data_ptr() != getattr(head, "weight", weight).data_ptr()


def test_the_likeliest_token_is_the_first_of_equal_ones_and_what_is_no_number():
    """As torch's own search has it, whatever the strides."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(6, (3, 40, 50), generator=generator).float()
    rows[0, 5, 7] = rows[1, 6, 49] = torch.nan
    rows[2, 7] = -torch.inf
    for view in (rows, rows[:, 3:9], rows[1:, ::2]):
        assert torch.equal(predictions._likeliest(view), view.argmax(-1))
