"""How fast perplexity is measured, and in how much memory: ours, its peers, and a bare forward pass.

All of them score the same passages of the same model in one run: a prefix token, then 512 tokens that are
all scored. Rounds are interleaved and figures are medians of ratios within a round, so that a machine whose
speed drifts slows all alike. Memory is the peak of a fresh process beyond what the loaded model holds.
The equal perplexities show that the job is the same.

The peers keep the settings they come with, and are run once more with the batch that ours chooses on a CPU.
``evaluate`` would load the model anew for each figure: it is handed the loaded one.
"""

from __future__ import annotations

import argparse
import atexit
import math
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import subject
from tabulate import tabulate

CONTEXT = 512
#: Windows in a batch of ours on a CPU: 1024 tokens.
BATCH = 2


@dataclass(frozen=True)
class Task:
    """A loaded model and the passages to score, each of 512 tokens whether it stands alone or not."""

    model: Any
    tokenizer: Any
    passages: Sequence[str]
    metric: str


def passages(tokenizer: Any, count: int) -> list[str]:
    """Stretches of the corpus that come back as the same 512 tokens when they are tokenized alone."""
    ids = tokenizer(subject.text(), verbose=False, add_special_tokens=False)["input_ids"]
    found: list[str] = []
    for start in range(0, len(ids) - CONTEXT, CONTEXT):
        wanted = ids[start : start + CONTEXT]
        passage = tokenizer.decode(wanted, clean_up_tokenization_spaces=False)
        if tokenizer(passage)["input_ids"] == wanted:
            found.append(passage)
        if len(found) == count:
            return found
    sys.exit(f"only {len(found)} passages of {CONTEXT} tokens in the corpus")


def bare(task: Task) -> Callable[[], float]:
    """The limit: the model called on the tokens, full logits, nothing made of them."""
    import torch

    prefix = task.tokenizer.bos_token_id
    rows = [[prefix, *task.tokenizer(passage)["input_ids"]][:-1] for passage in task.passages]
    batches = torch.tensor(rows).split(BATCH)

    def run() -> float:
        with torch.inference_mode():
            for batch in batches:
                task.model(input_ids=batch, use_cache=False)
        return math.nan

    return run


def ours(task: Task) -> Callable[[], float]:
    """pytest-tenpak, protocol ``rolling``."""
    from pytest_tenpak.evaluation.perplexity import measure_windows
    from pytest_tenpak.evaluation.protocol import Protocol
    from pytest_tenpak.evaluation.tokenize import tokenize

    protocol = Protocol.resolve("rolling", CONTEXT, None, CONTEXT)

    def run() -> float:
        stream = tokenize(task.tokenizer, task.passages, protocol)
        windows = protocol.windows(len(stream.ids), starts=stream.starts)
        return measure_windows(task.model, stream.ids, windows).perplexity

    return run


def bound(task: Task) -> Callable[[], float]:
    """The limit of an exact divergence from saved states: the bare pass and the head's product once more."""
    import torch

    prefix = task.tokenizer.bos_token_id
    rows = [[prefix, *task.tokenizer(passage)["input_ids"]][:-1] for passage in task.passages]
    batches = torch.tensor(rows).split(BATCH)
    body, head = task.model.base_model, task.model.get_output_embeddings()

    def run() -> float:
        with torch.inference_mode():
            for batch in batches:
                states = body(input_ids=batch, use_cache=False).last_hidden_state
                for _ in range(2):
                    head(states)
        return math.nan

    return run


