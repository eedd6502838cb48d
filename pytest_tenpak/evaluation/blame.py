"""Blame: the divergence of a checkpoint by the modules that it differs from the reference in.

Each part of the checkpoint is put into the reference by itself (``replay.py``), on the few windows in which
the whole checkpoint diverges most: damage is visible there, and many modules times many tokens are dear.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import MeasurementError
from ..metrics.blame import Blame, ModuleBlame
from ..models.decoder import decoder_layers
from ..progress import Progress, ignore
from .parts import by_block, by_layer, differing_parts
from .protocol import Window
from .replay import Chosen, Part, Replay
from .trace import Trace

if TYPE_CHECKING:
    from .perplexity import Scorer

#: What all replays together may cost, in passes over the tokens that the checkpoint was measured on. Loading
#: a second model comes on top; both together stay within four times one measurement.
PASSES = 3.0
#: The most tokens that each part is run on: shares are as clear with them as with more.
MOST_TOKENS = 1024
#: With fewer tokens than this for each part, whole layers are run first, and the parts of the worst ones.
_LEAST_TOKENS = 64
#: Passes that keep the reference's states, and check them.
_KEEPING = 1.5
#: Of what layers are run first, the share of the budget that all of them may take.
_FIRST = 0.5


def tokens_to_run(measured: int, modules: int) -> float:
    """Return how many tokens' forward passes blame costs at most, after ``measured`` ones.

    ``modules`` is the number of quantized ones (0: not known). The mean module costs two thirds of a pass,
    the head's products being part of each; whole layers come on top.
    """
    most = (_KEEPING + modules) * MOST_TOKENS if modules else math.inf
    return min(PASSES * measured, most)


class Models(NamedTuple):
    """Both models, loaded, with the reference's scorer and the traces that were measured of each."""

    reference: Any
    checkpoint: Any
    scorer: Scorer
    reference_trace: Trace
    trace: Trace


def find_blame(
    models: Models,
    windows: Sequence[Window],
    *,
    budget: int = 0,
    whole_blocks: bool = False,
    progress: Progress = ignore,
) -> Blame:
    """Return the divergence of each part in which the checkpoint differs from the reference.

    ``windows`` are those that the checkpoint was measured on, from the first one of the plan. ``budget`` is
    the number of scored tokens of one full measurement (0: those of ``windows``), PASSES of which are run.
    With ``whole_blocks`` the parts are attention and MLP with their norms, for methods that move scales
    between layers. Raises MeasurementError where the modules do not correspond, or the model cannot be
    replayed. The same models and windows give the same blame; ``seconds`` is left to the caller.
    """
    if not len(decoder_layers(models.reference)):
        raise MeasurementError(
            "the decoder layers of this model are not known",
            given=type(models.reference).__name__,
            accepted="models with their decoder layers in one list",
        )
    parts = differing_parts(models.reference, models.checkpoint)
    notes = []
    if whole_blocks:
        parts = by_block(models.reference, parts)
        notes.append(
            "the method moves scales between layers, so attention and MLP are swapped whole, with their norms"
        )
    if not parts:
        return Blame(note="no module of the checkpoint differs from the reference's")
    scored = sum(window.scored for window in windows)
    run = PASSES * (budget or scored) * sum(map(_run_tokens, windows)) / scored
    search = _Search(models, windows, run, progress)
    return search.layers_first(parts, notes) if search.is_dear(parts) else search.all(parts, notes)


