"""What :mod:`wall` runs beside the gates, each in a process of its own: two peers' loops, and bare passes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import subject

#: As the demo's settings have them: 32 windows.
CONTEXT, TOKENS = 256, 8192
#: Windows in a batch: 1024 tokens.
BATCH = 4


def _configs() -> Mapping[str, Any]:
    """The unquantized model, and both methods as they are applied while a model is loaded."""
    import torch
    from transformers import BitsAndBytesConfig

    return {
        "unquantized": None,
        "nf4": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        ),
        "int8": BitsAndBytesConfig(load_in_8bit=True),
    }


def _model(directory: Path, config: Any = None) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    named = {} if config is None else {"quantization_config": config}
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **named).eval()


def _windows(directory: Path) -> Any:
    """The beginning of the corpus as rows of CONTEXT tokens."""
    import torch
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(directory)(subject.text(), verbose=False)["input_ids"]
    return torch.tensor(ids[:TOKENS]).view(-1, CONTEXT)


def transformers_loop(directory: Path, *names: str) -> None:
    """The loop that model cards have: the model's own loss over each window; of all configs or some."""
    import torch

    windows = _windows(directory)
    for name in names or _configs():
        model = _model(directory, _configs()[name])
        with torch.inference_mode():
            losses = [float(model(row, labels=row, use_cache=False).loss) for row in windows.split(BATCH)]
        print(name, torch.tensor(losses).mean().exp().item())


def lm_eval(directory: Path, *names: str) -> None:
    """lm-eval's rolling log-likelihood of the same tokens; of all configs or some."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    request = Instance("loglikelihood_rolling", {}, (tokenizer.decode(_windows(directory).flatten()),), 0)
    for name in names or _configs():
        model = _model(directory, _configs()[name])
        peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH, max_length=CONTEXT)
        print(name, peer.loglikelihood_rolling([request]))


def bare(directory: Path, counts: Mapping[str, int]) -> None:
    """Print, as JSON, seconds of loading each model once, and of so many forward passes of each."""
    import torch

    windows = _windows(directory)
    loads = passes = 0.0
    for name, count in counts.items():
        began = time.perf_counter()
        model = _model(directory if name in ("reference", "floor") else Path(name))
        loads += 0 if name == "floor" else time.perf_counter() - began
        with torch.inference_mode():
            model(windows[:1, :8], use_cache=False)
            began = time.perf_counter()
            for rows in windows[:count].split(1 if _is_int8(model) else BATCH):
                model(rows, use_cache=False)
            passes += time.perf_counter() - began
    print(json.dumps({"loads": loads, "passes": passes}))


def _is_int8(model: Any) -> bool:
    """Whether figures depend on the batch, so that the gate runs one window at a time."""
    return bool(getattr(model, "is_loaded_in_8bit", False))


SCRIPTS: Mapping[str, Callable[..., None]] = {"transformers": transformers_loop, "lm-eval": lm_eval}

if __name__ == "__main__":
    subject.quiet()
    what, where, *rest = sys.argv[1:]
    if what == "bare":
        bare(Path(where), json.loads(rest[0]))
    else:
        SCRIPTS[what](Path(where), *rest)
