"""Which modules carry a checkpoint's divergence from the reference: pure records, the rule of culprits."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

#: Increased whenever a change of this package changes a figure of blame; part of cache keys.
BLAME_VERSION = 1
#: Between which ratios of their sum to the whole parts explain it.
ADDS_UP = (0.5, 2.0)
#: A part stands out with so many times the divergence that it would have if all were alike, and with at least
#: a quarter of the whole; of few parts, three quarters are enough. Modules of healthy checkpoints differ by
#: several even shares, and none of them has a quarter (docs/blame.md).
STANDS_OUT, _LEAST, _MOST = 3.0, 0.25, 0.75


@dataclass(frozen=True)
class ModuleBlame:
    """One module: ``name`` is its path in the reference, ``kld`` its divergence in nats per token.

    That is the KL divergence from the reference of the reference with this module, and nothing else, taken
    from the checkpoint. The name of a part of several modules is that of their block or decoder layer.
    """

    name: str
    kld: float

    @property
    def layer(self) -> int | None:
        """The number of the decoder layer; None for embeddings, the last norm and the head."""
        return next((int(part) for part in self.name.split(".") if part.isdecimal()), None)


@dataclass(frozen=True)
class Blame:
    """The divergence of a checkpoint by modules, which share no weights and together are all that differs.

    ``total``: that of the whole checkpoint on the same ``tokens``, nats per token. ``layers``: that of each
    decoder layer as a whole: errors of its modules that belong together, such as scales that are all too
    large, hurt more than the modules one by one. ``seconds``: what it took. ``note``: what is to be known
    about the parts; without any modules, why there are none.
    """

    modules: tuple[ModuleBlame, ...] = ()
    layers: tuple[ModuleBlame, ...] = ()
    total: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    note: str = ""

    @property
    def additivity(self) -> float | None:
        """The sum of the modules' divergences over the total; None where there is nothing to divide.

        Small independent errors add up to about 1, since divergence is quadratic in them. Errors that undo
        one another give more; errors that hurt together, or are in no module, give less.
        """
        return self._ratio(self.modules)

    @property
    def layer_additivity(self) -> float | None:
        """The same for whole decoder layers, and what is in none of them."""
        return self._ratio(self._layers_and_rest)

    @property
    def shares(self) -> dict[str, float]:
        """Each module's divergence over the sum of all, by name, the largest first."""
        return _shares({module.name: module.kld for module in self.modules})

    @property
    def layer_shares(self) -> dict[int, float]:
        """Each decoder layer's divergence over the sum of all and what is in none, by number."""
        numbers = {layer.name: layer.layer for layer in self.layers}
        shares = _shares({one.name: one.kld for one in self._layers_and_rest})
        found = ((numbers.get(name), share) for name, share in shares.items())
        return {number: share for number, share in found if number is not None}

    def culprits(self, n: int = 5) -> list[str]:
        """Return at most ``n`` modules to blame, the worst first; none where blame would be a guess.

        That is where the modules do not add up to the checkpoint, within a factor of two: beyond that, what
        they do together weighs more than what each does alone, and repairing the largest may change little.
        Neither is a module to blame that does not stand out: see :data:`STANDS_OUT`.
        """
        return self._outstanding(self.modules)[:n]

    def culprit_layers(self, n: int = 5) -> list[int]:
        """Return at most ``n`` decoder layers to blame, by the same rule."""
        numbers = {layer.name: layer.layer for layer in self.layers}
        found = [numbers[name] for name in self._outstanding(self._layers_and_rest) if name in numbers]
        return [number for number in found if number is not None][:n]

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form, which is cached, and written by ``--tenpak-json`` with what is derived."""
        derived = {
            "additivity": self.additivity,
            "layer_additivity": self.layer_additivity,
            "culprits": self.culprits(),
            "culprit_layers": self.culprit_layers(),
        }
        return {**asdict(self), **derived}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Blame:
        """Return the blame that :meth:`to_dict` wrote; what is derived is derived again."""
        modules, layers = ([ModuleBlame(**row) for row in plain[name]] for name in ("modules", "layers"))
        rest = (plain[name] for name in ("total", "tokens", "seconds", "note"))
        return cls(tuple(modules), tuple(layers), *rest)

    @property
    def _layers_and_rest(self) -> tuple[ModuleBlame, ...]:
        """The decoder layers, and the modules that are in none."""
        return (*self.layers, *(module for module in self.modules if module.layer is None))

    def _ratio(self, parts: Collection[ModuleBlame]) -> float | None:
        return _sum(parts) / self.total if parts and self.total > 0 else None

    def _outstanding(self, parts: Collection[ModuleBlame]) -> list[str]:
        if not adds_up(self._ratio(parts)):
            return []
        # Of what the parts leave unexplained, none is to blame.
        whole = max(self.total, _sum(parts))
        least = min(max(STANDS_OUT / len(parts), _LEAST), _MOST)
        ordered = sorted(parts, key=lambda part: -part.kld)
        return [part.name for part in ordered if part.kld >= least * whole]


def adds_up(ratio: float | None) -> bool:
    """Return whether parts whose sum has this ratio to the whole explain it, within a factor of two."""
    low, high = ADDS_UP
    return ratio is not None and low <= ratio <= high


def _sum(parts: Collection[ModuleBlame]) -> float:
    return math.fsum(part.kld for part in parts)


def _shares(parts: Mapping[str, float]) -> dict[str, float]:
    whole = math.fsum(parts.values())
    if not whole:
        return {}
    return {name: kld / whole for name, kld in sorted(parts.items(), key=lambda part: -part[1])}
