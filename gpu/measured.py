"""What the measuring scripts have in common: models, passages of the packaged corpus, and their windows."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Shapes by name, with the bytes that weights and passes take, on the safe side; the first that fits.
SHAPES: dict[str, tuple[int, dict[str, int]]] = {
    "Llama of 8B shapes, random weights": (
        30 << 30,
        {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256},
    ),
    "Llama of 1B shapes, random weights": (
        8 << 30,
        {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "vocab_size": 128256},
    ),
    "tiny Llama, random weights": (
        0,
        {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "vocab_size": 512},
    ),
}


@dataclass(frozen=True)
class Text:
    """A tokenizer, and passages that come back as the same ``context`` tokens when tokenized alone."""

    tokenizer: Any
    passages: Sequence[str]
    context: int


def arguments(description: str) -> argparse.Namespace:
    """Read the command line that the measuring scripts share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("model", type=Path, help="a directory with a tokenizer, and weights for the spread")
    return parser.parse_args()


def random_llama(device: str, quick: bool) -> tuple[str, Any]:
    """Return the largest of SHAPES that fits, by name, in bfloat16 and made on the device."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    free = 1 if quick else torch.cuda.mem_get_info(device)[0]
    name, sizes = next((name, sizes) for name, (needed, sizes) in SHAPES.items() if needed <= free)
    heads = {"num_attention_heads": sizes["hidden_size"] // (32 if quick else 128)}
    heads["num_key_value_heads"] = max(1, heads["num_attention_heads"] // 4)
    torch.manual_seed(0)
    own = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, max_position_embeddings=4096))
    finally:
        torch.set_default_dtype(own)
    return name, model.eval()


def read_text(folder: Path, context: int, count: int) -> Text:
    """Find ``count`` passages of the packaged corpus."""
    from pytest_tenpak.evaluation.corpus import load_corpus
    from pytest_tenpak.quantizers.loading import load_tokenizer

    tokenizer = load_tokenizer(folder)
    ids = tokenizer(load_corpus("shakespeare", Path()).documents[0], verbose=False)["input_ids"]
    found: list[str] = []
    for start in range(1, len(ids) - context, context):
        wanted = ids[start : start + context]
        passage = tokenizer.decode(wanted, clean_up_tokenization_spaces=False)
        if tokenizer(passage, verbose=False, add_special_tokens=False)["input_ids"] == wanted:
            found.append(passage)
        if len(found) == count:
            return Text(tokenizer, found, context)
    raise SystemExit(f"only {len(found)} passages of {context} tokens in the corpus")


def windows_of(text: Text) -> tuple[list[int], list[Any]]:
    """Return the token stream of the passages and its windows, each of ``context`` scored tokens."""
    from pytest_tenpak.evaluation.protocol import Protocol
    from pytest_tenpak.evaluation.tokenize import tokenize

    protocol = Protocol.resolve("rolling", text.context, None, text.context)
    stream = tokenize(text.tokenizer, text.passages, protocol)
    return stream.ids, protocol.windows(len(stream.ids), starts=stream.starts)
