"""Blame of planted faults: which modules are named, with shares and ratio, and what it costs, as Markdown.

Each fault is planted into the model before it is quantized, or copied, and the checkpoint is gated against
the healthy model. Cost is the wall time of the blame job over that of measuring the checkpoint on the whole
budget, each with the start of its process and the loading of its models.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from faults import FORMATS, case_of, make_model, quantize, run_of
from safetensors.torch import load_file, save_file

from pytest_tenpak.gate.outcome import Outcome
from pytest_tenpak.gate.pipeline import evaluate
from pytest_tenpak.progress import ignore

Tensors = dict[str, Any]
_GROUP, _LEVELS = 32, 7
_SHOWN = 3


# ---------------------------------------------------------------- faults


def layer_scales(number: int, factor: float = 1.05) -> Callable[[Tensors], None]:
    """All linear layers of one decoder layer are too large."""

    def plant(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            if f".layers.{number}." in name and name.endswith("proj.weight"):
                tensor.mul_(factor)

    return plant


def column(number: int, chosen: int | None = None) -> Callable[[Tensors], None]:
    """One input of a down_proj is zero: the chosen one, or that with the largest weights."""

    def plant(tensors: Tensors) -> None:
        weights = tensors[f"model.layers.{number}.mlp.down_proj.weight"]
        weights[:, weights.float().norm(dim=0).argmax() if chosen is None else chosen] = 0

    return plant


def expert(layer: int, number: int) -> Callable[[Tensors], None]:
    """One expert adds nothing."""

    def plant(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            if f".layers.{layer}." in name and f".experts.{number}.down_proj" in name:
                tensor.zero_()

    return plant


def nothing(tensors: Tensors) -> None:
    """The healthy checkpoint."""


def rounded(tensors: Tensors) -> None:
    """Round all matrices of decoder layers to 4 bits in groups, and store what that gives."""
    for name, tensor in tensors.items():
        if ".layers." in name and tensor.dim() > 1 and not name.endswith("gate.weight"):
            groups = tensor.view(*tensor.shape[:-1], -1, _GROUP)
            scales = groups.abs().amax(-1, keepdim=True) / _LEVELS
            groups.copy_((groups / scales).round() * scales)


@dataclass(frozen=True)
class Trial:
    """A fault in a checkpoint: of ``model``, quantized by ``method`` ("rounded": in place)."""

    model: str
    method: str
    fault: str
    plant: Callable[[Tensors], None]


#: The columns are those that add most to their layer's output: others can hardly be told from none.
TRIALS = (
    Trial("smollm2", "unquantized", "layer 14 × 1.05", layer_scales(14)),
    Trial("smollm2", "unquantized", "layer 8, down_proj, column 412", column(8, 412)),
    Trial("smollm2", "int8", "layer 14 × 1.05", layer_scales(14)),
    Trial("smollm2", "int8", "layer 8, down_proj, column 412", column(8, 412)),
    Trial("smollm2", "nf4", "none", nothing),
    Trial("gemma", "unquantized", "layer 9 × 1.05", layer_scales(9)),
    Trial("gemma", "unquantized", "layer 5, down_proj, largest column", column(5)),
    Trial("trained", "int8", "layer 1 × 1.05", layer_scales(1)),
    Trial("moe", "rounded", "none", nothing),
    Trial("moe", "rounded", "layer 1, expert 3 zeroed", expert(1, 3)),
)


# ---------------------------------------------------------------- models and checkpoints


def train_moe(folder: Path, steps: int = 300) -> Path:
    """Train a small mixture of experts on the packaged text: 2 layers of 8 experts, 2 for each token."""
    from tiny import VOCABULARY, byte_tokenizer, save
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from pytest_tenpak.evaluation.corpus import load_corpus

    ids = torch.tensor(byte_tokenizer()(load_corpus("shakespeare", Path()).documents[0])["input_ids"])
    sizes = {"hidden_size": 128, "head_dim": 32, "moe_intermediate_size": 96, "intermediate_size": 256}
    counts = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": True}
    recipe = CONFIG_MAPPING["qwen3_moe"](
        vocab_size=VOCABULARY, max_position_embeddings=256, **sizes, **counts, **experts
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(recipe)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        starts = torch.randint(len(ids) - 129, (16,)).tolist()
        batch = torch.stack([ids[start : start + 128] for start in starts])
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
    return save(model.eval(), folder)


def find_model(name: str, place: Path, gemma: Path | None) -> Path:
    """The healthy model, made once."""
    folder = place / name
    if folder.is_dir():
        return folder
    if name == "gemma":
        if gemma is None:
            raise SystemExit("name the directory of gemma-3-270m by --gemma: its licence allows no copy here")
        return gemma
    return train_moe(folder) if name == "moe" else make_model(name, place)


def make_checkpoint(trial: Trial, model: Path, place: Path) -> Path:
    """Plant the fault into a copy of the model, and quantize that."""
    faulty, checkpoint = place / "faulty", place / "checkpoint"
    for folder in (faulty, checkpoint):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(model, faulty, ignore=shutil.ignore_patterns("tenpak-manifest.json"))
    file = faulty / "model.safetensors"
    tensors = load_file(file)
    if trial.method == "rounded":
        rounded(tensors)
    trial.plant(tensors)
    save_file(tensors, file, {"format": "pt"})
    FORMATS.setdefault("int8", {})
    quantize(faulty, "unquantized" if trial.method == "rounded" else trial.method, checkpoint)
    return checkpoint


# ---------------------------------------------------------------- the table


@dataclass
class Clock:
    """Wall seconds of each job, by what its progress display says."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def show(self, title: str) -> Iterator[Any]:
        """Time one job."""
        began = time.monotonic()
        yield ignore
        self.seconds[title] = time.monotonic() - began


