"""The corpus as tokens: one stream, and where each document begins in it."""

import json
from bisect import bisect_right
from functools import cache
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import byte_tokenizer, random_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import BatchEncoding, PreTrainedTokenizerFast
from transformers.utils import logging

from pytest_tenpak.errors import CorpusError, MeasurementError
from pytest_tenpak.evaluation import corpus
from pytest_tenpak.evaluation.corpus import DEFAULT, load_corpus
from pytest_tenpak.evaluation.perplexity import measure_windows
from pytest_tenpak.evaluation.protocol import Protocol, within
from pytest_tenpak.evaluation.tokenize import Stream, plan_windows, tokenize

JOINED = Protocol.resolve("gptq", 64, None, 64)
ROLLING = Protocol.resolve("rolling", 64, None, 64)
BYTES = byte_tokenizer()


def word_tokenizer(**special):
    """Words apart at white space, which it drops; unknown ones are 0."""
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "one": 3, "two": 4, "three": 5}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if "bos_token" in special:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=6))
def test_a_byte_is_a_token_and_documents_begin_where_their_bytes_do(documents):
    """The stream is that of the joined text, whatever the characters."""
    stream = tokenize(BYTES, documents, JOINED)
    assert stream.ids == BYTES("\n\n".join(documents))["input_ids"]
    sizes = [len(document.encode()) + 2 for document in documents]
    assert stream.starts == tuple(sum(sizes[:number]) for number in range(len(sizes)))


def test_the_tokenizers_own_bos_belongs_to_the_first_document():
    """Special tokens stand for no characters, at either end."""
    stream = tokenize(word_tokenizer(bos_token="<s>"), ["one two", "three", "two one"], JOINED)
    assert stream.ids == [1, 3, 4, 5, 4, 3, 2]
    assert stream.starts == (0, 3, 4)


def test_a_document_without_tokens_has_no_place():
    """Starts grow strictly, at the end of the text too."""
    stream = tokenize(word_tokenizer(), ["\n", "one", " ", "two", "\n"], JOINED)
    assert stream == type(stream)([3, 4], (0, 1))


def test_a_slow_tokenizer_has_one_start():
    """It cannot say which characters a token stands for."""

    class Slow:
        bos_token_id, eos_token_id = None, 9

        def __call__(self, text, **_):
            return BatchEncoding({"input_ids": [ord(character) for character in text]})

    assert tokenize(Slow(), ["ab", "c"], JOINED).starts == (0,)
    assert tokenize(Slow(), ["ab", "c"], ROLLING).ids == [9, 97, 98, 9, 99]


@pytest.mark.parametrize(("special", "prefix"), [({"eos_token": "</s>"}, 2), ({"bos_token": "<s>"}, 1)])
def test_rolling_puts_a_prefix_in_front_of_each_document(special, prefix):
    """BOS, or EOS where there is none; what the tokenizer adds of its own stays, as in lm-eval."""
    tokenizer = word_tokenizer(**special)
    stream = tokenize(tokenizer, ["one two", "three"], ROLLING)
    own = [tokenizer(document)["input_ids"] for document in ("one two", "three")]
    assert stream.ids == [prefix, *own[0], prefix, *own[1]]
    assert stream.starts == (0, 1 + len(own[0]))


def test_rolling_without_any_prefix_token_is_refused():
    """The error names what to do."""
    with pytest.raises(MeasurementError, match="in front of each document") as caught:
        tokenize(word_tokenizer(), ["one"], ROLLING)
    assert "tokenizer_config.json" in str(caught.value)


def test_no_warning_about_long_texts():
    """Windows are cut later: a stream may be longer than the model's maximum."""
    told = SimpleQueue()
    handler = QueueHandler(told)
    logging.add_handler(handler)
    try:
        tokenizer = byte_tokenizer()
        tokenizer.model_max_length = 8
        tokenize(tokenizer, ["a long text", "another"], JOINED)
        tokenize(tokenizer, ["a long text", "another"], ROLLING)
        assert told.empty()
        tokenizer("a long text")
        assert not told.empty()
    finally:
        logging.remove_handler(handler)


