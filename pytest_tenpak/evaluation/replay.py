"""Replaying the reference with parts of a checkpoint in it, from kept activations.

Both models are in memory. The reference runs once, and the output of each of its decoder layers is kept. To
see what one part of the checkpoint does, that part takes its place in the reference, the layers before it
hand on what was kept, and everything from there on is run by the model's own code: later layers, last norm,
head, soft caps. So a part in layer l of L costs (L − l) / L of a forward pass, and the head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import MeasurementError
from ..models.decoder import decoder_layers, removed_after
from .divergence import Comparer
from .protocol import Window
from .trace import Trace

if TYPE_CHECKING:
    from .perplexity import Scorer

#: How far a replay without any change may be from the run that was kept: nats per token, and relative.
_SAME, _SAME_SHARE = 1e-6, 1e-3


class Chosen(NamedTuple):
    """A window that is replayed, or the beginning of one: its number in the trace, and where it is."""

    number: int
    window: Window


class Part(NamedTuple):
    """A part of the checkpoint: ``swaps`` put it into the reference, each for the time of a context.

    ``start`` is the first decoder layer that may run otherwise with it: 0 for what comes before all layers,
    their number for what comes after.
    """

    name: str
    start: int
    swaps: tuple[Callable[[], AbstractContextManager[None]], ...]


class _Selection(Trace):
    """Some windows of a trace, or beginnings of windows, numbered from 0."""

    def __init__(self, trace: Trace, chosen: Sequence[Chosen]) -> None:
        super().__init__(trace.folder)
        self._chosen = chosen

    def read(self, name: str, first: int, count: int) -> Any:
        """Return a figure of all scored tokens of ``count`` chosen windows from ``first`` on."""
        import torch

        rows = self._chosen[first : first + count]
        return torch.cat([super(_Selection, self).read(name, n, 1)[: w.scored] for n, w in rows])


class Replay:
    """Runs chosen windows through a reference, with parts of a checkpoint in it, and compares the two.

    ``scorer`` is the reference's, ``trace`` has what was recorded of it. Raises MeasurementError where a run
    that starts between two layers is not the whole run again: some architectures hand more than states from
    layer to layer.
    """

    def __init__(self, model: Any, scorer: Scorer, trace: Trace, chosen: Sequence[Chosen]) -> None:
        self._model, self._scorer = model, scorer
        self._windows = [one.window for one in chosen]
        self._layers = decoder_layers(model)
        self._comparer = Comparer(_Selection(trace, chosen), scorer.device)
        #: By decoder layer: what its output consists of, and the states of each window.
        self._forms: dict[int, int] = {}
        self._kept: list[dict[int, Any]] = [{} for _ in self._layers]
        self._batch = 0, 0
        with self._keeping():
            self._floor = self._score()
        self._require_same(len(self._layers) // 2)

    @property
    def needs_predictions(self) -> bool:
        """Whether whole distributions are needed: as for any comparison."""
        return self._comparer.needs_predictions

    def begin(self, first: int, count: int) -> None:
        """Note which windows run."""
        self._batch = first, count
        self._comparer.begin(first, count)

    def observe(self, states: Any, log_probabilities: Any, nll: Any, start: int) -> dict[str, Any]:
        """Compare with what was recorded."""
        return self._comparer.observe(states, log_probabilities, nll, start)

    def divergence(self, *parts: Part) -> float:
        """Return the divergence from the reference of the reference with ``parts``, in nats per token.

        Less what the unchanged reference has, run again in other batches: errors of rounding, which add to
        those of a part as squares do. Never below 0.
        """
        start = min((part.start for part in parts), default=0)
        with ExitStack() as stack:
            for part in parts:
                for swap in part.swaps:
                    stack.enter_context(swap())
            stack.enter_context(self._from(start))
            stack.enter_context(self._head())
            return max(0.0, self._score() - self._floor)

    def _score(self) -> float:
        sums = self._scorer.score(self._windows, observer=self).sums
        return float(sum(sums["kld"]) / max(1, sum(sums["tokens"])))

    @contextmanager
    def _head(self) -> Iterator[None]:
        """Let the scorer use the head that the model has now."""
        own, self._scorer.head = self._scorer.head, self._model.get_output_embeddings()
        try:
            yield
        finally:
            self._scorer.head = own

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """Keep the outputs of all decoder layers."""

        def keep(number: int) -> Callable[..., None]:
            def hook(_: Any, __: Any, output: Any) -> None:
                self._forms[number] = len(output) if isinstance(output, tuple) else 0
                states = output[0] if isinstance(output, tuple) else output
                rows = states.detach().clone()
                first, count = self._batch
                self._kept[number].update(zip(range(first, first + count), rows, strict=True))

            return hook

        with removed_after([layer.register_forward_hook(keep(n)) for n, layer in enumerate(self._layers)]):
            yield

    @contextmanager
    def _from(self, start: int) -> Iterator[None]:
        """Start at a decoder layer: the one before it returns what was kept, those before hand on theirs."""

        def hand_on(number: int) -> Callable[..., Any]:
            def forward(*args: Any, **named: Any) -> Any:
                return self._output(number, args[0] if args else named["hidden_states"])

            return forward

        def return_kept(*_: Any, **__: Any) -> Any:
            import torch

            first, count = self._batch
            rows = [self._kept[start - 1][n] for n in range(first, first + count)]
            return self._output(start - 1, torch.stack(rows))

        with ExitStack() as stack:
            for number in range(start):
                forward = return_kept if number == start - 1 else hand_on(number)
                stack.enter_context(_forward(self._layers[number], forward))
            yield

    def _output(self, number: int, states: Any) -> Any:
        length = self._forms[number]
        return (states, *[None] * (length - 1)) if length else states

    def _require_same(self, start: int) -> None:
        with self._from(start):
            again = self._score()
        if abs(again - self._floor) > _SAME + _SAME_SHARE * self._floor:
            raise MeasurementError(
                "this model cannot be replayed from the states between its decoder layers",
                given=f"{again:.3g} nats per token from the reference, where the whole run has "
                f"{self._floor:.3g}",
                accepted="architectures whose layers hand on their states and nothing else",
            )


@contextmanager
def _forward(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace a module's ``forward``; a library may have put one of its own into the instance."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
