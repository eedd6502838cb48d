"""Speed, memory and waits of the evaluator, beside a bare forward pass and other tools, on one random model.

All score the same passages: a prefix token, then ``context`` tokens that are all scored. Rounds are
interleaved in an order that rotates, and ratios are taken within a round. Memory is the peak of what torch
allocates beyond the weights. Waits are the calls at which the host waited for the GPU, as torch reports them.
What the time goes into is torch's profile of one more run of each method.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measured import Text, arguments, random_llama, read_text, windows_of

ROUNDS = 5
#: How many operations of each method are listed.
BUSIEST = 10


@dataclass(frozen=True)
class Task:
    """A loaded model with what it is to score; ``folder`` is for what a reference's run records."""

    model: Any
    text: Text
    ids: list[int]
    windows: list[Any]
    folder: Path

    @property
    def on_gpu(self) -> bool:
        """Whether the model is on a GPU."""
        return bool(self.model.device.type == "cuda")

    @property
    def batch(self) -> int:
        """Windows in a batch, as many as the evaluator takes."""
        return int(self.scorer()._windows_at_once(self.windows))

    def scorer(self) -> Any:
        """The evaluator."""
        from pytest_tenpak.evaluation.perplexity import Scorer

        return Scorer(self.model, self.ids)

    def rows(self) -> Any:
        """The tokens of each window, (windows, context + 1), on the device."""
        import torch

        return torch.tensor([self.ids[w.start : w.stop] for w in self.windows], device=self.model.device)


Run = Callable[[], float]


def bare(task: Task) -> Run:
    """The limit: the model called on the tokens, all logits, nothing made of them."""
    import torch

    batches = task.rows()[:, :-1].split(task.batch)

    def run() -> float:
        with torch.inference_mode():
            for batch in batches:
                task.model(input_ids=batch, use_cache=False)
        return math.nan

    return run


def evaluator(task: Task, chunk: int = 0) -> Run:
    """The gate's evaluator, with logits of ``chunk`` bytes at a time where that is given."""
    from pytest_tenpak.evaluation import perplexity

    scorer, own = task.scorer(), dict(perplexity._CHUNK_BYTES)
    sizes = dict.fromkeys(own, chunk) if chunk else own

    def run() -> float:
        perplexity._CHUNK_BYTES.update(sizes)
        try:
            return _perplexity(scorer.score(task.windows))
        finally:
            perplexity._CHUNK_BYTES.update(own)

    return run


def recording(task: Task) -> Run:
    """The same, recording what an exact divergence from this model needs, on disk."""
    from pytest_tenpak.evaluation.divergence import EXACT, ReferenceRecorder

    scorer = task.scorer()

    def run() -> float:
        trace = _begin(task, task.folder / "again")
        block = scorer.score(task.windows, observer=ReferenceRecorder(EXACT))
        trace.add(block)
        shutil.rmtree(trace.folder)
        return _perplexity(block)

    return run


def comparing(task: Task) -> Run:
    """The same beside a reference, here the model itself, with the exact divergence from it."""
    from pytest_tenpak.evaluation.divergence import EXACT, Comparer, ReferenceRecorder

    scorer, trace = task.scorer(), _begin(task, task.folder / "reference")
    trace.save_head(scorer.head)
    trace.add(scorer.score(task.windows, observer=ReferenceRecorder(EXACT)))
    observer = Comparer(trace, scorer.device, scorer.head)
    return lambda: _perplexity(scorer.score(task.windows, observer=observer))


def transformers_loop(task: Task) -> Run:
    """transformers' own loss, window by window."""
    import torch

    rows = task.rows()

    def run() -> float:
        with torch.inference_mode():
            losses = [task.model(input_ids=row[None], labels=row[None], use_cache=False).loss for row in rows]
        return math.exp(float(torch.stack(losses).double().mean()))

    return run