def ours_beside_a_reference(task: Task, same_head: bool = True) -> Callable[[], float]:
    """The same with the exact KL divergence from a reference, here the model itself, as gates have it.

    Without ``same_head``, as where a method quantizes the output head too: the reference's is held beside it.
    """
    from pytest_tenpak.evaluation.divergence import EXACT, Comparer, ReferenceRecorder
    from pytest_tenpak.evaluation.perplexity import Scorer
    from pytest_tenpak.evaluation.protocol import Protocol
    from pytest_tenpak.evaluation.tokenize import tokenize
    from pytest_tenpak.evaluation.trace import Plan, Trace
    from pytest_tenpak.metrics.intervals import perplexity

    protocol = Protocol.resolve("rolling", CONTEXT, None, CONTEXT)
    stream = tokenize(task.tokenizer, task.passages, protocol)
    windows = protocol.windows(len(stream.ids), starts=stream.starts)
    scorer = Scorer(task.model, stream.ids)
    trace = Trace(Path(tempfile.mkdtemp()))
    atexit.register(shutil.rmtree, trace.folder, ignore_errors=True)
    trace.begin(Plan("", [window.scored for window in windows], [0] * len(windows), EXACT), {})
    trace.save_head(scorer.head)
    trace.add(scorer.score(windows, observer=ReferenceRecorder(EXACT)))
    observer = Comparer(trace, scorer.device, scorer.head if same_head else None)

    def run() -> float:
        sums = scorer.score(windows, observer=observer).sums
        return perplexity(sums["nll"], sums["tokens"])

    return run


def lm_eval(task: Task, batch: int) -> Callable[[], float]:
    """lm-eval's HFLM.loglikelihood_rolling."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    peer = HFLM(pretrained=task.model, tokenizer=task.tokenizer, batch_size=batch, max_length=CONTEXT)
    requests = [
        Instance(request_type="loglikelihood_rolling", doc={}, arguments=(passage,), idx=number)
        for number, passage in enumerate(task.passages)
    ]

    def run() -> float:
        return math.exp(-sum(peer.loglikelihood_rolling(requests)) / (CONTEXT * len(requests)))

    return run


def evaluate(task: Task, batch: int) -> Callable[[], float]:
    """Hugging Face evaluate's perplexity metric."""
    import evaluate as library
    from transformers import AutoModelForCausalLM, AutoTokenizer

    metric = library.load(task.metric, module_type="metric")

    def run() -> float:
        with (
            mock.patch.object(AutoModelForCausalLM, "from_pretrained", return_value=task.model),
            mock.patch.object(AutoTokenizer, "from_pretrained", return_value=task.tokenizer),
        ):
            answer = metric.compute(
                predictions=list(task.passages), model_id="loaded", batch_size=batch, device="cpu"
            )
        return math.exp(statistics.fmean(map(math.log, answer["perplexities"])))

    return run


#: Name: (passages in a batch, what makes it ready).
METHODS: dict[str, tuple[int, Callable[[Task], Callable[[], float]]]] = {
    "bare forward pass": (BATCH, bare),
    "pytest-tenpak": (BATCH, ours),
    "bare pass and a second head product": (BATCH, bound),
    "pytest-tenpak, with exact KL divergence": (BATCH, ours_beside_a_reference),
    "pytest-tenpak, the same, another head": (BATCH, lambda task: ours_beside_a_reference(task, False)),
    "lm-eval, batch 1 (its default)": (1, lambda task: lm_eval(task, 1)),
    f"lm-eval, batch {BATCH}": (BATCH, lambda task: lm_eval(task, BATCH)),
    "evaluate, batch 16 (its default)": (16, lambda task: evaluate(task, 16)),
    f"evaluate, batch {BATCH}": (BATCH, lambda task: evaluate(task, BATCH)),
}


def prepare(task: Task) -> tuple[dict[str, Callable[[], float]], dict[str, str]]:
    """What can be run here, warmed up; and why the rest cannot."""
    ready: dict[str, Callable[[], float]] = {}
    missing: dict[str, str] = {}
    for name, (_, method) in METHODS.items():
        try:
            with subject.silenced():
                run = method(task)
                run()
            ready[name] = run
        except Exception as fault:  # a peer that is not installed, or whose script lives on a hub
            missing[name] = f"{type(fault).__name__}: {(str(fault).splitlines() or [''])[0][:160]}"
    return ready, missing