def row(trial: Trial, outcome: Outcome, clock: Clock) -> str:
    """One line of the table."""
    blame = outcome.blame
    if blame is None or not blame.modules:
        raise SystemExit(f"{trial}: {blame.note if blame else outcome.problem}")
    modules = [
        f"{name.removeprefix('model.')} {share:.1%}" for name, share in list(blame.shares.items())[:_SHOWN]
    ]
    layers = [f"{number} {share:.1%}" for number, share in list(blame.layer_shares.items())[:2]]
    named = [f"layer {number}" for number in blame.culprit_layers()]
    named += [name.removeprefix("model.") for name in blame.culprits()]
    whole, spent = (
        clock.seconds[t] for t in ("measuring the checkpoint", "looking for the modules to blame")
    )
    cells = [
        f"{trial.model}, {trial.method}",
        trial.fault,
        ", ".join(named) or "none",
        ", ".join(layers),
        ", ".join(modules),
        f"{blame.layer_additivity:.2f}, {blame.additivity:.2f}",
        f"{len(blame.modules):,} × {blame.tokens:,}",
        f"{spent:.1f} s / {whole:.1f} s = {spent / whole:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print a row for each fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=["smollm2", "trained", "moe"])
    parser.add_argument("--trials", nargs="*", type=int, default=range(len(TRIALS)), help="rows, from 0")
    parser.add_argument("--gemma", type=Path, help="directory of gemma-3-270m, for --models gemma")
    parser.add_argument("--tokens", type=int, default=6120, help="budget of scored tokens")
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    print("| checkpoint | planted | to blame | layers | modules | ratios | parts × tokens | cost |")
    print("|---|---|---|---|---|---|---|---|")
    for name in given.models:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            for number, trial in enumerate(TRIALS):
                if trial.model == name and number in given.trials:
                    print(row(trial, *gate(trial, place, given)), flush=True)


def gate(trial: Trial, place: Path, given: argparse.Namespace) -> tuple[Outcome, Clock]:
    """Gate one checkpoint, and time its jobs."""
    clock = Clock()
    model = find_model(trial.model, place, given.gemma)
    checkpoint = make_checkpoint(trial, model, place)
    run = replace(run_of(place, "off"), blame=True, show_progress=clock.show)
    case = replace(case_of(model, checkpoint, "blame", run, given.tokens), context=256)
    case = replace(case, limits=replace(case.limits, max_rtn_factor=0))
    return evaluate(case, run, lambda: None), clock


if __name__ == "__main__":
    main()
