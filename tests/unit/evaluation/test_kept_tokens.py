"""Token ids in the cache: made once, equal to those that the tokenizer makes, and never believed if damaged."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from tiny import byte_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import BatchEncoding, PreTrainedTokenizerFast

from pytest_tenpak.evaluation.kept_tokens import tokens_of
from pytest_tenpak.evaluation.protocol import Protocol
from pytest_tenpak.evaluation.tokenize import tokenize

DOCUMENTS = [
    "O, she doth teach the torches to burn bright!",
    "It seems – she hangs",
    "upon the cheek of night",
]
JOINED = Protocol.resolve("gptq", 64, None, 64)
ROLLING = Protocol.resolve("rolling", 64, None, 64)


def words(merges: int, **special) -> PreTrainedTokenizerFast:
    """A tokenizer that has learned to join bytes of the documents."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(DOCUMENTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def never():
    raise AssertionError("the text was read again")


@pytest.mark.parametrize("protocol", [JOINED, ROLLING], ids=["joined", "rolling"])
def test_a_text_is_tokenized_once(tmp_path, protocol):
    """The second process gets the same ids, starts and digest, without the text."""
    expected = tokenize(byte_tokenizer(), DOCUMENTS, protocol)
    first = tokens_of(byte_tokenizer(), lambda: DOCUMENTS, protocol, tmp_path)
    again = tokens_of(byte_tokenizer(), never, protocol, tmp_path)
    assert first == again == expected
    assert first.digest == again.digest == expected.digest
    assert {type(number) for number in (*again.ids, *again.starts)} == {int}


def test_every_tokenizer_and_way_of_joining_has_tokens_of_its_own(tmp_path):
    """What a tokenizer is counts, and not what its files are called: vocabulary, merges, special tokens."""
    tokenizers = [
        byte_tokenizer(),
        words(10),
        words(20),
        words(20, eos_token="</s>"),
        words(20, bos_token="<s>", eos_token="</s>"),
    ]
    for tokenizer in tokenizers:
        for protocol in (JOINED, ROLLING) if tokenizer.eos_token else (JOINED,):
            found = tokens_of(tokenizer, lambda: DOCUMENTS, protocol, tmp_path)
            assert found == tokenize(tokenizer, DOCUMENTS, protocol)
    assert len(list(tmp_path.iterdir())) == 8


def test_protocols_that_make_the_same_stream_share_it(tmp_path):
    """Windows are cut later."""
    for name in ("gptq", "sliding", "llamacpp"):
        tokens_of(byte_tokenizer(), lambda: DOCUMENTS, Protocol.resolve(name, 32, None, 64), tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-30],
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(bytes([78, 0, 0, 0]), bytes([79, 0, 0, 0]), 1),
        lambda content: b"not an archive",
    ],
    ids=["empty", "end cut off", "half", "a byte changed", "another file"],
)
def test_damaged_tokens_are_made_anew(tmp_path, damage):
    """And replaced by whole ones."""
    expected = tokens_of(byte_tokenizer(), lambda: DOCUMENTS, JOINED, tmp_path)
    assert 78 in expected.ids
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert file.read_bytes() != whole
    assert tokens_of(byte_tokenizer(), lambda: DOCUMENTS, JOINED, tmp_path) == expected
    assert tokens_of(byte_tokenizer(), never, JOINED, tmp_path) == expected


def test_several_at_once_all_end_well(tmp_path):
    """Each has the tokens, one file is left, and nothing half-written."""
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(
                lambda _: tokens_of(byte_tokenizer(), lambda: DOCUMENTS, JOINED, tmp_path / "new"), range(8)
            )
        )
    assert found == [tokenize(byte_tokenizer(), DOCUMENTS, JOINED)] * 8
    assert [file.suffix for file in (tmp_path / "new").iterdir()] == [".npz"]


def test_where_nothing_can_be_written_the_tokens_are_there_all_the_same(tmp_path):
    """They are made again next time."""
    (tmp_path / "file").write_text("no folder")
    found = tokens_of(byte_tokenizer(), lambda: DOCUMENTS, JOINED, tmp_path / "file")
    assert found == tokenize(byte_tokenizer(), DOCUMENTS, JOINED)


def test_a_slow_tokenizer_is_asked_each_time(tmp_path):
    """Nothing tells it from another one."""

    class Slow:
        is_fast = False

        def __call__(self, text, **_):
            return BatchEncoding({"input_ids": [ord(character) for character in text]})

    for text in ("ab", "cd"):
        assert tokens_of(Slow(), lambda text=text: [text], JOINED, tmp_path).ids == [*map(ord, text)]
    assert list(tmp_path.iterdir()) == []
