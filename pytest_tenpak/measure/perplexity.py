"""Negative log-likelihood by window: one forward pass each, logits only a chunk of positions at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from ..digest import fingerprint
from ..measurement import WindowNLL
from ..progress import Progress, ignore
from ..protocol import Window

#: Bytes of the largest float32 logits tensor that is ever held.
_CHUNK_BYTES = 64 << 20
#: Tokens in a batch, by device type, where the user names no batch size.
_BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}


def measure_windows(
    model: Any,
    tokens: Sequence[int],
    windows: Sequence[Window],
    *,
    bos: int | None = None,
    batch_size: int = 0,
    progress: Progress = ignore,
) -> WindowNLL:
    """NLL (nats) of every window, in order.

    ``model`` is a causal language model of transformers, ``tokens`` the stream that ``windows`` cut.
    ``bos`` replaces the first token of each window where the protocol says so. ``batch_size`` is in
    windows; 0 chooses, and halves itself when the device runs out of memory.
    """
    import torch

    evaluate = _Evaluator(model, tokens)
    size = batch_size or max(1, _BATCH_TOKENS.get(model.device.type, 1024) // _longest(windows))
    total = sum(window.scored for window in windows)
    nll: list[float] = []
    counts: list[int] = []
    pending = list(windows)
    with torch.inference_mode():
        while pending:
            batch = next(_batches(pending, size))
            try:
                for window_nll, count in evaluate(batch, bos):
                    nll.append(window_nll)
                    counts.append(count)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                size = len(batch) // 2
                torch.cuda.empty_cache()
                continue
            pending = pending[len(batch) :]
            progress(sum(window.scored for window in windows[: len(nll)]), total, "tokens")
    run = list(tokens[windows[0].start : windows[-1].stop])
    return WindowNLL(tuple(nll), tuple(counts), total - sum(counts), fingerprint(run))


def _longest(windows: Sequence[Window]) -> int:
    return max(window.stop - window.start for window in windows)


def _batches(windows: Sequence[Window], size: int) -> Iterator[list[Window]]:
    """Runs of windows of one shape, at most ``size`` long: no batch needs padding."""
    for _, alike in groupby(windows, key=lambda w: (w.stop - w.start, w.first_scored - w.start)):
        group = list(alike)
        for start in range(0, len(group), size):
            yield group[start : start + size]


class _Evaluator:
    """Runs batches of windows through one model.

    The body runs once per batch; the output head then runs on chunks of positions. Some families do
    more to their logits than the head (soft caps, scales). So the first tokens of the corpus are scored
    both ways, and where the two disagree the model's own logits are used.
    """

    def __init__(self, model: Any, tokens: Sequence[int]) -> None:
        self._model = model
        self._tokens = tokens
        self._head = model.get_output_embeddings()
        self._by_chunks = self._head is not None and self._head_is_all()

    def _head_is_all(self) -> bool:
        import torch

        with torch.inference_mode():
            ids = self._ids([Window(0, min(32, len(self._tokens)), 1)], None)
            whole = self._model(input_ids=ids, use_cache=False).logits
            ours = self._head(self._hidden(ids))
        # The same product of the same shapes: bit for bit, or something more was done.
        return bool(torch.equal(whole.nan_to_num(), ours.nan_to_num()))

    def _hidden(self, ids: Any) -> Any:
        return self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state

    def _ids(self, batch: Sequence[Window], bos: int | None) -> Any:
        import torch

        ids = torch.tensor([self._tokens[window.start : window.stop] for window in batch])
        if bos is not None:
            ids[:, 0] = bos
        return ids.to(self._model.device)

    def __call__(self, batch: Sequence[Window], bos: int | None) -> list[tuple[float, int]]:
        """(ΣNLL in nats, finite tokens) of each window of one batch; all windows have one shape."""
        import torch
        from torch.nn.functional import cross_entropy

        ids = self._ids(batch, bos)
        first = batch[0].first_scored - batch[0].start
        targets = ids[:, first:]
        # What predicts position i is the output at i - 1, so the last token is never run: a window may be
        # one token longer than what the model takes.
        ran = ids[:, :-1]
        states = self._hidden(ran) if self._by_chunks else self._model(input_ids=ran, use_cache=False).logits
        states = states[:, first - 1 :]
        step = max(1, _CHUNK_BYTES // (4 * self._width() * len(batch)))
        chunks = []
        for start in range(0, states.shape[1], step):
            part = states[:, start : start + step]
            logits = (self._head(part) if self._by_chunks else part).float()
            wanted = targets[:, start : start + step]
            chunks.append(
                cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted)
            )
        nll = torch.cat(chunks, dim=1).double()
        finite = torch.isfinite(nll)
        sums = torch.where(finite, nll, 0.0).sum(dim=1).tolist()
        return list(zip(sums, finite.sum(dim=1).tolist(), strict=True))

    def _width(self) -> int:
        """Size of the vocabulary: logits per position."""
        return int(
            getattr(self._head, "out_features", None) or self._model.config.get_text_config().vocab_size
        )
