"""What is measured of one checkpoint on one corpus, and the record of how it came to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .statistics import perplexity

#: Raised whenever a change of this package changes a figure; part of every identity and cache key.
#: 1: first protocols (gptq, llamacpp, sliding), ledger from safetensors headers.
METRICS_VERSION = 1

#: The ledger's ratios, each with its denominator in its name. The first is the headline.
RATIOS = {
    "whole_vs_16bit": "whole checkpoint vs 16 bit",
    "whole_vs_32bit": "whole checkpoint vs 32 bit",
    "layers_vs_16bit": "quantized layers vs 16 bit",
    "layers_vs_32bit": "quantized layers vs 32 bit",
}
HEADLINE = "whole_vs_16bit"


@dataclass(frozen=True)
class Ledger:
    """Bytes on disk beside the weights they stand for.

    ``weights``: all weights of the unquantized model, tied embeddings once. ``tensor_bytes``: all
    stored tensors. ``file_bytes``: the weight files, headers included. ``layer_weights`` and
    ``layer_bytes``: the same for the quantized layers alone (codes, scales, zeros, indices).
    """

    weights: int
    tensor_bytes: int
    file_bytes: int
    layer_weights: int = 0
    layer_bytes: int = 0

    @property
    def bits_per_weight(self) -> float | None:
        """Bits per weight of the quantized layers; None where nothing is quantized."""
        return 8 * self.layer_bytes / self.layer_weights if self.layer_weights else None

    @property
    def ratios(self) -> dict[str, float]:
        """Compression by the names in RATIOS; those of the layers only where some are quantized."""
        ratios = {
            "whole_vs_16bit": 2 * self.weights / self.tensor_bytes,
            "whole_vs_32bit": 4 * self.weights / self.tensor_bytes,
        }
        if self.layer_bytes:
            ratios["layers_vs_16bit"] = 2 * self.layer_weights / self.layer_bytes
            ratios["layers_vs_32bit"] = 4 * self.layer_weights / self.layer_bytes
        return ratios


@dataclass(frozen=True)
class WindowNLL:
    """Negative log-likelihoods: their sum (nats) and the number of scored tokens of each window.

    Sums and counts stay apart and are divided last. Tokens whose NLL is not finite are left out of
    both and counted in ``nonfinite``. ``stream`` is the digest of the token ids that were run.
    """

    nll: tuple[float, ...]
    tokens: tuple[int, ...]
    nonfinite: int
    stream: str

    @property
    def total_tokens(self) -> int:
        """Scored tokens over all windows."""
        return sum(self.tokens)

    @property
    def perplexity(self) -> float:
        """exp(ΣNLL / tokens); NaN when a token was not finite or none was scored."""
        return float("nan") if self.nonfinite else perplexity(self.nll, self.tokens)


@dataclass(frozen=True)
class Provenance:
    """How a measurement came to be: versions by distribution name, and the machine. May differ."""

    versions: Mapping[str, str]
    device: Mapping[str, str]

    def differences(self, other: Provenance) -> list[str]:
        """``name old → new`` for each entry of ``self`` (old) that is another in ``other`` (new)."""
        rows = []
        for old, new in ((self.versions, other.versions), (self.device, other.device)):
            for name in sorted({*old, *new}):
                before, after = old.get(name, "none"), new.get(name, "none")
                if before != after:
                    rows.append(f"{name} {before} → {after}")
        return rows


@dataclass(frozen=True)
class Measurement:
    """All metrics of one checkpoint on one corpus.

    ``identity`` says which question was answered; two measurements compare only when theirs agree.
    ``weights_digest`` tells whether the same bytes were measured. ``loader`` is who loaded them.
    """

    windows: WindowNLL
    ledger: Ledger
    identity: Mapping[str, Any]
    weights_digest: str
    provenance: Provenance
    loader: str
    seconds: float = field(default=0.0, compare=False)

    @property
    def perplexity(self) -> float:
        """Perplexity over all windows (NaN when a token was not finite)."""
        return self.windows.perplexity

    def to_dict(self) -> dict[str, Any]:
        """Plain form: what travels between processes and into the cache."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Measurement:
        """The measurement that :meth:`to_dict` wrote."""
        windows = plain["windows"]
        return cls(
            windows=WindowNLL(
                tuple(windows["nll"]), tuple(windows["tokens"]), windows["nonfinite"], windows["stream"]
            ),
            ledger=Ledger(**plain["ledger"]),
            identity=plain["identity"],
            weights_digest=plain["weights_digest"],
            provenance=Provenance(**plain["provenance"]),
            loader=plain["loader"],
            seconds=plain["seconds"],
        )