def rounds(
    ready: dict[str, Callable[[], float]], count: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each method in each round, in an order that rotates; and the perplexities."""
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    figures: dict[str, float] = {}
    names = list(ready)
    for number in range(count):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            started = time.perf_counter()
            with subject.silenced():
                figures[name] = ready[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds, figures


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.findall(rf"{field}:\s*(\d+) kB", status)[0])


def peak(name: str, task: Task) -> int:
    """Bytes that a method takes at its highest beyond what is resident once the model is loaded and has
    run: every weight is in memory then, and so are the libraries that a first call loads.
    """
    import torch

    run = METHODS[name][1](task)
    with torch.inference_mode():
        task.model(input_ids=torch.tensor([[0, 1]]), use_cache=False)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark begins anew
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def peaks(names: Sequence[str], given: argparse.Namespace, directory: Path) -> dict[str, int]:
    """The peak of each method, in a process of its own."""
    found = {}
    for name in names:
        asked = [str(directory), "--evaluate-metric", given.metric, "--peak", name]
        ran = subprocess.run([sys.executable, __file__, *asked], capture_output=True, text=True, check=False)
        if ran.returncode:
            sys.exit(ran.stderr)
        found[name] = int(ran.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=subject.SMOLLM2, help=f"or {', '.join(subject.RANDOM)}")
    parser.add_argument("--evaluate-metric", dest="metric", default="perplexity", help="its script, if local")
    parser.add_argument("--passages", type=int, default=4, help=f"passages of {CONTEXT} tokens in a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    given = parser.parse_args()
    subject.quiet()
    directory = subject.find(given.model)
    model, tokenizer = subject.load(directory)
    if given.peak:
        batch, _ = METHODS[given.peak]
        print(peak(given.peak, Task(model, tokenizer, passages(tokenizer, batch), given.metric)))
        return
    task = Task(model, tokenizer, passages(tokenizer, given.passages), given.metric)
    ready, missing = prepare(task)
    seconds, figures = rounds(ready, given.rounds)
    memory = peaks(list(ready), given, directory)
    report(seconds, figures, memory, missing, task)


def once(task: Task) -> float:
    """Seconds that our evaluator takes once for a model, to find out how its head is used."""
    from pytest_tenpak.evaluation.perplexity import Scorer

    ids = task.tokenizer(task.passages[0])["input_ids"]
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        Scorer(task.model, ids)
        taken.append(time.perf_counter() - started)
    return min(taken)


def report(
    seconds: dict[str, list[float]],
    figures: dict[str, float],
    memory: dict[str, int],
    missing: dict[str, str],
    task: Task,
) -> None:
    """Print what was measured, and what could not be."""
    import torch

    limit = next(iter(seconds.values()))
    tokens = CONTEXT * len(task.passages)
    rows = []
    for name, taken in seconds.items():
        ratios = [bare / own for bare, own in zip(limit, taken, strict=True)]
        rows.append(
            [
                name,
                f"{tokens / statistics.median(taken):.0f}",
                f"{statistics.median(ratios):.3f}",
                f"{min(ratios):.2f} … {max(ratios):.2f}",
                f"{memory[name] / 2**20:.0f}",
                "" if math.isnan(figures[name]) else f"{figures[name]:.5f}",
            ]
        )
    rows += [[name, "not reachable", "", "", "", ""] for name in missing]
    print(
        f"\n{len(limit)} rounds of {len(task.passages)} × {CONTEXT} tokens, memory of one batch; "
        f"float32, {torch.get_num_threads()} threads, {task.model.device.type}\n"
    )
    headers = ("", "tokens/s", "of the bare pass", "range", "MiB beyond the weights", "perplexity")
    print(tabulate(rows, headers, tablefmt="pipe", disable_numparse=True))
    print(f"\npytest-tenpak's row has {once(task):.2f} s that a gate takes once for a model.")
    for name, why in missing.items():
        print(f"\n{name} is not reachable here: {why}")


if __name__ == "__main__":
    main()
