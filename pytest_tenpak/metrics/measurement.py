"""What is measured of one checkpoint on one corpus, and how it was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .intervals import perplexity

#: Increased whenever a change of this package changes a figure; part of every identity and cache key.
#: 1: first protocols (gptq, llamacpp, sliding), ledger from safetensors headers.
#: 2: what bitsandbytes leaves unquantized is computed in the requested type, not the stored one;
#:    LLM.int8() runs window by window.
METRICS_VERSION = 2

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
    """Bytes on disk, and the number of weights that they store.

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
class Coverage:
    """How much of the model a checkpoint holds, and how much of it is quantized.

    ``decoder_weights``: weights that methods may quantize, all matrices except embeddings and output heads
    (0: not counted). ``left_out``: how many tensors of the model's files the checkpoint no longer holds, by
    the beginning of their names: parts that are not measured, such as a vision half. ``added``: tensors that
    the checkpoint stores and the model does not, such as a head that was tied. ``nonfinite``: stored tensors
    that hold NaN or infinity, with their files; looked for only where a figure is not finite.
    """

    decoder_weights: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    added: tuple[str, ...] = ()
    nonfinite: tuple[str, ...] = ()

    def quantized_share(self, ledger: Ledger) -> float | None:
        """Return which share of the decoder's weights is quantized (0 to 1); None where that is unknown."""
        return ledger.layer_weights / self.decoder_weights if self.decoder_weights else None

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Coverage:
        """Return the coverage that ``asdict`` wrote, from JSON."""
        rows: dict[str, Any] = {n: tuple(row) if isinstance(row, list) else row for n, row in plain.items()}
        return cls(**rows)

    @property
    def in_words(self) -> str:
        """What is left out: ``144 tensors of model.visual, 2 of mtp.layers``."""
        rows = [f"{count:,} of {name}" for name, count in sorted(self.left_out.items())]
        return ", ".join(rows).replace(" of ", " tensors of ", 1)


@dataclass(frozen=True)
class Windows:
    """Sums over the scored tokens of each window; sums and counts are divided last.

    ``nll``: negative log-likelihood (nats). ``tokens``: number of scored tokens; tokens whose figures are not
    finite are left out of every sum and counted in ``lost``. ``stream``: digest of all token ids of
    the corpus. ``units``: the unit of evidence that each window belongs to, or None where each is its own.
    With a reference also ``kld`` (KL divergence from it, nats), ``disagreement`` (tokens whose most
    likely next token is another) and ``squared_dp`` (squared differences of the true token's probability).
    """

    nll: tuple[float, ...]
    tokens: tuple[int, ...]
    lost: tuple[int, ...]
    stream: str
    units: tuple[int, ...] | None = None
    kld: tuple[float, ...] = ()
    disagreement: tuple[float, ...] = ()
    squared_dp: tuple[float, ...] = ()

    @property
    def total_tokens(self) -> int:
        """Scored tokens over all windows."""
        return sum(self.tokens)

    @property
    def nonfinite(self) -> int:
        """Tokens over all windows whose figures are not finite."""
        return sum(self.lost)

    @property
    def perplexity(self) -> float:
        """exp(ΣNLL / tokens); NaN when a token was not finite or none was scored."""
        return float("nan") if self.nonfinite else perplexity(self.nll, self.tokens)

    def prefix(self, count: int) -> Windows:
        """Return the first ``count`` windows, as if no more had been measured."""
        rows: dict[str, Any] = {n: row[:count] for n, row in vars(self).items() if isinstance(row, tuple)}
        return replace(self, **rows)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Windows:
        """Return the windows that ``asdict`` wrote, from JSON."""
        rows: dict[str, Any] = {n: tuple(row) if isinstance(row, list) else row for n, row in plain.items()}
        return cls(**rows)


@dataclass(frozen=True)
class Robust:
    """Statistics of the NLL of single tokens (nats) that outliers do not move, and the share of outliers.

    ``trimmed_mean`` leaves out the tenth of tokens at either end. ``worst_share`` is the share of ΣNLL
    that the worst 0.1 % of tokens carry (0 to 1).
    """

    trimmed_mean: float
    median: float
    worst_share: float


@dataclass(frozen=True)
class Divergence:
    """KL divergence of the checkpoint's predictions from the reference's, over single tokens, in nats.

    ``kind`` is ``exact`` (over the whole vocabulary) or ``top-k lower bound`` (over the reference's most
    likely tokens and one class of all others, which can only be less). ``error`` is the standard error
    of the mean over windows, None where there are too few windows. ``top1``: share of tokens with the same
    most likely next token. ``rms_dp``: root mean square difference of the true token's probability.
    """

    kind: str
    mean: float
    error: float | None
    median: float
    p99: float
    p999: float
    maximum: float
    top1: float
    rms_dp: float

    @property
    def is_exact(self) -> bool:
        """Whether this is the whole divergence, not a lower bound."""
        return self.kind == "exact"


