"""What the checkpoint of one case is compared with, and by which rules: made once, used by every decision.

The pipeline makes it before anything is measured. The process that measures gets the criteria derived from
it; the verdict, and ``tenpak accept`` later, decide by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..baselines.entry import Entry
from ..baselines.identity import question_changes
from ..metrics.device_class import are_both_cpus, spread_between_cpus
from ..metrics.intervals import DEFAULT_RULE, Rule
from ..metrics.measurement import Noise, Windows
from .checks import Limits, Tolerances
from .criteria import Criterion

#: Movements below this are the rounding of stored figures.
ROUNDING = 2e-6


@dataclass(frozen=True)
class Comparison:
    """Limits against the reference, and tolerances against a baseline entry.

    ``identity`` and ``weights_digest`` are those of the measured checkpoint, ``entry`` is the baseline entry
    to compare with, if there is one. ``entry_device`` names the device class of the entry where it is not
    the run's own, ``device``. ``calibrated`` is noise that this run measured; it replaces the entry's.
    ``same_but`` explains digests that an entry may have: of texts with other line ends than the measured one.
    ``tokenizer_changes`` says how the checkpoint's tokenizer files differ from the model's.
    """

    limits: Limits
    tolerances: Tolerances
    identity: Mapping[str, Any]
    weights_digest: str
    entry: Entry | None = None
    entry_device: str = ""
    device: str = ""
    rule: Rule = DEFAULT_RULE
    calibrated: Noise | None = None
    same_but: Mapping[str, str] = field(default_factory=dict)
    tokenizer_changes: tuple[str, ...] = ()

    @cached_property
    def changes(self) -> list[str]:
        """How the identity differs from the entry's, one line per field; empty without an entry."""
        if self.entry is None:
            return []
        return question_changes(self.entry, self.identity, self.entry_device, self.same_but)

    @property
    def comparable(self) -> Entry | None:
        """The entry, if its identity agrees with that of the checkpoint."""
        return None if self.changes else self.entry

    @property
    def compared_device(self) -> str:
        """The device class of the comparable entry; empty without one."""
        return (self.entry_device or self.device) if self.comparable else ""

    @property
    def same_weights(self) -> bool:
        """Whether the comparable entry was accepted for exactly the measured weights."""
        return self.comparable is not None and self.comparable.has_weights(self.weights_digest)

    @property
    def noise(self) -> Noise | None:
        """The noise of this recipe, if it was calibrated: how far figures move with nothing worse."""
        return self.calibrated or (self.comparable.noise if self.comparable else None)

    @property
    def tolerance(self) -> float:
        """How far perplexity may rise, relative; tighter for the same weights on the same device class."""
        return self.tolerances.of_perplexity(self.same_weights and not self.entry_device)

    @property
    def spread(self) -> float:
        """Half-width (ln perplexity) of the error against the entry that no number of windows reduces."""
        requantized = 0.0
        if self.noise is not None and not self.same_weights:
            requantized = self.noise.half_width(self.rule.alpha)
        return requantized + self.between_devices

    @property
    def between_devices(self) -> float:
        """How far ln perplexity may move between the entry's device class and the run's, if that is known."""
        if not self.entry_device:
            return 0.0
        calibrated = self.noise.runtime_maximum if self.noise else 0.0
        if not are_both_cpus(self.device, self.entry_device):
            return calibrated
        spec = self.identity.get("spec") or {}
        return max(calibrated, spread_between_cpus(spec.get("method", "")))

    @property
    def drift_left(self) -> float:
        """How much further (ln perplexity) the entry may drift from its anchor; infinite without a limit."""
        if self.comparable is None or not self.tolerances.drift:
            return math.inf
        # Drift is stored rounded: where no tolerance is left, rounding must not count as drift.
        allowed = math.log1p(self.tolerances.drift * self.tolerances.ppl)
        return allowed - self.comparable.anchor.drift + ROUNDING

    @property
    def layers_bound(self) -> float:
        """How far a decoder layer's gain or error may move: at least twice its calibrated noise."""
        return max(self.tolerances.layers, 2 * self.noise.layers) if self.noise else self.tolerances.layers

    # ------------------------------------------------------------ criteria

    def criteria(self, reference: Windows) -> list[Criterion]:
        """Return all criteria, in the order of the checks."""
        return [*self.limit_criteria(reference), *self.baseline_criteria()]

    def limit_criteria(self, reference: Windows) -> list[Criterion]:
        """Return the criteria of the limits, paired with the reference's windows where that is sharper."""
        limits, criteria = self.limits, []
        if limits.max_ppl_delta is not None:
            bound = math.log1p(limits.max_ppl_delta)
            criteria.append(Criterion("max_ppl_delta", "nll", bound, reference.nll))
        if limits.max_kld is not None:
            criteria.append(Criterion("max_kld", "kld", limits.max_kld))
        if limits.min_top1 is not None:
            criteria.append(Criterion("min_top1", "disagreement", 1 - limits.min_top1))
        return criteria

    def baseline_criteria(self) -> list[Criterion]:
        """Return the criterion of the perplexity tolerance, and of the drift left where that is tighter."""
        if self.comparable is None:
            return []
        bounds = {"ppl_tolerance": math.log1p(self.tolerance)}
        if 0 < self.drift_left < bounds["ppl_tolerance"]:
            bounds["drift"] = self.drift_left
        return [self._against_entry(self.comparable, name, bound) for name, bound in bounds.items()]

    def _against_entry(self, entry: Entry, name: str, bound: float) -> Criterion:
        return Criterion(name, "nll", bound, entry.nll, ends=True, spread=self.spread, unchanged=0.0)
