"""How much memory it takes to measure a model that need not fit: layers in memory, and read from disk.

Makes a Llama of 2 GiB with random weights in shards of 256 MiB, and measures it as a gate measures its
reference, in the worker process that a run starts. Prints peaks of that process beyond what it held before,
with another model measured: all that is resident, pages of mapped files included (the kernel's own peak), and
what the process holds itself, without them (looked at every two milliseconds). Weights that are computed with
as they are stored are pages of the checkpoint's files, which the kernel takes back when it needs them.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import subject
from tabulate import tabulate

from pytest_tenpak.evaluation.protocol import Protocol
from pytest_tenpak.evaluation.trace import Trace
from pytest_tenpak.execution.jobs import MeasureJob
from pytest_tenpak.execution.process import Bounds, Worker
from pytest_tenpak.metrics.intervals import DEFAULT_RULE
from pytest_tenpak.progress import ignore
from pytest_tenpak.quantizers.placement import DISK, NONE, Placement
from pytest_tenpak.spec import CHECKPOINT, QuantizeSpec
from pytest_tenpak.store.store import Store

MIB = 1 << 20
SHARD = 256 * MIB
#: Sizes of TinyLlama-1.1B: 2.05 GiB in bfloat16, 84 MiB a layer.
SIZES = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
}
CONTEXT, TOKENS = 512, 1022
#: A limit below what is kept free for activations: every layer is read from disk.
STREAMED = Placement(("cpu",), offload=DISK, memory=1 << 30)
POLL_SECONDS = 0.002


def make(folder: Path, shard: int, **changed: int) -> Path:
    """A Llama with random weights in bfloat16, in shards, with a tokenizer of bytes."""
    import torch
    from tiny import byte_tokenizer
    from transformers import AutoModelForCausalLM, LlamaConfig

    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        recipe = LlamaConfig(**{**SIZES, **changed}, bos_token_id=256, eos_token_id=257)
        model = AutoModelForCausalLM.from_config(recipe, dtype=torch.bfloat16)
        model.save_pretrained(folder, max_shard_size=shard)
        byte_tokenizer().save_pretrained(folder)
    return folder


def job(model: Path, store: Store, dtype: str, placement: Placement) -> MeasureJob:
    """The job that measures a reference."""
    named = {"model": str(model), "dtype": dtype, "placement": placement.offload}
    return MeasureJob(
        directory=model,
        quantizer=None,
        spec=QuantizeSpec(CHECKPOINT, {}),
        device="cpu",
        dtype=dtype,
        placement=placement,
        layers=(),
        rounding=None,
        documents=(subject.text()[: 2 * TOKENS],),
        protocol=Protocol.resolve("gptq", CONTEXT, None, 2048),
        batch_size=1,
        threads=0,
        trace=store.growing("traces", named),
        reference=None,
        is_reference=True,
        divergence="exact",
        budget=TOKENS,
        limit=None,
        criteria=(),
        rule=DEFAULT_RULE,
        whole=True,
    )


@dataclass
class Peaks:
    """Bytes of a process: resident with mapped files, and what it holds itself."""

    resident: int
    own: int

    @classmethod
    def now(cls, pid: int) -> Peaks:
        """What they are."""
        found = _status(pid)
        return cls(found["VmRSS"], found["RssAnon"])


def _status(pid: int) -> dict[str, int]:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    rows = re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)
    return {name: 1024 * int(number) for name, number in rows}


@contextmanager
def watched(pid: int) -> Iterator[Peaks]:
    """The peaks of a process beyond what it holds now, known when the context ends."""
    before, peaks, done = Peaks.now(pid), Peaks(0, 0), threading.Event()
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")  # the kernel's peak starts anew

    def look() -> None:
        while not done.is_set():
            peaks.own = max(peaks.own, Peaks.now(pid).own - before.own)
            time.sleep(POLL_SECONDS)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()
        peaks.resident = _status(pid)["VmHWM"] - before.resident


def measure(model: Path, warm: Path, place: Path, dtype: str, placement: Placement) -> dict[str, Any]:
    """Peaks and seconds of measuring a model in a process that has measured a tiny one before."""
    store = Store(place / f"cache-{dtype}-{placement.offload}")
    worker = Worker(store, stays=True)
    try:
        worker.do(job(warm, store, dtype, Placement()), ignore, Bounds())
        assert worker._process is not None
        began = time.monotonic()
        with watched(worker._process.pid) as peaks:
            order = job(model, store, dtype, placement)
            worker.do(order, ignore, Bounds())
        seconds = time.monotonic() - began
    finally:
        worker.end()
    trace = Trace(order.trace)
    nll = trace.windows(TOKENS).nll
    return {"peaks": peaks, "seconds": seconds, "nll": nll, "facts": trace.facts["device"]}


def main() -> None:
    """Print a row for each type and place of the layers, and the bound that the issue names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the model is made, or found again")
    parser.add_argument("--dtypes", default="bfloat16,float32")
    arguments = parser.parse_args()
    subject.quiet()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        model = make((arguments.folder or place) / "model", SHARD)
        tiny = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        warm = make(place / "tiny", SHARD, **tiny, vocab_size=512)
        shards = [path.stat().st_size for path in model.glob("*.safetensors")]
        print(
            f"{sum(shards) / 2**30:.2f} GiB of bfloat16 in {len(shards)} shards, the largest "
            f"{max(shards) / MIB:.0f} MiB; {TOKENS:,} tokens in windows of {CONTEXT}, one at a time\n"
        )
        rows = []
        for dtype in arguments.dtypes.split(","):
            found = [measure(model, warm, place, dtype, one) for one in (Placement(("cpu",)), STREAMED)]
            assert found[0]["nll"] == found[1]["nll"], "other figures"
            for offload, one in zip((NONE, DISK), found, strict=True):
                peaks = one["peaks"]
                where = one["facts"].get("placement", "cpu layers 0-21")
                row = [dtype, offload, where, peaks.resident / MIB, peaks.own / MIB, one["seconds"]]
                rows.append(row)
        heads = ("type", "offload", "layers", "resident, MiB", "own, MiB", "seconds")
        print(tabulate(rows, heads, tablefmt="github", floatfmt=".0f"))
        print(f"\n1.25 × the largest shard: {1.25 * max(shards) / MIB:.0f} MiB")


if __name__ == "__main__":
    main()
