"""Protocols: every token is scored at most once, in order, and a prefix is a valid smaller run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tenpak.errors import CorpusError, SpecError
from pytest_tenpak.protocol import Protocol

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


def test_the_figures_of_the_named_protocols():
    """gptq scores all but the first of 2048; llama.cpp's 512 score 255."""
    assert Protocol.resolve("gptq", None, None, 8192).windows(5000)[1] == (2048, 4096, 2049)
    assert Protocol.resolve("gptq", None, None, 1024).context == 1024
    window = Protocol.resolve("llamacpp", None, None, 8192).windows(512)[0]
    assert window.scored == 255


@pytest.mark.parametrize(
    ("name", "context", "stride", "said"),
    [
        ("gptq", 4096, None, "longer than the model takes"),
        ("gptq", 64, 32, "takes no stride"),
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
