"""What the tests of the archived backends run in the interpreter that has them."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from pytest_tenpak.evaluation.corpus import load_corpus
from pytest_tenpak.progress import ignore
from pytest_tenpak.quantizers.base import Job
from pytest_tenpak.quantizers.loading import load_pretrained
from pytest_tenpak.spec import QuantizeSpec

TEXT = load_corpus("shakespeare", Path()).documents[0]
#: Stretches of the end of the text that perplexity is taken over; calibration has the beginning.
WINDOWS, CONTEXT = 24, 128

OPTIONS = {
    "bits": 4,
    "group_size": 128,
    "kernel": "auto",
    "samples": 8,
    "sample_length": 128,
    "seed": 0,
    # auto-gptq
    "sym": True,
    "desc_act": False,
    "damp_percent": 0.01,
    # autoawq
    "zero_point": True,
    "version": "gemm",
    "clip": False,
}


def job(model: str, out: str, progress: Any = ignore, **options: Any) -> Job:
    """A job on CPU, with the defaults above."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    spec = QuantizeSpec("archived", {**OPTIONS, **options})
    return Job(spec, Path(model), folder, "cpu", "float32", [TEXT[:20_000]], progress)


def windows(model: str) -> torch.Tensor:
    ids = AutoTokenizer.from_pretrained(model)(TEXT[-WINDOWS * CONTEXT :], verbose=False)["input_ids"]
    return torch.tensor(ids[: WINDOWS * CONTEXT]).reshape(WINDOWS, CONTEXT)


def perplexity(loaded: Any, model: str) -> float:
    ids = windows(model)
    with torch.no_grad():
        return math.exp(loaded(input_ids=ids, labels=ids).loss)


def logits(loaded: Any, model: str) -> torch.Tensor:
    with torch.no_grad():
        return loaded(input_ids=windows(model)[:4]).logits


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def digests(folder: str) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(Path(folder).iterdir())}


def reference(model: str) -> Any:
    return load_pretrained(Path(model), "cpu", "float32")


def round_to_nearest(model: str, bits: int, group_size: int) -> Any:
    """Symmetric groups, each with its own scale, in every linear layer but the head."""
    rounded = reference(model)
    for name, layer in rounded.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            groups = layer.weight.data.reshape(-1, group_size)
            scales = groups.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 0.5)
            codes = (groups / scales).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            layer.weight.data = (codes * scales).reshape(layer.weight.shape)
    return rounded


def symptom(attempt: Callable[[], Any]) -> str:
    """What is raised, on one line, or nothing."""
    try:
        attempt()
    except Exception as fault:  # whatever it is
        return f"{type(fault).__name__}: {fault}"
    return ""


def without_tensor(checkpoint: str, name: str) -> None:
    """Remove a tensor from a checkpoint's one file."""
    file = Path(checkpoint) / "model.safetensors"
    tensors = load_file(file)
    del tensors[name]
    save_file(tensors, file, {"format": "pt"})


def answer(**figures: Any) -> None:
    """Hand figures to the test: the last line of standard output."""
    print("\n" + json.dumps({**figures, "seconds": round(time.process_time(), 1)}))