# ------------------------------------------------------------ windows of a part

TEXT = load_corpus(DEFAULT, Path()).documents[0][:45_000]


@cache
def learned_tokenizer():
    """Byte pairs learned on the text, as most models' tokenizers are."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@pytest.fixture(params=["text", "documents", "one document of many"])
def large(request, tmp_path, monkeypatch):
    """Reads a text of 45,000 characters for a budget, where more than 20,000 count as large."""
    monkeypatch.setattr(corpus, "WHOLE", 20_000)
    monkeypatch.setattr(corpus, "_LEAST", 4096)
    file = tmp_path / ("a.txt" if request.param == "text" else "a.jsonl")
    size = 1500 if request.param == "documents" else 40_000
    rows = [json.dumps({"text": TEXT[start : start + size]}) for start in range(0, len(TEXT), size)]
    file.write_text(TEXT if request.param == "text" else "\n".join(rows))
    return lambda budget: load_corpus(file.name, tmp_path, budget)


def scored(stream, part, protocol, budget):
    """The tokens of each window that a budget allows, where they stand, and the document of each."""
    windows = plan_windows(stream, protocol, budget, part)
    plan = windows[: within([window.scored for window in windows], budget)]
    documents = [bisect_right(stream.starts, window.first_scored) for window in plan]
    return plan, [stream.ids[window.start : window.stop] for window in plan], documents


@pytest.mark.parametrize("make", [byte_tokenizer, learned_tokenizer])
@pytest.mark.parametrize("name", ["gptq", "llamacpp", "sliding", "rolling"])
def test_a_budget_scores_the_same_of_the_part_as_of_the_whole(large, make, name):
    """Window by window, token by token and document by document, so every figure is the same."""
    tokenizer, protocol = make(), Protocol.resolve(name, 64, None, 64)
    whole = large(0)
    assert not whole.part
    everything = tokenize(tokenizer, whole.documents, protocol)
    for budget in (40, 200, 256):
        part = large(budget)
        assert part.part
        stream = tokenize(tokenizer, part.documents, protocol)
        ours = scored(stream, part.part, protocol, budget)
        assert ours == scored(everything, whole.part, protocol, budget)
        assert len(stream.ids) < len(everything.ids) / 2


def test_the_figures_of_a_part_are_those_of_the_whole(large):
    """To the last digit, of a real model."""
    protocol, model = Protocol.resolve("gptq", 64, None, 64), random_model("llama")
    figures = []
    for found in (large(200), large(0)):
        stream = tokenize(byte_tokenizer(), found.documents, protocol)
        plan, _, _ = scored(stream, found.part, protocol, 200)
        measured = measure_windows(model, stream.ids, plan)
        figures.append((measured.nll, measured.tokens, measured.lost))
    assert figures[0] == figures[1]


@pytest.mark.parametrize(
    ("tokens", "context", "said"),
    [
        (300, 64, "300 tokens in the first 9,999 characters"),
        (400, 128, "400"),
        (300, 100, "300"),
        (20, 64, "20"),
    ],
    ids=["the cut is near", "the last window", "no window but one", "no window"],
)
def test_a_part_with_too_few_tokens_for_its_budget_is_refused(tokens, context, said):
    """Never a smaller budget in silence, nor tokens that are others in the whole text."""
    stream = Stream(list(range(tokens)), (0,))
    protocol = Protocol.resolve("gptq", context, None, context)
    with pytest.raises(CorpusError, match="too few tokens") as caught:
        plan_windows(stream, protocol, 380, 9999)
    assert said in caught.value.given
    assert "--tenpak-max-tokens" in caught.value.remedy


def test_a_whole_text_may_end_before_its_budget():
    """There is nothing else to measure."""
    stream = Stream(list(range(300)), (0,))
    assert len(plan_windows(stream, JOINED, 10_000, 0)) == 4