@dataclass(frozen=True)
class Layers:
    """What each decoder layer adds to its inputs, compared with the reference's layer on the same inputs.

    ``gain``: the size along the reference's addition (1: the same). ``error``: the distance from the
    reference's addition, as a share of its size.
    """

    gain: tuple[float, ...] = ()
    error: tuple[float, ...] = ()

    @property
    def nonfinite(self) -> list[int]:
        """The layers whose figures are not finite."""
        rows = zip(self.gain, self.error, strict=True)
        return [n for n, row in enumerate(rows) if not all(map(math.isfinite, row))]

    def to_dict(self) -> dict[str, list[float | None]]:
        """Return the plain form, in which None stands for a non-finite figure: JSON has no NaN."""
        return {n: [x if math.isfinite(x) else None for x in row] for n, row in asdict(self).items()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Sequence[float | None]]) -> Layers:
        """Return the figures that :meth:`to_dict` wrote, from JSON."""
        return cls(**{n: tuple(math.nan if x is None else x for x in row) for n, row in plain.items()})


NO_LAYERS = Layers()


@dataclass(frozen=True)
class Provenance:
    """How a measurement was made: versions by distribution name, and the machine. May differ between runs.

    ``config`` has the fields of the checkpoint's config.json that can change what it computes, nested ones
    dotted (empty where it was not recorded).
    """

    versions: Mapping[str, str]
    device: Mapping[str, str]
    config: Mapping[str, str] = field(default_factory=dict)

    def differences(self, other: Provenance) -> list[str]:
        """List ``name old → new`` for each entry that differs between ``self`` (old) and ``other`` (new)."""
        pairs = ((self.versions, other.versions), (self.device, other.device))
        return [row for old, new in pairs for row in _differences(old, new)] + self.config_differences(other)

    def config_differences(self, other: Provenance) -> list[str]:
        """List ``config NAME old → new`` for each differing field, where both recorded the config."""
        if not (self.config and other.config):
            return []
        return [f"config {row}" for row in _differences(self.config, other.config)]


def _differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    pairs = [(name, old.get(name, "none"), new.get(name, "none")) for name in sorted({*old, *new})]
    return [f"{name} {before} → {after}" for name, before, after in pairs if before != after]


@dataclass(frozen=True)
class Noise:
    """How far figures move although nothing got worse, as ``--tenpak-calibrate-noise`` measured it.

    ``requantizations``: how often the spec was quantized again, with other samples and seeds. ``spread``:
    the standard deviation of ln perplexity among these and the measured checkpoint (0: all have the same
    weights). ``layers``: the largest movement of a decoder layer's gain or error. ``runtime``: by what was
    changed (``batch_size``, ``threads``, ``dtype``), the difference of ln perplexity of the same weights.
    """

    requantizations: int
    spread: float
    layers: float
    runtime: Mapping[str, float]

    def half_width(self, alpha: float) -> float:
        """Return the largest difference (ln perplexity) of two requantizations, but for a share ``alpha``.

        Student's t for the difference of two draws, √2 · t · spread, with one degree of freedom for each
        requantization: with few of them the spread is poorly known, and the half-width is large.
        """
        if not self.spread:
            return 0.0
        from scipy.special import stdtrit

        return float(math.sqrt(2) * stdtrit(self.requantizations, 1 - alpha) * self.spread)

    @property
    def runtime_maximum(self) -> float:
        """The largest difference of ln perplexity when the same weights are run in another way."""
        return max(self.runtime.values(), default=0.0)

    @property
    def runtime_floor(self) -> float:
        """The largest difference of ln perplexity that batch size and threads make for the same weights."""
        return max((moved for name, moved in self.runtime.items() if name != "dtype"), default=0.0)


@dataclass(frozen=True)
class Measurement:
    """All metrics of one checkpoint on one corpus.

    ``identity`` says what was measured and how; two measurements are comparable only where it is equal.
    ``weights_digest`` identifies the stored weights, ``loader`` the library that loaded them.
    ``budget`` is the number of tokens that could have been measured, ``vocabulary`` the number of tokens that
    each is predicted among (0: not recorded).
    """

    windows: Windows
    ledger: Ledger
    identity: Mapping[str, Any]
    weights_digest: str
    provenance: Provenance
    loader: str
    budget: int = 0
    robust: Robust | None = None
    divergence: Divergence | None = None
    layers: Layers = NO_LAYERS
    coverage: Coverage = field(default_factory=Coverage)
    vocabulary: int = 0

    @property
    def guessing(self) -> float | None:
        """The mean NLL over that of guessing, ln(vocabulary): 1 is as bad; None where that is unknown."""
        if self.vocabulary < 2 or not math.isfinite(self.perplexity):
            return None
        return math.log(self.perplexity) / math.log(self.vocabulary)

    @property
    def perplexity(self) -> float:
        """Perplexity over all windows (NaN when a token was not finite)."""
        return self.windows.perplexity

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form, which is sent between processes and cached."""
        return {**asdict(self), "layers": self.layers.to_dict()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Measurement:
        """Return the measurement that :meth:`to_dict` wrote."""
        nested = {
            "windows": Windows.from_dict(plain["windows"]),
            "ledger": Ledger(**plain["ledger"]),
            "provenance": Provenance(**plain["provenance"]),
            "layers": Layers.from_dict(plain["layers"]),
            "coverage": Coverage.from_dict(plain["coverage"]),
            "robust": Robust(**plain["robust"]) if plain["robust"] else None,
            "divergence": Divergence(**plain["divergence"]) if plain["divergence"] else None,
        }
        return cls(**{**plain, **nested})
