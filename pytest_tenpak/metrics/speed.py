"""How fast a checkpoint runs, and how much memory it takes, beside the reference. Pure records.

A round times both models, one right after the other, so that what slows the machine slows both. The figure of
a phase is the geometric mean of its rounds' ratios, with the interval of every other mean of this package.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from .intervals import Estimate, Rule, estimate

#: The prompt in one forward pass, and token after token with a key-value cache.
PREFILL, DECODE = "prefill", "decode"
PHASES = (PREFILL, DECODE)


class Ratio(NamedTuple):
    """A speed over the reference's, with the interval that holds at the rule's confidence."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PhaseSpeed:
    """One phase of one checkpoint: ``tokens`` in each round, and the seconds of both models by round."""

    phase: str
    tokens: int
    reference: tuple[float, ...]
    checkpoint: tuple[float, ...]

    @property
    def rounds(self) -> int:
        """How many rounds were timed."""
        return len(self.checkpoint)

    @property
    def reference_speed(self) -> float:
        """The reference's tokens per second."""
        return self.tokens / _geometric_mean(self.reference)

    @property
    def checkpoint_speed(self) -> float:
        """The checkpoint's tokens per second."""
        return self.tokens / _geometric_mean(self.checkpoint)

    @property
    def ratio(self) -> float:
        """The checkpoint's speed over the reference's: the geometric mean over rounds."""
        return self.checkpoint_speed / self.reference_speed

    def slowdown(self, rule: Rule) -> Estimate:
        """Return the mean of ln(seconds over the reference's), a round for each window of the estimate."""
        pairs = zip(self.checkpoint, self.reference, strict=True)
        return estimate([math.log(ours / theirs) for ours, theirs in pairs], [1] * self.rounds, rule)

    def interval(self, rule: Rule) -> Ratio:
        """Return the ratio of speeds with its interval: from 0 to infinity with too few rounds."""
        found = self.slowdown(rule)
        return Ratio(math.exp(-found.value), math.exp(-found.high), math.exp(-found.low))

    def is_at_least(self, least: float, rule: Rule) -> bool | None:
        """Return True if surely at least so many times as fast, False if surely not, None if not decided."""
        return self.slowdown(rule).decides(-math.log(least))

    def rounds_to_decide(self, least: float, rule: Rule) -> float:
        """Estimate how many rounds would decide a bound if the mean stayed; infinite where none would."""
        return self.slowdown(rule).tokens_to_decide(-math.log(least))

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form, for other programs with the figures that follow from the seconds."""
        names = ("ratio", "reference_speed", "checkpoint_speed", "rounds")
        return {**asdict(self), **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> PhaseSpeed:
        """Return the phase that :meth:`to_dict` wrote, from JSON."""
        seconds = (tuple(plain[name]) for name in ("reference", "checkpoint"))
        return cls(plain["phase"], plain["tokens"], *seconds)


def _geometric_mean(figures: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, figures)) / len(figures))


def are_decided(phases: Sequence[PhaseSpeed], bounds: Mapping[str, float], rule: Rule) -> bool:
    """Return whether the rounds so far decide all bounds (least ratios by phase), or break one.

    Never where the rule allows only one look, or where there are no bounds.
    """
    if rule.fixed or not bounds:
        return False
    answers = [one.is_at_least(bounds[one.phase], rule) for one in phases if one.phase in bounds]
    return False in answers or None not in answers


@dataclass(frozen=True)
class Speed:
    """How fast both models ran in one process.

    ``prompt`` is the number of tokens in the cache before the first is decoded. ``kernel`` names the classes
    of the checkpoint's quantized layers, which say what code the library chose. ``threads``: those of torch.
    """

    phases: tuple[PhaseSpeed, ...]
    prompt: int
    kernel: str
    dtype: str
    device: str
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form, which is sent between processes and written by ``--tenpak-json``."""
        return {**asdict(self), "phases": [one.to_dict() for one in self.phases]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Speed:
        """Return the speed that :meth:`to_dict` wrote, from JSON."""
        return cls(**{**plain, "phases": tuple(map(PhaseSpeed.from_dict, plain["phases"]))})


@dataclass(frozen=True)
class Memory:
    """The peak memory of loading and running each model, alone in a process, in bytes.

    ``kind``: of what memory. ``dtype``: the torch type by name that both were loaded to run in.
    """

    reference: int
    checkpoint: int
    kind: str
    dtype: str

    @property
    def ratio(self) -> float:
        """The checkpoint's peak over the reference's."""
        return self.checkpoint / self.reference

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form, with the ratio."""
        return {**asdict(self), "ratio": self.ratio}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Memory:
        """Return the memory that :meth:`to_dict` wrote."""
        return cls(**{name: value for name, value in plain.items() if name != "ratio"})
