"""Which modules carry a checkpoint's divergence from the reference: pure records, the rule of culprits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

#: Increased whenever a change of this package changes a figure of blame; part of cache keys.
BLAME_VERSION = 1
#: Between which ratios of Σ modules / total the modules' divergences count as adding up to the checkpoint's.
ADDS_UP = (0.5, 2.0)
#: In how many even shares a module stands out; of few modules, with half of the whole.
_STANDS_OUT, _HALF = 3, 0.5


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

    ``total``: that of the whole checkpoint on the same ``tokens``, nats per token. ``seconds``: what it took.
    ``note``: what is to be known about the parts; without any modules, why there are none.
    """

    modules: tuple[ModuleBlame, ...] = ()
    total: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    note: str = ""

    @property
    def additivity(self) -> float | None:
        """The sum of the modules' divergences over the total; None where there is nothing to divide.

        Small independent errors add up to about 1, since divergence is quadratic in them. Errors that undo
        one another give more, errors that only hurt together, or are in no module, give less.
        """
        return self._sum / self.total if self.modules and self.total > 0 else None

    @property
    def adds_up(self) -> bool:
        """Whether the modules' divergences add up to the checkpoint's, within a factor of two.

        Beyond that, what the modules do together weighs more than what each does alone, so that the largest
        share may be that of a module whose repair would change little.
        """
        low, high = ADDS_UP
        return self.additivity is not None and low <= self.additivity <= high

    @property
    def shares(self) -> dict[str, float]:
        """Each module's divergence over the sum of all, by name, the largest first."""
        return _shares({module.name: module.kld for module in self.modules})

    @property
    def layer_shares(self) -> dict[int, float]:
        """The same by the number of the decoder layer; what is in none is left out of the list."""
        sums: dict[int | None, float] = {}
        for module in self.modules:
            sums[module.layer] = sums.get(module.layer, 0.0) + module.kld
        return {layer: share for layer, share in _shares(sums).items() if layer is not None}

    def culprits(self, n: int = 5) -> list[str]:
        """Return at most ``n`` modules to blame, the worst first; none where blame would be a guess.

        That is where shares do not add up (see :attr:`adds_up`), and for modules that do not stand out. One
        stands out with three times the share that it would have if all were alike, or half of the whole:
        healthy modules of one method differ by about as much (docs/blame.md), and what is everywhere is no
        fault of a module.
        """
        return _outstanding(self.shares)[:n] if self.adds_up else []

    def culprit_layers(self, n: int = 5) -> list[int]:
        """Return at most ``n`` decoder layers to blame, by the same rule."""
        return _outstanding(self.layer_shares)[:n] if self.adds_up else []

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form, which is cached, and written by ``--tenpak-json`` with what is derived."""
        derived = {
            "additivity": self.additivity,
            "culprits": self.culprits(),
            "culprit_layers": self.culprit_layers(),
        }
        return {**asdict(self), **derived}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Blame:
        """Return the blame that :meth:`to_dict` wrote; what is derived is derived again."""
        modules = tuple(ModuleBlame(**row) for row in plain["modules"])
        return cls(modules, *(plain[name] for name in ("total", "tokens", "seconds", "note")))

    @property
    def _sum(self) -> float:
        return math.fsum(module.kld for module in self.modules)


def _shares(parts: Mapping[Any, float]) -> dict[Any, float]:
    whole = math.fsum(parts.values())
    if not whole:
        return {}
    return {name: kld / whole for name, kld in sorted(parts.items(), key=lambda part: -part[1])}


def _outstanding(shares: Mapping[Any, float]) -> list[Any]:
    least = min(_STANDS_OUT / max(1, len(shares)), _HALF)
    return [name for name, share in shares.items() if share >= least]
