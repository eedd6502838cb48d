"""The same perplexities as the tools that people know: each protocol beside its origin, on the same tokens.

Ours is measured by ``measure_windows``; theirs by lm-eval and llama.cpp themselves where they are
installed, and by plain loops written here from what Hugging Face and llama.cpp document. What differs by
more than 1e-4 is explained below the table.
"""

from __future__ import annotations

import argparse
import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import subject
from tabulate import tabulate

CONTEXT = 512
#: Relative differences above this one need a word.
CLOSE = 1e-4


@dataclass(frozen=True)
class Task:
    """A loaded model, and a text as documents."""

    model: Any
    tokenizer: Any
    documents: tuple[str, ...]
    gguf: Path | None


@dataclass(frozen=True)
class Row:
    """One figure of ours beside theirs; ``note`` says where a difference comes from."""

    what: str
    ours: float
    theirs: float
    note: str = ""

    @property
    def difference(self) -> float:
        """Relative."""
        return self.theirs / self.ours - 1


@cache
def ours(task: Task, name: str, stride: int | None = None) -> tuple[float, float]:
    """(Perplexity, ΣNLL) as a gate would measure it."""
    from pytest_tenpak.evaluation.perplexity import measure_windows
    from pytest_tenpak.evaluation.protocol import Protocol
    from pytest_tenpak.evaluation.tokenize import tokenize

    protocol = Protocol.resolve(name, CONTEXT, stride, CONTEXT)
    stream = tokenize(task.tokenizer, task.documents, protocol)
    windows = protocol.windows(len(stream.ids), starts=stream.starts)
    bos = task.tokenizer.bos_token_id if protocol.bos == "window" else None
    measured = measure_windows(task.model, stream.ids, windows, bos=bos)
    return measured.perplexity, sum(measured.nll)


def joined(task: Task) -> list[int]:
    """The text as one stream of tokens."""
    return task.tokenizer("\n\n".join(task.documents), verbose=False)["input_ids"]


# ---------------------------------------------------------------- Hugging Face's strided recipe


def strided(task: Task, stride: int) -> Iterator[Row]:
    """The recipe of transformers' documentation: labels masked, the model's own loss, weighted means."""
    import torch

    ids = torch.tensor([joined(task)])
    published = exact = 0.0
    counted = scored = reached = 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + CONTEXT, ids.shape[1])
        window = ids[:, begin:end]
        labels = window.clone()
        labels[:, : reached - begin] = -100
        with torch.inference_mode():
            loss = task.model(input_ids=window, labels=labels).loss.item()
        # The loss is a mean over labels that have a token before them. The recipe takes one off in every
        # window; only in the first is there a label to be taken off.
        labelled = int((labels != -100).sum())
        predicted = int((labels[:, 1:] != -100).sum())
        published, counted = published + loss * (labelled - 1), counted + labelled - 1
        exact, scored = exact + loss * predicted, scored + predicted
        reached = end
        if end == ids.shape[1]:
            break
    figure, _ = ours(task, "sliding", stride)
    note = (
        "The recipe weighs each window's mean loss by one token too few in every window but the first; "
        "the row below it is the same loop with the tokens that the mean was taken over."
    )
    what = f"sliding, stride {stride}"
    yield Row(f"{what}: Hugging Face's recipe as documented", figure, math.exp(published / counted), note)
    yield Row(f"{what}: the same, every label counted", figure, math.exp(exact / scored))


# ---------------------------------------------------------------- lm-eval


def rolling(task: Task) -> Iterator[Row]:
    """lm-eval's loglikelihood_rolling, per token and per word as its wikitext task counts words."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    peer = HFLM(pretrained=task.model, tokenizer=task.tokenizer, max_length=CONTEXT)
    requests = [
        Instance(request_type="loglikelihood_rolling", doc={}, arguments=(document,), idx=number)
        for number, document in enumerate(task.documents)
    ]
    theirs = -sum(peer.loglikelihood_rolling(requests))
    tokens = sum(len(peer.tok_encode(document)) for document in task.documents)
    words = sum(len(re.split(r"\s+", document)) for document in task.documents)
    figure, total = ours(task, "rolling")
    yield Row("rolling: lm-eval, per token", figure, math.exp(theirs / tokens))
    yield Row("rolling: lm-eval, per word", math.exp(total / words), math.exp(theirs / words))


# ---------------------------------------------------------------- llama.cpp


def halves(task: Task) -> Iterator[Row]:
    """llama.cpp's protocol in a plain loop: each chunk from BOS, logits of the second half kept."""
    import torch

    def logits(chunk: Sequence[int]) -> Any:
        with torch.inference_mode():
            return task.model(input_ids=torch.tensor([chunk])).logits[0]

    theirs = second_halves(joined(task), logits, task.tokenizer.bos_token_id)
    yield Row("llamacpp: a plain loop", ours(task, "llamacpp")[0], theirs)


