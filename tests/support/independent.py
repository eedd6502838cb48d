"""The reference's NLLs by a plain transformers loop: ``python independent.py MODEL WINDOWS CONTEXT``."""

from __future__ import annotations

import json
import sys

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from pytest_tenpak.evaluation.corpus import load_corpus
from pytest_tenpak.models.locate import installed_file


def plain_transformers_loop(
    model_reference: str, windows: int, context: int
) -> tuple[list[float], list[int]]:
    """Straight from the GGUF file, by the definition: none of the package's code measures.

    The model under test is the file's weights in float16, run in float32; the rounding to float16 alone
    moves this perplexity by 1.2e-4.
    """
    file = installed_file(model_reference)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    model = model.half().float().eval()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    ids = tokenizer(load_corpus("shakespeare", file.parent).documents[0], return_tensors="pt").input_ids
    nll, tokens = [], []
    for start in range(0, windows * context, context):
        window = ids[:, start : start + context]
        with torch.no_grad():
            logits = model(window).logits[0, :-1].double()
        # In float64: over so large a vocabulary the model's own loss is low by 1e-5 nats per token.
        nll.append(cross_entropy(logits, window[0, 1:], reduction="sum").item())
        tokens.append(context - 1)
    return nll, tokens


if __name__ == "__main__":
    print(json.dumps(plain_transformers_loop(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
