"""The corpus as tokens: one stream, and where each document begins in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import byte_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BatchEncoding, PreTrainedTokenizerFast
from transformers.utils import logging

from pytest_tenpak.errors import MeasurementError
from pytest_tenpak.evaluation.protocol import Protocol
from pytest_tenpak.evaluation.tokenize import tokenize

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


def test_no_warning_about_long_texts(caplog):
    """Windows are cut later: a stream may be longer than the model's maximum."""
    logging.enable_propagation()
    tokenizer = byte_tokenizer()
    tokenizer.model_max_length = 8
    tokenize(tokenizer, ["a long text", "another"], JOINED)
    tokenize(tokenizer, ["a long text", "another"], ROLLING)
    logging.disable_propagation()
    assert not caplog.records
