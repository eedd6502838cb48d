"""What a large corpus costs: the same gate on the packaged text and on a gigabyte, each from an empty cache.

    python benchmarks/corpora.py [--megabytes 1000] [--tokens 8192] [--rounds 3]

The model has the tokenizer of the demo's and next to no weights, so that what a text costs is seen. The large
text is the packaged one over and over, its paragraphs in another order each time. Runs alternate, so that a
machine whose speed drifts slows both alike. Prints medians: seconds on the clock, those of processors in all
processes, which do not depend on what else the machine does, and the peak of resident memory of pytest and of
its largest worker. Then the seconds of the overlap check of texts of 100 MB, which a whole corpus and a
calibration text of that size would take.
"""

from __future__ import annotations

import argparse
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import subject

from pytest_tenpak.evaluation.corpus import CALIBRATION, DEFAULT, Corpus, load_corpus
from pytest_tenpak.evaluation.overlap import overlap

#: The model has learned nothing, which a gate would refuse.
TEST = "import pytest\n\n@pytest.mark.quantize(method='fp16', max_reference_nll=0)\ndef test_gate(): pass\n"
INI = """
[pytest]
tenpak_model = {model}
tenpak_corpus = {corpus}
tenpak_context = 512
tenpak_max_tokens = {tokens}
"""
_POLL_SECONDS = 0.05
_OVERLAPPING = 100


class Cost(NamedTuple):
    """Seconds of a run, on the clock and of processors, and peak bytes of pytest and its largest worker."""

    seconds: float
    processor: float
    pytest: int
    worker: int


def varied(text: str, megabytes: int, seed: int = 0) -> Iterator[str]:
    """Yield a text of so many million characters: the given one, its paragraphs in ever another order."""
    draw, paragraphs, left = random.Random(seed), text.split("\n\n"), megabytes * 1_000_000
    while left > 0:
        piece = "\n\n".join(paragraphs) + "\n\n"
        yield piece[:left]
        left -= len(piece)
        draw.shuffle(paragraphs)


def make_model(folder: Path) -> Path:
    """Save a Llama of two narrow layers with the demo model's tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(subject.find(subject.SMOLLM2))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def gate(folder: Path, model: Path, corpus: str, tokens: int) -> Cost:
    """Run the gate in a new project with an empty cache."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        project = Path(name)
        (project / "pytest.ini").write_text(INI.format(model=model, corpus=corpus, tokens=tokens))
        (project / "test_gate.py").write_text(TEST)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "--tenpak-cache-dir=cache"]
        started, before = time.perf_counter(), processor_seconds()
        ran = subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        peaks = watch(ran)
        seconds = time.perf_counter() - started
        if ran.returncode:
            raise SystemExit(ran.stdout.read().decode() if ran.stdout else "the gate failed")
        own = peaks.pop(ran.pid)
        return Cost(seconds, processor_seconds() - before, own, max(peaks.values()))


def processor_seconds() -> float:
    """Return the processor seconds of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def watch(ran: subprocess.Popen[bytes]) -> dict[int, int]:
    """Return the peak of resident memory (bytes) of a process and of each that it started, until it ends."""
    peaks: dict[int, int] = {}
    root = psutil.Process(ran.pid)
    while ran.poll() is None:
        with suppress(psutil.Error):
            for process in (root, *root.children(recursive=True)):
                peaks[process.pid] = max(peaks.get(process.pid, 0), peak(process.pid))
        time.sleep(_POLL_SECONDS)
    return peaks


def peak(pid: int) -> int:
    """Return the peak of a process's resident memory in bytes; 0 where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        return 1024 * int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0])
    except (OSError, LookupError):
        return 0


def compare(megabytes: int, tokens: int, rounds: int) -> None:
    """Print what the gate costs on both corpora."""
    with tempfile.TemporaryDirectory() as name:
        folder, large = Path(name), Path(name, "large.txt")
        model = make_model(folder / "model")
        with large.open("w", encoding="utf-8") as stream:
            stream.writelines(varied(subject.text(), megabytes))
        corpora = {"packaged": DEFAULT, f"{megabytes:,} MB": str(large)}
        costs: dict[str, list[Cost]] = {corpus: [] for corpus in corpora}
        for _ in range(rounds):
            for corpus, reference in corpora.items():
                costs[corpus].append(gate(folder, model, reference, tokens))
    print(f"{rounds} rounds, {tokens:,} tokens:\n")
    print("| corpus | seconds | processor seconds | range | pytest, MiB | worker, MiB |")
    print("|---|---|---|---|---|---|")
    for corpus, rows in costs.items():
        seconds, used, own, worker = (list(column) for column in zip(*rows, strict=True))
        print(
            f"| {corpus} | {statistics.median(seconds):.1f} "
            f"| {statistics.median(used):.1f} | {min(used):.1f} … {max(used):.1f} "
            f"| {statistics.median(own) / 2**20:,.0f} | {statistics.median(worker) / 2**20:,.0f} |"
        )


def compare_overlaps() -> None:
    """Print what it costs to look for copies, in small texts and in large ones."""
    calibration, corpus = (load_corpus(name, Path()) for name in (CALIBRATION, DEFAULT))
    large = [
        Corpus("large", ["".join(varied(one.documents[0], _OVERLAPPING, seed))])
        for seed, one in enumerate((calibration, corpus))
    ]
    print("\n| calibration text and corpus | overlap | seconds |\n|---|---|---|")
    for title, texts in (
        ("packaged, packaged", (calibration, corpus)),
        (f"packaged, {_OVERLAPPING} MB", (calibration, large[1])),
        (f"{_OVERLAPPING} MB, {_OVERLAPPING} MB", large),
    ):
        started = time.perf_counter()
        share = overlap(*texts)
        print(f"| {title} | {share:.1%} | {time.perf_counter() - started:.2f} |")


def main() -> None:
    """Compare both."""
    subject.quiet()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    compare(given.megabytes, given.tokens, given.rounds)
    compare_overlaps()


if __name__ == "__main__":
    main()
