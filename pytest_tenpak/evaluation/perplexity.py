"""Negative log-likelihood by window: one forward pass each, logits only a chunk of positions at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, Protocol

from ..metrics.measurement import Windows
from ..models.decoder import removed_after
from ..models.dispatched import device_of, input_device
from ..progress import Progress, ignore
from ..store.digest import fingerprint
from .predictions import score, split
from .protocol import Window
from .transfer import Download, Landing, upload

#: Bytes of the largest float32 logits tensor that is ever held, by device type. For each product with the
#: head a CPU packs all of it again, a GPU reads it again: few large chunks are faster than many small ones.
_CHUNK_BYTES = {"cpu": 128 << 20, "cuda": 256 << 20}
#: On a CPU, half of that where an observer holds other logits beside ours, but so many rows in any case:
#: packing the head takes as long as multiplying some 30 rows by it.
_FEWEST_ROWS = 128
#: Tokens in a batch, by device type, where the user sets no batch size.
_BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}


class Observer(Protocol):
    """Computes further figures from the predictions of each scored token, in addition to the NLL.

    Called for each batch with the number, in the plan, of its first window and the count of its windows, then
    for each chunk of its positions.
    """

    @property
    def needs_predictions(self) -> bool:
        """Whether :meth:`observe` needs whole distributions, which cost a copy."""

    def begin(self, first: int, count: int) -> None:
        """Prepare for a batch of ``count`` windows from ``first`` on."""

    def observe(self, states: Any, log_probabilities: Any, nll: Any, start: int) -> dict[str, Any]:
        """Return figures per token, each (windows, positions, …), of the positions from ``start`` on.

        ``states`` are the head's inputs (windows, positions, width), or the logits where these are more than
        the head's product; ``log_probabilities`` (windows, positions, vocabulary; None where they are not
        needed) are float32 and may be overwritten.
        """


class Block(NamedTuple):
    """Consecutive windows: sums by window under the names of :class:`Windows`, and figures by token."""

    sums: dict[str, list[Any]]
    by_token: dict[str, Any]


#: Figures by token that are summed over a window, and the sum's name.
_SUMMED = ("nll", "kld", "disagreement", "squared_dp")


def measure_windows(
    model: Any,
    tokens: Sequence[int],
    windows: Sequence[Window],
    *,
    bos: int | None = None,
    batch_size: int = 0,
    progress: Progress = ignore,
) -> Windows:
    """Measure the NLL (nats) of every window, in order.

    ``model`` is a causal language model of transformers, ``tokens`` the stream that ``windows`` are cut from.
    ``bos`` replaces the first token of each window where the protocol says so. ``batch_size`` is in
    windows; 0 chooses, and halves itself when the device runs out of memory. Windows of LLM.int8() models
    run one by one whatever it is.
    """
    total = sum(window.scored for window in windows)
    scorer = Scorer(model, tokens, bos=bos, batch_size=batch_size)
    block = scorer.score(windows, progress=lambda done: progress(done, total, "tokens"))
    rows = {name: tuple(row) for name, row in block.sums.items()}
    return Windows(stream=fingerprint(list(tokens)), **rows)


class Scorer:
    """Runs windows of one token stream through one model.

    The body runs once per batch; the output head then runs on chunks of positions. Some families process
    the head's output further (soft caps, scales). So the first tokens of the corpus are scored both ways, and
    where the two differ the model's own logits are used.
    """

    def __init__(
        self, model: Any, tokens: Sequence[int], *, bos: int | None = None, batch_size: int = 0
    ) -> None:
        self._model = model
        self._tokens = tokens
        self._bos = bos
        self._batch_size = batch_size
        self.head = model.get_output_embeddings()
        #: Whether logits are the head's product and nothing else.
        self.head_is_all = self.head is not None and self._has_body() and self._head_is_all()

    @property
    def device(self) -> Any:
        """Where predictions are: on the output head's device, which need not be that of the first layers."""
        return device_of(self.head) if self.head_is_all else self._input_device

    @property
    def _input_device(self) -> Any:
        return input_device(self._model)

    def score(
        self,
        windows: Sequence[Window],
        first: int = 0,
        *,
        observer: Observer | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Block:
        """Score consecutive windows, the first of which is number ``first`` of the plan.

        ``progress``, if given, is called with the number of tokens scored so far, on a GPU with that of
        those begun: the host is a batch ahead of it, so that it never has nothing to do.
        """
        import torch

        size = self._windows_at_once(windows)
        landing = Landing(sum(window.scored for window in windows))
        batches: list[Download] = []
        pending = list(windows)
        done = 0
        with torch.inference_mode():
            while pending:
                batch = next(_batches(pending, size))
                try:
                    number = first + len(windows) - len(pending)
                    batches.append(landing.begin(self._score(batch, number, observer)))
                except torch.OutOfMemoryError:
                    if len(batch) == 1:
                        raise
                    size = len(batch) // 2
                    torch.cuda.empty_cache()
                    continue
                for earlier in batches[-2:-1]:
                    earlier.wait()
                pending = pending[len(batch) :]
                done += sum(window.scored for window in batch)
                if progress:
                    progress(done)
            return Block(_sums([batch.wait() for batch in batches]), landing.rows)

    def _windows_at_once(self, windows: Sequence[Window]) -> int:
        # LLM.int8() chooses its outlier columns per batch: a window among others has other figures than
        # alone (0.6 % of perplexity on SmolLM2), and figures must not depend on the batch size.
        if getattr(self._model, "is_loaded_in_8bit", False):
            return 1
        return self._batch_size or max(
            1, _BATCH_TOKENS.get(self._input_device.type, 1024) // _longest(windows)
        )

    def _has_body(self) -> bool:
        # In some families (Llama 4, Mllama) the text model's prefix is that of a model around it.
        return self._model.base_model is not self._model

    def _head_is_all(self) -> bool:
        import torch

        states: list[Any] = []
        body = self._model.base_model
        hooks = [body.register_forward_hook(lambda _, __, output: states.append(output.last_hidden_state))]
        # The states of the same run: some kernels of GPUs add in another order each time.
        with removed_after(hooks), torch.inference_mode():
            ids = self._ids([Window(0, min(9, len(self._tokens)), 1)])
            whole = self._model(input_ids=ids, use_cache=False).logits
            ours = self.head(states[-1] if states else self._hidden(ids))
        # The same product of the same shapes is equal bit for bit, unless the logits are processed further.
        return bool(torch.equal(whole.to(ours.device).nan_to_num(), ours.nan_to_num()))

    def _hidden(self, ids: Any) -> Any:
        return self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state

    def _ids(self, batch: Sequence[Window]) -> Any:
        """Return the tokens of each window to run: all but the last one, which is only predicted."""
        import torch

        ids = torch.tensor([self._tokens[window.start : window.stop - 1] for window in batch])
        if self._bos is not None:
            ids[:, 0] = self._bos
        return upload(ids, self._input_device)

    def _score(self, batch: Sequence[Window], number: int, observer: Observer | None) -> dict[str, Any]:
        """Return figures per token, each (windows, positions, …), of one batch of windows of one shape.

        They are on the model's device: nothing here asks for a value, for which the host would wait.
        """
        import torch

        if observer is not None:
            observer.begin(number, len(batch))
        ids = self._ids(batch)
        wanted = torch.tensor([self._tokens[window.first_scored : window.stop] for window in batch])
        targets = upload(wanted, self.device)
        states = self._hidden(ids) if self.head_is_all else self._model(input_ids=ids, use_cache=False).logits
        states = states[:, -targets.shape[1] :]
        parts = split(states, self._positions_at_once(len(batch), observer))
        chunks: list[dict[str, Any]] = []
        start = 0
        for part, wanted in zip(parts, targets.tensor_split(len(parts), dim=1), strict=True):
            chunks.append(self._score_chunk(part, wanted, start, observer))
            start += part.shape[1]
        return {name: torch.cat([chunk[name] for chunk in chunks], dim=1) for name in chunks[0]}

    def _score_chunk(
        self, states: Any, targets: Any, start: int, observer: Observer | None
    ) -> dict[str, Any]:
        """Return figures per token of some positions; their logits are gone before the next ones are made."""
        wants_all = observer is not None and observer.needs_predictions
        nll, predicted = score(self.head(states) if self.head_is_all else states, targets, wants_all)
        more = observer.observe(states, predicted, nll, start) if observer else {}
        return {"nll": nll, **more}

    def _positions_at_once(self, windows: int, observer: Observer | None) -> int:
        most = _CHUNK_BYTES.get(self.device.type, _CHUNK_BYTES["cpu"])
        if observer is not None and observer.needs_predictions and self.device.type == "cpu":
            most = min(most, max(most // 2, _FEWEST_ROWS * 4 * self.vocabulary))
        return most // (4 * self.vocabulary * windows)

    @property
    def vocabulary(self) -> int:
        """Logits per position."""
        return int(
            getattr(self.head, "out_features", None) or self._model.config.get_text_config().vocab_size
        )


def _longest(windows: Sequence[Window]) -> int:
    """Return how many tokens the longest window runs: its last one is only predicted."""
    return max(1, *(window.stop - window.start - 1 for window in windows))


def _batches(windows: Sequence[Window], size: int) -> Iterator[list[Window]]:
    """Yield batches of at most ``size`` consecutive windows of one shape: no batch needs padding."""
    for _, alike in groupby(windows, key=lambda w: (w.stop - w.start, w.first_scored - w.start)):
        group = list(alike)
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _sums(batches: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return sums by window of figures by token, each (windows, positions, …), of consecutive batches."""
    import torch

    sums: dict[str, list[Any]] = {"tokens": [], "lost": []}
    for batch in batches:
        summed = [name for name in _SUMMED if name in batch]
        finite = torch.stack([torch.isfinite(batch[name]) for name in summed]).all(dim=0)
        sums["tokens"] += finite.sum(dim=1).tolist()
        sums["lost"] += (~finite).sum(dim=1).tolist()
        for name in summed:
            figures = torch.where(finite, batch[name].double(), 0.0)
            sums.setdefault(name, []).extend(figures.sum(dim=1).tolist())
    return sums
