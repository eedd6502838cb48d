"""How much memory the evaluator takes beyond the weights, where a vocabulary is large."""

import ctypes
from pathlib import Path

import pytest
import torch
from tiny import byte_tokenizer, random_model

from pytest_tenpak.evaluation import perplexity
from pytest_tenpak.evaluation.divergence import EXACT, Comparer, ReferenceRecorder
from pytest_tenpak.evaluation.perplexity import Block, Scorer
from pytest_tenpak.evaluation.protocol import Protocol
from pytest_tenpak.evaluation.trace import Plan, Trace
from pytest_tenpak.execution.memory import own_bytes

VOCABULARY, CHUNK = 1 << 17, 64 << 20
TOKENS = byte_tokenizer()("O, she doth teach the torches to burn bright! " * 30)["input_ids"]
WINDOWS = Protocol.resolve("gptq", 256, None, 256).windows(len(TOKENS))[:2]
_PEAK = Path("/proc/self/clear_refs")


def peak(scorer: Scorer, observer) -> tuple[int, Block]:
    """Bytes beyond what is resident, and no observer's memory; and what was scored."""
    ctypes.CDLL(None).malloc_trim(0)  # what other tests left to the allocator would be taken again unseen
    _PEAK.write_text("5", encoding="ascii")  # the kernel's high-water mark begins anew
    before = own_bytes("VmRSS")
    scored = scorer.score(WINDOWS, observer=observer)
    return own_bytes("VmHWM") - before, scored


@pytest.mark.skipif(not _PEAK.exists(), reason="only Linux lets the peak of a process begin anew")
def test_the_logits_of_a_large_vocabulary_are_never_held_whole(tmp_path, monkeypatch):
    """131,072 logits a token: 255 MiB for two windows at once, twice as much with a reference's beside them.

    Without a reference a chunk is held, here of 64 MiB, with one two halves (chunks of fewest rows), and three
    quarters of one for all the rest; beside them the reference's head, where it is another one.
    """
    monkeypatch.setitem(perplexity._CHUNK_BYTES, "cpu", CHUNK)
    monkeypatch.setattr(perplexity, "_FEWEST_ROWS", CHUNK // 2 // (4 * VOCABULARY))
    model = random_model("llama", tie_word_embeddings=False)
    head = torch.nn.Linear(64, VOCABULARY, bias=False)
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    model.set_output_embeddings(head)
    scorer = Scorer(model, TOKENS)
    assert scorer.head_is_all
    whole = 4 * VOCABULARY * sum(window.scored for window in WINDOWS)
    trace = Trace(tmp_path)
    trace.begin(Plan("", [window.scored for window in WINDOWS], [0] * len(WINDOWS), EXACT), {})
    trace.save_head(head)
    alone, recorded = peak(scorer, ReferenceRecorder(EXACT))
    trace.add(recorded)
    same, _ = peak(scorer, Comparer(trace, scorer.device, head))
    another, _ = peak(scorer, Comparer(trace, scorer.device, None))
    assert max(alone, same, another - head.weight.nbytes) < 1.75 * CHUNK < whole / 2