@dataclass(frozen=True)
class _Search:
    """A search within a budget, in tokens that run through the whole model."""

    models: Models
    windows: Sequence[Window]
    budget: float
    progress: Progress

    def is_dear(self, parts: Sequence[Part]) -> bool:
        """Return whether the budget allows each part too few tokens."""
        return self._room([*self._layers(parts), *parts], self.budget) < _LEAST_TOKENS

    def all(self, parts: Sequence[Part], notes: Sequence[str]) -> Blame:
        """Swap every decoder layer, and every part."""
        layers = self._layers(parts)
        chosen = self._choose(self._room([*layers, *parts], self.budget))
        found = self._run(self._replay(chosen), [*layers, *parts])
        of_layers, of_parts = ({part.name: found[part.name] for part in row} for row in (layers, parts))
        return self._blame(chosen, of_parts, of_layers, notes)

    def layers_first(self, parts: Sequence[Part], notes: Sequence[str]) -> Blame:
        """Swap decoder layers and what is in none, then the parts of the worst layers within the budget."""
        layers = self._layers(parts)
        rest = [part for part in parts if not any(_is_in(part, layer) for layer in layers)]
        chosen = self._choose(self._room([*layers, *rest], _FIRST * self.budget))
        replay = self._replay(chosen)
        found = self._run(replay, layers)
        left = self.budget / sum(_run_tokens(one.window) for one in chosen)
        left -= _KEEPING + self._cost([*layers, *rest])
        opened: list[str] = []
        wanted = list(rest)
        for layer in sorted(layers, key=lambda layer: -found[layer.name]):
            inside = [part for part in parts if _is_in(part, layer)]
            left -= self._cost(inside)
            if opened and left < 0:
                break
            opened.append(layer.name)
            wanted += inside
        closed = {name: kld for name, kld in found.items() if name not in opened}
        words = f"whole layers were swapped first, and the modules of the {len(opened)} worst of them"
        modules = {**closed, **self._run(replay, wanted)}
        return self._blame(chosen, modules, found, [*notes, words])

    def _layers(self, parts: Sequence[Part]) -> list[Part]:
        """Return the decoder layers that differ, each as one part."""
        names = {part.name for part in parts}
        return [layer for layer in by_layer(self.models.reference, parts) if layer.name not in names]

    def _run(self, replay: Replay, parts: Sequence[Part]) -> dict[str, float]:
        found = {}
        for number, part in enumerate(parts):
            found[part.name] = replay.divergence(part)
            self.progress(number + 1, len(parts), "modules")
        return found

    def _replay(self, chosen: Sequence[Chosen]) -> Replay:
        models = self.models
        return Replay(models.reference, models.scorer, models.reference_trace, chosen)

    def _blame(
        self,
        chosen: Sequence[Chosen],
        modules: dict[str, float],
        layers: dict[str, float],
        notes: Sequence[str],
    ) -> Blame:
        total = sum(float(self._by_token(one).double().sum()) for one in chosen)
        tokens = sum(one.window.scored for one in chosen)
        return Blame(_sorted(modules), _sorted(layers), total / tokens, tokens, note="; ".join(notes))

    def _by_token(self, chosen: Chosen) -> Any:
        return self.models.trace.read("kld", chosen.number, 1)[: chosen.window.scored]

    def _room(self, parts: Sequence[Part], budget: float) -> float:
        """Return how many tokens a budget allows to run through each part."""
        return min(MOST_TOKENS, budget / (_KEEPING + self._cost(parts)))

    def _cost(self, parts: Sequence[Part]) -> float:
        """Return what replaying all parts costs, in passes through the whole model.

        Counted in weights: those of layers once, those of the head twice, since the reference's predictions
        are computed again from its states.
        """
        layers = decoder_layers(self.models.reference)
        body = sum(weights.numel() for weights in layers.parameters())
        head = 2 * sum(weights.numel() for weights in _parameters(self.models.scorer.head))
        run = sum((1 - part.start / len(layers)) * body + head for part in parts)
        return float(run / (body + head))

    def _choose(self, room: float) -> list[Chosen]:
        """Return the windows with the largest divergence per token, as many as have room, in order.

        Where the first has no room, its beginning.
        """
        count = len(self.windows)
        kld = self.models.trace.windows(0).kld[:count]
        worst = sorted(range(count), key=lambda n: (-kld[n] / self.windows[n].scored, n))
        chosen: list[Chosen] = []
        for number in worst:
            window = self.windows[number]
            if _run_tokens(window) <= room:
                room -= _run_tokens(window)
                chosen.append(Chosen(number, window))
            elif not chosen:
                return [Chosen(number, _beginning(window, room))]
            else:
                break
        return sorted(chosen)


def _sorted(found: dict[str, float]) -> tuple[ModuleBlame, ...]:
    return tuple(sorted((ModuleBlame(*row) for row in found.items()), key=lambda one: -one.kld))


def _is_in(part: Part, layer: Part) -> bool:
    return part.name.startswith(f"{layer.name}.")


def _parameters(head: Any) -> Any:
    return head.parameters() if head is not None else ()


def _run_tokens(window: Window) -> int:
    return window.stop - 1 - window.start


def _beginning(window: Window, room: float) -> Window:
    """Return the beginning of a window that runs ``room`` tokens, and scores enough to see something."""
    stop = max(window.start + 1 + int(room), window.first_scored + _LEAST_TOKENS)
    return window._replace(stop=min(window.stop, stop))