def second_halves(ids: Sequence[int], logits: Any, bos: int | None) -> float:
    """Perplexity over the second halves of chunks, in float64."""
    import torch

    total, count = 0.0, 0
    for start in range(0, len(ids) // CONTEXT * CONTEXT, CONTEXT):
        chunk = list(ids[start : start + CONTEXT])
        fed = chunk if bos is None else [bos, *chunk[1:]]
        rows = torch.as_tensor(logits(fed)).double().log_softmax(-1)
        for place in range(CONTEXT // 2, CONTEXT - 1):
            total -= rows[place, chunk[place + 1]].item()
            count += 1
    return math.exp(total / count)


def llama_cpp(task: Task) -> Iterator[Row]:
    """llama.cpp itself, from a float32 file of the same weights."""
    import llama_cpp as library
    import numpy
    import torch

    if task.gguf is None:
        raise FileNotFoundError("only a model given as GGUF can be put before llama.cpp")
    figure, _ = ours(task, "llamacpp")
    bos = task.tokenizer.bos_token_id
    with tempfile.TemporaryDirectory() as folder:
        file = expand(task.gguf, Path(folder))
        cases = {
            "float32 cache": library.GGML_TYPE_F32,
            "float16 cache, its default": library.GGML_TYPE_F16,
        }
        for what, kind in cases.items():
            peer = library.Llama(
                str(file), n_ctx=CONTEXT, n_batch=CONTEXT, n_ubatch=CONTEXT, logits_all=True,
                n_threads=torch.get_num_threads(), n_threads_batch=torch.get_num_threads(),
                type_k=kind, type_v=kind, verbose=False,
            )  # fmt: skip

            def logits(chunk: list[int], peer: Any = peer) -> Any:
                peer.reset()
                peer.eval(chunk)
                return numpy.array(peer.scores[:CONTEXT])

            ids = peer.tokenize("\n\n".join(task.documents).encode(), add_bos=False)
            assert ids == joined(task), "llama.cpp makes other tokens of the text"
            yield Row(f"llamacpp: llama.cpp, {what}", figure, second_halves(ids, logits, bos))
        asked = peer.metadata.get("tokenizer.ggml.add_bos_token", "absent")
        if asked != "true":
            note = (
                f"The file says add_bos_token = {asked}, and llama.cpp's own tool then leaves the first "
                "token of each chunk as it is. Ours puts BOS there whenever the tokenizer has one."
            )
            theirs = second_halves(ids, logits, None)
            yield Row("llamacpp: llama.cpp, no BOS in front", figure, theirs, note)


def expand(gguf: Path, folder: Path) -> Path:
    """A float32 GGUF of what the conversion holds: its weights are float16, so by way of that type."""
    import llama_cpp as library

    source = gguf
    types = {"f16": library.LLAMA_FTYPE_MOSTLY_F16, "f32": library.LLAMA_FTYPE_ALL_F32}
    for name, number in types.items():
        target = folder / f"{name}.gguf"
        wanted = library.llama_model_quantize_default_params()
        wanted.ftype, wanted.allow_requantize = number, True
        failed = library.llama_model_quantize(str(source).encode(), str(target).encode(), wanted)
        if failed:
            raise RuntimeError(f"llama.cpp could not write {target.name} (code {failed})")
        source = target
    return source


# ---------------------------------------------------------------- the table


def cut(text: str, tokenizer: Any, tokens: int) -> tuple[str, ...]:
    """A prefix of the text, in four documents of different lengths, each from a paragraph's beginning."""
    length = len(tokenizer.decode(tokenizer(text, verbose=False)["input_ids"][:tokens]))
    bounds = [0]
    for share in (0.1, 0.35, 0.6, 1.0):
        bounds.append(text.index("\n\n", int(share * length)) + 2)
    return tuple(text[start:stop].strip() for start, stop in pairwise(bounds))


def main() -> None:
    """Print the table, what could not be compared, and the notes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=subject.SMOLLM2)
    parser.add_argument("--gguf", help="the GGUF file of the same weights, where the model is a directory")
    parser.add_argument("--tokens", type=int, default=4096)
    given = parser.parse_args()
    subject.quiet()
    model, tokenizer = subject.load(subject.find(given.model))
    documents = cut(subject.text(), tokenizer, given.tokens)
    task = Task(model, tokenizer, documents, subject.gguf(given.gguf or given.model))
    rows: list[Row] = []
    missing: list[str] = []
    for comparison in (lambda task: strided(task, CONTEXT // 2), rolling, halves, llama_cpp):
        try:
            with subject.silenced():
                rows.extend(comparison(task))
        except (ImportError, FileNotFoundError) as fault:
            missing.append(f"Not compared: {fault}")
    report(rows, len(joined(task)), len(documents))
    print("\n".join(missing))


def report(rows: Sequence[Row], tokens: int, documents: int) -> None:
    """Print the rows and the notes of those that differ."""
    print(f"\n{tokens:,} tokens in {documents} documents, context {CONTEXT}, float32\n")
    table = [[r.what, f"{r.ours:.6f}", f"{r.theirs:.6f}", f"{r.difference:+.1e}"] for r in rows]
    headers = ("protocol: beside", "ours", "theirs", "difference")
    print(tabulate(table, headers, tablefmt="pipe", disable_numparse=True))
    for row in rows:
        if abs(row.difference) > CLOSE:
            print(f"\n{row.what}: {row.note or 'not explained'}")


if __name__ == "__main__":
    main()
