"""Windows on disk: whole or not there, never run twice, and any prefix of them a valid smaller run."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, random_model
from traces import SIDE_BY_SIDE, TOKENS, letter, run

from pytest_tenpak.evaluation.perplexity import Block
from pytest_tenpak.evaluation.trace import Appender, Plan, Trace
from pytest_tenpak.metrics.intervals import estimate

COUNT = len(SIDE_BY_SIDE)
SUMMED = ("nll", "kld", "disagreement", "squared_dp")


@pytest.fixture(scope="module")
def model():
    return random_model("llama")


@pytest.fixture(scope="module")
def other():
    return random_model("llama", seed=1)


def counted(model):
    """How many windows were run, in a list of one that grows; the comparison of head and model is none."""
    rows = [0]

    def hook(_, args, named, output):
        ids = named["input_ids"]
        rows[0] += ids.shape[0] if ids.shape[1] == SIDE_BY_SIDE[0].stop - 1 else 0

    return rows, model.base_model.register_forward_hook(hook, with_kwargs=True)


def begun(folder, scored, documents=None, kind="exact"):
    """A trace whose plan is made up."""
    trace = Trace(folder)
    trace.begin(Plan("s", list(scored), documents or [0] * len(scored), kind), {"loader": "made up"})
    return trace


def block(rows, **others):
    """A block of made-up NLLs by token, a list for each window; other figures by token likewise."""
    named = {"nll": rows, **others}
    sums = {name: [float(sum(row)) for row in table] for name, table in named.items()}
    flat = {name: torch.tensor([x for row in table for x in row]) for name, table in named.items()}
    return Block({"tokens": [len(row) for row in rows], "lost": [0] * len(rows), **sums}, flat)


# ------------------------------------------------------------ the chain of stretches


def test_stretches_follow_one_another(tmp_path, model):
    """Each begins where the last one stopped; a trace that is opened anew finds them all."""
    trace = run(model, tmp_path, stops=(3, 5))
    for seen in (trace, Trace(tmp_path)):
        assert [(first, stop) for first, stop, _ in seen.blocks] == [(0, 3), (3, 5), (5, COUNT)]
        assert seen.count == COUNT


def test_stretches_that_another_process_added_are_seen(tmp_path):
    """A trace looks again whenever it is asked."""
    ours, theirs = begun(tmp_path, [1] * 9), Trace(tmp_path)
    assert (ours.count, theirs.count) == (0, 0)
    for n in range(1, 4):
        theirs.add(block([[1.0], [2.0]]))
        assert ours.count == 2 * n
    assert ours.windows(0).nll == (1.0, 2.0) * 3


def test_what_lies_beyond_a_gap_does_not_count(tmp_path, model):
    """Until the gap is filled, and then it need not be run again."""
    run(model, tmp_path, stops=(3, 5))
    whole = Trace(tmp_path).windows(0)
    missing = Trace(tmp_path).blocks[1][2].with_suffix(".json")
    text = missing.read_text()
    missing.unlink()
    assert Trace(tmp_path).count == 3
    assert Trace(tmp_path).windows(0) == whole.prefix(3)
    missing.write_text(text)
    assert Trace(tmp_path).windows(0) == whole


@pytest.mark.parametrize("left", ["tokens without sums", "half of the tokens", "half of the sums"])
def test_what_a_killed_run_left_does_not_count(tmp_path, model, left):
    """The next run goes on from the last whole stretch, over whatever lies there, to the same figures."""
    undisturbed = run(model, tmp_path / "whole", stops=(4,))
    folder = tmp_path / "killed"
    trace = run(model, folder, stops=(4,))
    path = trace.blocks[1][2]
    tokens, sums = path.with_suffix(".safetensors"), path.with_suffix(".json")
    if left == "half of the sums":
        sums.rename(folder / f".{sums.name}.x1.tmp")
    elif left == "half of the tokens":
        sums.unlink()
        path.with_suffix(".half").write_bytes(tokens.read_bytes()[:100])
        tokens.unlink()
    else:
        sums.unlink()
    assert Trace(folder).count == 4
    again = run(model, folder)
    assert again.windows(0) == undisturbed.windows(0)
    assert torch.equal(again.read("nll", 0, COUNT), undisturbed.read("nll", 0, COUNT))
    assert not list(folder.glob("*-*.half"))


def test_no_window_is_run_twice(tmp_path, model):
    """Going on runs what is missing, and nothing where nothing is."""
    rows, hook = counted(model)
    try:
        run(model, tmp_path, SIDE_BY_SIDE[:3])
        assert rows == [3]
        run(model, tmp_path, SIDE_BY_SIDE[:7], stops=(5,))
        assert rows == [7]
        run(model, tmp_path, SIDE_BY_SIDE[:7], stops=(2, 4))
        assert rows == [7]
    finally:
        hook.remove()


@pytest.mark.parametrize("keep", ["exact", "top-k"])
def test_a_prefix_is_a_smaller_run(tmp_path, model, other, keep):
    """Bit for bit: sums, figures by token, and what is found beside a reference that is itself longer."""
    small_reference = run(model, tmp_path / "sr", SIDE_BY_SIDE[:4], keep=keep)
    large_reference = run(model, tmp_path / "lr", SIDE_BY_SIDE, keep=keep, stops=(4,))
    small = run(other, tmp_path / "s", SIDE_BY_SIDE[:4], beside=small_reference)
    large = run(other, tmp_path / "l", SIDE_BY_SIDE, beside=large_reference, stops=(4,))
    for one, longer in ((small_reference, large_reference), (small, large)):
        assert longer.windows(0).prefix(4) == one.windows(0)
        assert torch.equal(longer.read("nll", 0, 4), one.read("nll", 0, 4))
        assert longer.summary(longer.windows(0).prefix(4)) == one.summary(one.windows(0).prefix(4))
    assert torch.equal(large.read("kld", 0, 4), small.read("kld", 0, 4))


def test_what_was_begun_stays(tmp_path):
    """A second worker's plan and facts do not replace the first one's; before there are any, there is no plan."""
    assert Trace(tmp_path).plan is None
    assert (Trace(tmp_path).stream, Trace(tmp_path).kind, Trace(tmp_path).facts) == ("", "", {})
    trace = begun(tmp_path, [1, 2])
    trace.begin(Plan("other", [9], [0], "other"), {"loader": "another"})
    assert Trace(tmp_path).plan == Plan("s", [1, 2], [0, 0], "exact")
    assert Trace(tmp_path).facts == {"loader": "made up"}


# ------------------------------------------------------------ budgets and documents


def test_a_budget_is_in_scored_tokens_and_whole_windows(tmp_path):
    """At least one window, and no more than there are."""
    trace = begun(tmp_path, [5, 5, 3, 5])
    trace.add(block([[1.0] * 5, [2.0] * 5, [3.0] * 3]))
    assert [trace.planned(budget) for budget in (0, 1, 5, 9, 10, 13, 99)] == [4, 1, 1, 1, 2, 3, 4]
    assert [trace.tokens(count) for count in (0, 1, 3, 4)] == [0, 5, 13, 18]
    assert trace.windows(10).nll == (5.0, 10.0)
    assert trace.windows(10).tokens == (5, 5)
    assert trace.windows(0).nll == (5.0, 10.0, 9.0)  # as many as are there
    assert trace.windows(0).stream == "s"


def test_nothing_measured_is_no_windows(tmp_path):
    """A plan alone has no figures, and their perplexity is not a number."""
    windows = begun(tmp_path, [5, 5]).windows(0)
    assert (windows.nll, windows.tokens, windows.lost, windows.kld) == ((), (), (), ())
    assert np.isnan(windows.perplexity)


def test_units_are_documents_where_the_planned_windows_have_enough(tmp_path):
    """Ten documents or more within the budget; every look at a prefix has the units of the plan."""
    documents = [0, 0, *range(1, 12)]
    trace = begun(tmp_path, [2] * 13, documents)
    trace.add(block([[1.0, 1.0]] * 6))
    assert trace.windows(0).units == tuple(documents)
    assert trace.windows(2 * 11).units == tuple(documents[:11])
    assert trace.windows(2 * 10).units is None
    assert trace.windows(0).prefix(4).units == tuple(documents[:4])


def test_figures_by_token_are_read_across_stretches(tmp_path, model):
    """Any run of windows, wherever the stretches were cut."""
    whole = run(model, tmp_path / "whole", keep="exact")
    cut = run(model, tmp_path / "cut", keep="exact", stops=(2, 3, 7))
    every = whole.read("nll", 0, COUNT)
    assert every.shape == (sum(window.scored for window in SIDE_BY_SIDE),)
    for first, count in ((0, COUNT), (1, 1), (1, 4), (3, 4), (6, 2)):
        expected = every[63 * first : 63 * (first + count)]
        torch.testing.assert_close(cut.read("nll", first, count), expected, rtol=1e-5, atol=1e-6)
        assert cut.read("states", first, count).shape == (63 * count, 64)


# ------------------------------------------------------------ summaries and lost tokens


def test_sums_are_those_of_the_tokens(tmp_path, model, other):
    """Each window's sum is that of its tokens' figures, for every figure."""
    reference = run(model, tmp_path / "r", keep="exact")
    trace = run(other, tmp_path / "c", beside=reference, stops=(2, 5))
    windows = trace.windows(0)
    for name in SUMMED:
        rows = trace.read(name, 0, COUNT).double().reshape(COUNT, -1)
        assert getattr(windows, name) == pytest.approx(rows.sum(1).tolist(), rel=1e-9)


@pytest.mark.parametrize("count", [1, 4, COUNT])
def test_robust_figures_agree_with_numpy_and_scipy(tmp_path, model, count):
    """Trimmed mean, median, and the share of the worst tokens, over the first windows."""
    from scipy.stats import trim_mean

    trace = run(model, tmp_path, stops=(4,))
    nll = trace.read("nll", 0, count).double().numpy()
    robust, divergence = trace.summary(trace.windows(0).prefix(count))
    assert divergence is None
    assert robust.trimmed_mean == pytest.approx(trim_mean(nll, 0.1))
    assert robust.median == pytest.approx(np.median(nll))
    worst = np.sort(nll)[-max(1, round(len(nll) / 1000)) :]
    assert robust.worst_share == pytest.approx(worst.sum() / nll.sum())


def test_the_worst_thousandth_carries_what_it_carries(tmp_path):
    """Two tokens of 2,000 at 1,000 nats, all others at one."""
    trace = begun(tmp_path, [1000, 1000])
    trace.add(block([[1.0] * 998 + [1000.0, 1000.0], [1.0] * 1000]))
    robust, _ = trace.summary(trace.windows(0).prefix(2))
    assert robust.worst_share == pytest.approx(2000 / 3998)
    assert (robust.median, robust.trimmed_mean) == (1, 1)


def test_divergence_figures_agree_with_numpy(tmp_path, model, other):
    """Mean with its standard error over windows, quantiles over tokens, agreement, root mean square."""
    reference = run(model, tmp_path / "r", keep="exact")
    trace = run(other, tmp_path / "c", beside=reference)
    for count in (5, COUNT):
        _, found = trace.summary(trace.windows(0).prefix(count))
        kld = trace.read("kld", 0, count).double().numpy()
        per_window = kld.reshape(count, -1).mean(1)
        assert found.kind == "exact"
        assert found.mean == pytest.approx(kld.mean())
        assert found.error == pytest.approx(per_window.std(ddof=1) / count**0.5)
        quantiles = np.quantile(kld, [0.5, 0.99, 0.999])
        assert [found.median, found.p99, found.p999] == pytest.approx(quantiles.tolist())
        assert found.maximum == pytest.approx(kld.max())
        assert found.top1 == pytest.approx(1 - trace.read("disagreement", 0, count).double().mean().item())
        rms = trace.read("squared_dp", 0, count).double().mean().item() ** 0.5
        assert found.rms_dp == pytest.approx(rms)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_summary_is_plain_json(tmp_path, model, other, count):
    """Also of so few windows that no error can be told: reports are JSON without infinities."""
    reference = run(model, tmp_path / "r", SIDE_BY_SIDE[:4], keep="exact")
    trace = run(other, tmp_path / "c", SIDE_BY_SIDE[:4], beside=reference)
    robust, divergence = trace.summary(trace.windows(0).prefix(count))
    json.dumps([asdict(robust), asdict(divergence)], allow_nan=False)
    assert (divergence.error is None) == (count < 4)


def test_a_summary_is_computed_once(tmp_path):
    """What it said of so many windows is kept beside them, and holds when there are more."""
    trace = begun(tmp_path, [2] * 4)
    trace.add(block([[1.0, 3.0], [2.0, 2.0]]))
    first = trace.summary(trace.windows(0).prefix(2))
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"")
    trace.add(block([[5.0, 5.0], [6.0, 6.0]]))
    again = Trace(tmp_path)
    assert again.summary(again.windows(0).prefix(2)) == first
    assert first[0].median == 2


def test_documents_are_the_units_of_a_divergences_error(tmp_path):
    """The standard error that is shown rests on the same pieces as the verdict."""
    documents = [n // 2 for n in range(24)]
    kld = [[float(n // 2)] * 3 for n in range(24)]
    zeros = [[0.0] * 3] * 24
    trace = begun(tmp_path, [3] * 24, documents)
    trace.add(block(kld, kld=kld, disagreement=zeros, squared_dp=zeros))
    _, found = trace.summary(trace.windows(0).prefix(24))
    sums = [sum(row) for row in kld]
    assert found.error == pytest.approx(estimate(sums, [3] * 24, units=documents).error)
    assert found.error > 1.2 * estimate(sums, [3] * 24).error


def test_lost_tokens_are_counted_in_their_window(tmp_path, model, other):
    """Window by window, left out of every sum and every summary, and kept in their place by token."""
    reference = run(model, tmp_path / "r", keep="exact")
    old = other.get_output_embeddings()
    head = torch.nn.Linear(old.in_features, old.out_features)
    head.weight.data, head.bias.data = old.weight.data.clone(), torch.zeros(VOCABULARY)
    head.bias.data[letter("b")] = -torch.inf
    other.set_output_embeddings(head)
    try:
        trace = run(other, tmp_path / "c", beside=reference, stops=(4,))
    finally:
        other.set_output_embeddings(old)
    expected = [TOKENS[first:stop].count(letter("b")) for _, stop, first in SIDE_BY_SIDE]
    windows = trace.windows(0)
    assert windows.lost == tuple(expected)
    assert windows.tokens == tuple(63 - lost for lost in expected)
    assert windows.nonfinite == sum(expected) > 0
    rows = trace.read("nll", 0, COUNT).reshape(COUNT, 63)
    assert (~torch.isfinite(rows)).sum(1).tolist() == expected
    kept = [row[torch.isfinite(row)].double().sum().item() for row in rows]
    assert windows.nll == pytest.approx(kept, rel=1e-9)
    robust, _ = trace.summary(trace.windows(0).prefix(COUNT))
    assert robust.median == pytest.approx(np.median(rows[torch.isfinite(rows)].numpy()))
    assert windows.prefix(2).nonfinite == sum(expected[:2])


def test_speed_is_that_of_all_stretches(tmp_path):
    """What another job will take is estimated by it; unknown where none was timed."""
    trace = Trace(tmp_path)
    assert trace.tokens_per_second is None
    trace.add_time(100, 2.0)
    Trace(tmp_path).add_time(300, 2.0)
    assert trace.tokens_per_second == 100


# ------------------------------------------------------------ written beside


@pytest.mark.parametrize("beside", [False, True])
def test_blocks_are_on_disk_in_order_when_the_appender_is_left(tmp_path, beside):
    """Whether they were written one by one or while others were measured."""
    trace = begun(tmp_path, [2] * 6)
    with Appender(trace, beside) as appender:
        for number in range(6):
            assert appender.count == number
            appender.add(block([[number, number]]))
    assert trace.count == 6
    assert trace.windows(0).nll == (0, 2, 4, 6, 8, 10)


@pytest.mark.parametrize("beside", [False, True])
def test_a_block_that_cannot_be_written_is_an_error(tmp_path, beside):
    """At the latest when the appender is left: no verdict is given on what is not there."""
    (tmp_path / "trace").mkdir()
    trace = begun(tmp_path / "trace", [2] * 2)
    (tmp_path / "trace").rename(tmp_path / "gone")
    with pytest.raises(Exception, match="No such file"), Appender(trace, beside) as appender:
        appender.add(block([[1, 1]]))


def test_an_error_while_measuring_is_not_hidden_by_one_of_writing(tmp_path):
    """The first one is what a user has to see."""
    (tmp_path / "trace").mkdir()
    trace = begun(tmp_path / "trace", [2] * 2)
    (tmp_path / "trace").rename(tmp_path / "gone")

    def fail():
        with Appender(trace, beside=True) as appender:
            appender.add(block([[1, 1]]))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
