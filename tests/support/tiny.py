"""Tiny models made on the spot: one of each family, and one Llama that has learned something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from pytest_tenpak.quantizers.loading import import_transformers

VOCABULARY = 258

#: Sizes by model type, in each family's own words.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2, "intermediate_size": 96},
    "qwen2": {"num_key_value_heads": 2, "intermediate_size": 96},
    "gemma2": {"num_key_value_heads": 2, "intermediate_size": 96, "head_dim": 16},
    "gemma3_text": {"num_key_value_heads": 2, "intermediate_size": 96, "head_dim": 16},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 32},
    "gpt_neox": {"intermediate_size": 96},
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the 256 bytes, with BOS (256) and EOS (257)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate(alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def random_model(family: str, seed: int = 0, **changed: Any) -> Any:
    """An untrained model of one family, in evaluation mode; ``changed`` overrides sizes."""
    common = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes = {**({} if family == "gpt2" else common), **FAMILIES[family], **changed}
    positions = {} if family == "gpt2" else {"max_position_embeddings": 256}
    recipe = CONFIG_MAPPING[family](
        vocab_size=VOCABULARY, bos_token_id=256, eos_token_id=257, pad_token_id=257, **positions, **sizes
    )
    import_transformers()
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(recipe).eval()


def save(model: Any, folder: Path) -> Path:
    """Save a model with the byte tokenizer."""
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def save_trained_llama(folder: Path, steps: int, length: int = 128) -> Path:
    """Train a small Llama on the packaged corpus until it has learned English spelling, and save it.

    Of the corpus, each step takes 16 pieces of ``length`` bytes. On one thread, and whoever else draws random
    numbers here draws the same as without.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            return save(_trained_llama(steps, length), folder)
    finally:
        torch.set_num_threads(threads)


def _trained_llama(steps: int, length: int) -> Any:
    from pytest_tenpak.evaluation.corpus import load_corpus

    text = load_corpus("shakespeare", Path()).documents[0]
    ids = torch.tensor(byte_tokenizer()(text, verbose=False)["input_ids"])
    recipe = CONFIG_MAPPING["llama"](
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=256,
        eos_token_id=257,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    chooser = torch.Generator().manual_seed(0)
    model = AutoModelForCausalLM.from_config(recipe)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        starts = torch.randint(len(ids) - length - 1, (16,), generator=chooser).tolist()
        batch = torch.stack([ids[start : start + length] for start in starts])
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
    return model.eval()
