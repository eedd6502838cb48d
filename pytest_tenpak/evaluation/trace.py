"""Traces: measured windows on disk, in a folder that only grows at its end, so that nothing is run twice.

``plan.json`` says how the corpus is cut into windows; ``START-STOP.json`` holds the sums of those windows,
and ``START-STOP.safetensors`` the figures of their tokens. The JSON is written last and renamed into place,
so a killed run leaves a whole block or none. A block counts only if it begins where the previous one stopped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..metrics.intervals import estimate, units_of
from ..metrics.measurement import Divergence, Robust, Windows
from ..store.atomic import write_atomically
from .protocol import within

if TYPE_CHECKING:
    from .perplexity import Block

#: Increased whenever a change of this package changes what a trace records, or what is refused when it is
#: begun, and no figure; part of cache keys.
TRACE_VERSION = 3

_SUMS = ("nll", "tokens", "lost", "kld", "disagreement", "squared_dp")
_TRIMMED = 0.1
_WORST = 0.001


class Plan(NamedTuple):
    """How a corpus is cut: the digest of its token ids, and the number of scored tokens of each window.

    ``documents`` numbers the document that each window begins in. ``kind`` is the kind of divergence that a
    reference records, or that of the reference that was compared with; empty where there is none.
    """

    stream: str
    scored: list[int]
    documents: list[int]
    kind: str


class Trace:
    """The measured windows of one model on one corpus."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blocks: list[tuple[int, int, Path]] = []
        self._plan: Plan | None = None

    @property
    def plan(self) -> Plan | None:
        """The plan, None until a worker has tokenized the corpus; it never changes after that."""
        if self._plan is None:
            plain = self._document("plan.json")
            self._plan = Plan(**plain) if plain else None
        return self._plan

    @property
    def stream(self) -> str:
        """Digest of the corpus's token ids; empty before there is a plan."""
        plan = self.plan
        return plan.stream if plan else ""

    @property
    def layers_file(self) -> Path:
        """The file with the inputs and outputs of a reference's decoder layers."""
        return self.folder / "layers.safetensors"

    def planned(self, budget: int) -> int:
        """Return how many windows a budget of scored tokens allows (0: all)."""
        return within(self._planned.scored, budget)

    def tokens(self, count: int) -> int:
        """Return how many tokens the first ``count`` windows score."""
        return sum(self._planned.scored[:count])

    @property
    def kind(self) -> str:
        """The kind of divergence that is recorded, or was compared with."""
        plan = self.plan
        return plan.kind if plan else ""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Facts about device and loader that the first worker recorded."""
        return self._document("facts.json") or {}

    def begin(self, plan: Plan, facts: Mapping[str, Any]) -> None:
        """Record how the corpus is cut and where it is run, unless that is recorded already."""
        for name, plain in (("facts.json", facts), ("plan.json", plan._asdict())):
            if self._document(name) is None:
                write_atomically(self.folder / name, json.dumps(plain))

    def add_time(self, tokens: int, seconds: float) -> None:
        """Note how long a stretch took, without loading: how fast another job will be is estimated by it."""
        run, spent = self._document("speed.json") or (0, 0.0)
        with suppress(OSError):  # nothing but an estimate needs it
            write_atomically(self.folder / "speed.json", json.dumps([run + tokens, spent + seconds]))

    @property
    def tokens_per_second(self) -> float | None:
        """How many tokens were scored in a second; None where that was not noted."""
        run, spent = self._document("speed.json") or (0, 0.0)
        return run / spent if run and spent else None

    def _document(self, name: str) -> Any:
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    @property
    def blocks(self) -> list[tuple[int, int, Path]]:
        """(first, stop, path without suffix) of the contiguous blocks from window 0 on."""
        stop = self._blocks[-1][1] if self._blocks else 0
        found: dict[int, tuple[int, Path]] = {}
        for path in self.folder.glob("*-*.json"):
            first, _, last = path.stem.partition("-")
            whole = path.with_suffix(".safetensors").is_file()
            if whole and first.isdecimal() and last.isdecimal():
                found[int(first)] = int(last), path.with_suffix("")
        while stop in found:
            end, path = found[stop]
            self._blocks.append((stop, end, path))
            stop = end
        return self._blocks

    @property
    def count(self) -> int:
        """How many windows are measured."""
        return self.blocks[-1][1] if self.blocks else 0

    @property
    def lasting(self) -> list[str]:
        """The names of the files that never change and are all that the measured windows need.

        Without summaries, which are computed from these, and without this machine's speed.
        """
        begun = ("plan.json", "facts.json", self.layers_file.name, "head.safetensors")
        blocks = [
            f"{path.name}{suffix}" for _, _, path in self.blocks for suffix in (".safetensors", ".json")
        ]
        return [name for name in begun if (self.folder / name).is_file()] + blocks

    def add(self, block: Block) -> None:
        """Append measured windows."""
        from safetensors.torch import save_file

        first = self.count
        path = self.folder / f"{first:07}-{first + len(block.sums['tokens']):07}"
        half = path.with_suffix(".half")
        save_file({name: row.contiguous() for name, row in block.by_token.items()}, half)
        half.replace(path.with_suffix(".safetensors"))
        write_atomically(path.with_suffix(".json"), json.dumps(block.sums))

    def windows(self, budget: int) -> Windows:
        """Return the measured windows within a budget of scored tokens."""
        plan = self._planned
        rows: dict[str, list[Any]] = {}
        for _, _, path in self.blocks:
            for name, row in json.loads(path.with_suffix(".json").read_text(encoding="utf-8")).items():
                rows.setdefault(name, []).extend(row)
        planned = self.planned(budget)
        units = units_of(plan.documents[:planned])
        sums = {name: tuple(rows[name][:planned]) for name in _SUMS if name in rows}
        empty: dict[str, tuple[Any, ...]] = {"nll": (), "tokens": (), "lost": ()}
        return Windows(stream=plan.stream, units=tuple(units) if units else None, **{**empty, **sums})

    @property
    def _planned(self) -> Plan:
        plan = self.plan
        assert plan is not None, f"{self.folder} was read before it was begun"
        return plan

    # ------------------------------------------------------------ figures by token

    def read(self, name: str, first: int, count: int) -> Any:
        """Return a figure of all scored tokens of ``count`` windows from ``first`` on, as a torch tensor."""
        import torch

        rows = list(self._rows(name, first, first + count, "pt"))
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def _rows(self, name: str, first: int, stop: int, framework: str) -> Any:
        from safetensors import safe_open

        scored = self._planned.scored
        for start, end, path in self.blocks:
            one, other = max(first, start), min(stop, end)
            if one < other:
                before, length = sum(scored[start:one]), sum(scored[one:other])
                with safe_open(path.with_suffix(".safetensors"), framework) as stream:
                    yield stream.get_slice(name)[before : before + length]

    def save_head(self, head: Any) -> None:
        """Save an output head, in its own type, once."""
        from safetensors.torch import save_file

        path = self.folder / "head.safetensors"
        if not path.is_file():
            half = path.with_suffix(".half")
            weights = {"weight": head.weight, "bias": getattr(head, "bias", None)}
            save_file({n: w.detach().contiguous() for n, w in weights.items() if w is not None}, half)
            half.replace(path)

    def head(self, device: Any) -> tuple[Any, Any]:
        """Return (weight, bias or None) of the saved head."""
        from safetensors.torch import load_file

        saved = load_file(self.folder / "head.safetensors", device=str(device))
        return saved["weight"], saved.get("bias")

    # ------------------------------------------------------------ summaries

    def summary(self, windows: Windows) -> tuple[Robust, Divergence | None]:
        """Return robust figures and divergence of ``windows``, the first ones of the trace; computed once."""
        count = len(windows.tokens)
        name = f"summary-{count}{'-by-document' if windows.units else ''}.json"
        plain = self._document(name)
        if plain is None:
            plain = {
                "robust": _robust(self._by_token("nll", count)),
                "divergence": self._divergence(windows, count) if windows.kld else None,
            }
            with suppress(OSError):  # where it cannot be written, it is computed again next time
                write_atomically(self.folder / name, json.dumps(plain))
        divergence = plain["divergence"]
        return Robust(**plain["robust"]), Divergence(**divergence) if divergence else None

    def _by_token(self, name: str, count: int) -> Any:
        import numpy as np

        row = np.concatenate(list(self._rows(name, 0, count, "np")))
        return row[np.isfinite(row)].astype(float)

    def _divergence(self, windows: Windows, count: int) -> dict[str, Any]:
        import numpy as np

        tokens = self._by_token("kld", count)
        whole = estimate(windows.kld, windows.tokens, units=windows.units)
        median, p99, p999 = np.quantile(tokens, [0.5, 0.99, 0.999]).tolist()
        return {
            "kind": self.kind,
            "mean": whole.value,
            "error": whole.error if math.isfinite(whole.error) else None,
            "median": median,
            "p99": p99,
            "p999": p999,
            "maximum": float(tokens.max()),
            "top1": 1 - sum(windows.disagreement) / windows.total_tokens,
            "rms_dp": (sum(windows.squared_dp) / windows.total_tokens) ** 0.5,
        }


class Appender:
    """Appends blocks to a trace; with ``beside``, the next one may be measured while one is being written.

    That is for a GPU, which would have nothing to do meanwhile. All are written when the context ends.
    """

    def __init__(self, trace: Trace, beside: bool) -> None:
        self._trace = trace
        self._pool = ThreadPoolExecutor(1) if beside else None
        self._writing: Future[None] | None = None
        #: How many windows are measured, those included that are being written.
        self.count = trace.count

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        if raised[0] is None:
            self._wait()

    def add(self, block: Block) -> None:
        """Append a block; raises what writing this or the one before raises."""
        if self._pool is None:
            self._trace.add(block)
        else:
            self._wait()  # at most one is waiting in memory
            self._writing = self._pool.submit(self._trace.add, block)
        self.count += len(block.sums["tokens"])

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def _robust(nll: Any) -> dict[str, float]:
    import numpy as np

    ordered = np.sort(nll)
    cut = int(len(ordered) * _TRIMMED)
    worst = ordered[len(ordered) - max(1, round(len(ordered) * _WORST)) :]
    return {
        "trimmed_mean": float(ordered[cut : len(ordered) - cut].mean()),
        "median": float(np.median(ordered)),
        "worst_share": float(worst.sum() / ordered.sum()),
    }