def lm_eval(task: Task) -> Run:
    """lm-eval's HFLM.loglikelihood_rolling, in batches of the same size."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    context = task.text.context
    peer = HFLM(
        pretrained=task.model, tokenizer=task.text.tokenizer, batch_size=task.batch, max_length=context
    )
    requests = [
        Instance(request_type="loglikelihood_rolling", doc={}, arguments=(passage,), idx=number)
        for number, passage in enumerate(task.text.passages)
    ]
    return lambda: math.exp(
        -sum(peer.loglikelihood_rolling(requests, disable_tqdm=True)) / (context * len(requests))
    )


METHODS: dict[str, Callable[[Task], Run]] = {
    "bare forward pass": bare,
    "pytest-tenpak": evaluator,
    "pytest-tenpak, chunks of 1 GiB": lambda task: evaluator(task, 1 << 30),
    "pytest-tenpak, recording a reference": recording,
    "pytest-tenpak, exact KL divergence": comparing,
    "transformers' loss, window by window": transformers_loop,
    "lm-eval, the same batch": lm_eval,
}


def _begin(task: Task, folder: Path) -> Any:
    from pytest_tenpak.evaluation.divergence import EXACT
    from pytest_tenpak.evaluation.trace import Plan, Trace

    folder.mkdir(parents=True, exist_ok=True)
    trace = Trace(folder)
    trace.begin(Plan("", [w.scored for w in task.windows], [0] * len(task.windows), EXACT), {})
    return trace


def _perplexity(block: Any) -> float:
    return math.exp(sum(block.sums["nll"]) / sum(block.sums["tokens"]))


# ------------------------------------------------------------ measuring


def prepare(task: Task) -> tuple[dict[str, Run], dict[str, str]]:
    """Return what can be run here, warmed up; and why the rest cannot."""
    ready: dict[str, Run] = {}
    missing: dict[str, str] = {}
    for name, method in METHODS.items():
        try:
            run = method(task)
            run()
            ready[name] = run
        except Exception as fault:  # a peer that is not installed, or has other needs, or no memory left
            missing[name] = f"{type(fault).__name__}: {(str(fault).splitlines() or [''])[0][:200]}"
    return ready, missing


def rounds(task: Task, ready: dict[str, Run], count: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return the seconds of each method in each round, and perplexities."""
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    figures: dict[str, float] = {}
    names = list(ready)
    for number in range(count):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            started = time.perf_counter()
            figures[name] = ready[name]()
            _finish(task)
            seconds[name].append(time.perf_counter() - started)
    return seconds, figures


def _finish(task: Task) -> None:
    import torch

    if task.on_gpu:
        torch.cuda.synchronize()


def peak(task: Task, run: Run) -> int | None:
    """Return the bytes that a method allocates at its highest; None off a GPU."""
    import torch

    if not task.on_gpu:
        return None
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return int(torch.cuda.max_memory_allocated() - before)


def waits(task: Task, run: Run) -> int | None:
    """Return at how many calls the host waited for the GPU; None off a GPU."""
    if not task.on_gpu:
        return None
    with warnings.catch_warnings(record=True) as caught, _watching():
        warnings.simplefilter("always")
        run()
    return sum("synchroniz" in str(one.message) for one in caught)


@contextmanager
def _watching() -> Iterator[None]:
    import torch

    torch.cuda.set_sync_debug_mode("warn")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def busiest(task: Task, run: Run) -> list[dict[str, Any]]:
    """Return name, calls and seconds of what takes longest: a GPU's kernels, or torch's operations."""
    from torch.profiler import ProfilerActivity, profile

    place = "device" if task.on_gpu else "cpu"
    with profile(activities=[ProfilerActivity.CUDA if task.on_gpu else ProfilerActivity.CPU]) as found:
        run()
        _finish(task)
    own = f"self_{place}_time_total"
    rows = sorted(found.key_averages(), key=lambda row: getattr(row, own), reverse=True)
    return [
        {"name": row.key, "calls": row.count, "seconds": getattr(row, own) / 1e6} for row in rows[:BUSIEST]
    ]


def measure(task: Task, count: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return a row of figures for each method; and why others could not be run."""
    ready, missing = prepare(task)
    seconds, figures = rounds(task, ready, count)
    limit = seconds["bare forward pass"]
    tokens = task.text.context * len(task.windows)
    rows = []
    for name, run in ready.items():
        ratios = [one / own for one, own in zip(limit, seconds[name], strict=True)]
        rows.append(
            {
                "name": name,
                "tokens_per_second": tokens / statistics.median(seconds[name]),
                "ratio": statistics.median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
                "peak_bytes": peak(task, run),
                "waits": waits(task, run),
                "seconds": statistics.median(seconds[name]),
                "busiest": busiest(task, run),
                "perplexity": None if math.isnan(figures[name]) else figures[name],
            }
        )
    return rows, missing


def main() -> None:
    """Measure, and write the rows as JSON."""
    given = arguments((__doc__ or "").splitlines()[0])
    context, count, times = (64, 4, 2) if given.quick else (2048, 16, ROUNDS)
    from pytest_tenpak.quantizers.loading import import_transformers

    import_transformers()
    text = read_text(given.model, context, count)
    name, model = random_llama(given.device, given.quick)
    ids, windows = windows_of(text)
    with tempfile.TemporaryDirectory(dir=given.out.parent) as folder:
        rows, missing = measure(Task(model, text, ids, windows, Path(folder)), times)
    figures = {"model": name, "dtype": str(model.dtype).removeprefix("torch."), "context": context}
    figures |= {"windows": len(windows), "rounds": times, "rows": rows, "missing": missing}
    given.out.write_text(json.dumps(figures), encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
