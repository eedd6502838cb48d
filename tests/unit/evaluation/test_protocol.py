"""Protocols: every token is scored at most once, in order, and a prefix is a valid smaller run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tenpak.errors import CorpusError, SpecError
from pytest_tenpak.evaluation.protocol import Protocol

protocols = st.tuples(
    st.sampled_from(["gptq", "llamacpp", "sliding"]), st.integers(2, 40), st.integers(1, 40)
).map(lambda row: Protocol.resolve(row[0], row[1], min(row[2], row[1]) if row[0] == "sliding" else None, 64))


@given(protocols, st.integers(40, 400))
def test_windows_score_each_token_at_most_once_and_in_order(protocol, tokens):
    """No token counts twice, none is scored without one before it, none lies outside its window."""
    last = 0
    for window in protocol.windows(tokens):
        assert window.start < window.first_scored <= window.stop <= tokens
        assert window.stop - window.start <= protocol.context
        assert window.first_scored >= last
        last = window.stop


@given(protocols, st.integers(40, 400), st.integers(1, 400))
def test_a_budget_takes_a_prefix(protocol, tokens, budget):
    """The windows of a smaller run are the first of the larger one, within the budget but never none."""
    whole, part = protocol.windows(tokens), protocol.windows(tokens, budget)
    assert part == whole[: len(part)]
    assert len(part) == 1 or sum(window.scored for window in part) <= budget
    if len(part) < len(whole):
        assert sum(window.scored for window in whole[: len(part) + 1]) > budget


@given(st.integers(2, 40), st.integers(1, 39), st.integers(40, 400))
def test_sliding_windows_score_every_token_but_the_first_of_the_text(context, stride, tokens):
    """With a stride below the context, nothing but the text's first token goes unscored."""
    stride = min(stride, context - 1)
    windows = Protocol.resolve("sliding", context, stride, 64).windows(tokens)
    assert sum(window.scored for window in windows) == tokens - 1


documents = st.lists(st.integers(0, 90), min_size=1, max_size=8).filter(any)


def rolled(lengths, context):
    """lm-eval's windows, worked out apart: (tokens that are run, tokens scored), both as (document, place).

    Place 0 is the prefix token. Targets go side by side; whatever room is left holds what came before.
    """
    for document, length in enumerate(lengths):
        places = [(document, place) for place in range(length + 1)]
        for done in range(0, length, context):
            targets = places[1:][done : done + context]
            upto = places.index(targets[-1])
            yield places[:upto][-context:], targets


@given(documents, st.integers(2, 40))
def test_rolling_windows_score_every_token_of_every_document_once(lengths, context):
    """Each by itself, behind a prefix token that is never scored, and none reaches into another document."""
    starts = [sum(lengths[:number]) + number for number in range(len(lengths))]
    tokens = sum(lengths) + len(lengths)
    windows = Protocol.resolve("rolling", context, None, 64).windows(tokens, starts=starts)
    scored = [place for _, stop, first in windows for place in range(first, stop)]
    assert scored == [place for place in range(tokens) if place not in starts]
    named = [(document, place) for document, length in enumerate(lengths) for place in range(length + 1)]
    runs = [(named[start : stop - 1], named[first:stop]) for start, stop, first in windows]
    assert runs == list(rolled(lengths, context))


@given(documents, st.integers(2, 40), st.integers(1, 400))
def test_a_budget_takes_a_prefix_of_rolling_windows(lengths, context, budget):
    """Also across documents: the first windows of the larger run, at least one."""
    starts = [sum(lengths[:number]) + number for number in range(len(lengths))]
    protocol, tokens = Protocol.resolve("rolling", context, None, 64), sum(lengths) + len(lengths)
    whole, part = protocol.windows(tokens, starts=starts), protocol.windows(tokens, budget, starts)
    assert part == whole[: len(part)]
    assert len(part) == 1 or sum(window.scored for window in part) <= budget


def test_a_rolling_window_runs_the_whole_context():
    """The last one reaches back; it holds one token more than is run, which is only predicted."""
    windows = Protocol.resolve("rolling", 4, None, 64).windows(11, starts=(0, 8))
    assert windows == [(0, 5, 1), (3, 8, 5), (8, 11, 9)]


def test_the_figures_of_the_named_protocols():
    """gptq scores all but the first of 2048; llama.cpp's 512 score 255."""
    assert Protocol.resolve("gptq", None, None, 8192).windows(5000)[1] == (2048, 4096, 2049)
    assert Protocol.resolve("gptq", None, None, 1024).context == 1024
    window = Protocol.resolve("llamacpp", None, None, 8192).windows(512)[0]
    assert window.scored == 255


@pytest.mark.parametrize(
    ("name", "context", "stride", "said"),
    [
        ("gptq", 4096, None, "exceeds the model's context"),
        ("gptq", 64, 32, "has adjacent windows and no stride"),
        ("rolling", 64, 32, "has adjacent windows and no stride"),
        ("sliding", 64, 65, "would leave tokens out"),
    ],
)
def test_what_cannot_be_run_is_refused(name, context, stride, said):
    """A context beyond the model, or a stride that does not belong, is an error before any work."""
    with pytest.raises(SpecError, match=said):
        Protocol.resolve(name, context, stride, 2048)


@pytest.mark.parametrize("name", ["gptq", "llamacpp", "sliding"])
def test_a_corpus_shorter_than_a_window_is_refused(name):
    """No measurement is made of nothing; the error says how much is needed."""
    with pytest.raises(CorpusError, match="shorter than one window") as caught:
        Protocol.resolve(name, 64, None, 2048).windows(63)
    assert "at least 64 tokens" in str(caught.value)


def test_documents_without_a_token_are_refused():
    """Prefix tokens alone are nothing to measure."""
    with pytest.raises(CorpusError, match="shorter than one window"):
        Protocol.resolve("rolling", 64, None, 2048).windows(2, starts=(0, 1))


@pytest.mark.parametrize("stride", [4, 3, 1])
def test_a_last_token_with_nothing_before_it_makes_no_window(stride):
    """Where strides leave a single token at the end, there is nothing to predict it from: no empty window."""
    for tokens in range(4, 20):
        plan = Protocol.resolve("sliding", 4, stride, 4).windows(tokens)
        assert all(window.scored > 0 for window in plan)
    assert Protocol.resolve("sliding", 4, 4, 4).windows(9)[-1].stop == 8
