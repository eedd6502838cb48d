"""The baseline: accepted figures of one case, per device class, and how new figures replace them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..metrics.audit import Audit
from ..metrics.device_class import are_both_cpus, distance
from ..metrics.intervals import perplexity
from ..metrics.measurement import HEADLINE, NO_LAYERS, Layers, Ledger, Measurement, Noise, Provenance
from ..store.atomic import write_atomically
from ..store.digest import labelled
from .file_format import DECIMALS, check_digests, load, migrate, refuse, render

#: How many replaced figures an entry stores.
HISTORY_LENGTH = 10


@dataclass(frozen=True)
class Figures:
    """The figures a reviewer reads. ``compression`` is the whole checkpoint vs 16 bit.

    ``kld`` (mean, nats per token) and ``top1`` (agreement) are None where there was no reference to compare
    with. ``divergence`` is the kind of ``kld``, where it is known: ``exact`` or ``top-k lower bound``.
    """

    perplexity: float
    reference_perplexity: float
    bits_per_weight: float | None
    compression: float
    kld: float | None = None
    top1: float | None = None
    divergence: str | None = None

    @property
    def ppl_delta(self) -> float:
        """Perplexity over the reference's, relative: 0.01 is 1 % above it."""
        return self.perplexity / self.reference_perplexity - 1

    @property
    def loss(self) -> float:
        """Nats per token lost to quantization: ln of perplexity over the reference's."""
        return math.log(self.perplexity / self.reference_perplexity)

    @property
    def kld_is_bound(self) -> bool:
        """Whether ``kld`` is a lower bound, and the true divergence may be larger."""
        return self.divergence not in (None, "exact")

    @classmethod
    def of(cls, measurement: Measurement, reference: Measurement) -> Figures:
        """Return the figures of a measurement, unrounded."""
        divergence = measurement.divergence
        return cls(
            perplexity=measurement.perplexity,
            reference_perplexity=reference.perplexity,
            bits_per_weight=measurement.ledger.bits_per_weight,
            compression=measurement.ledger.ratios[HEADLINE],
            kld=divergence.mean if divergence else None,
            top1=divergence.top1 if divergence else None,
            divergence=divergence.kind if divergence else None,
        )

    def rounded(self) -> Figures:
        """Return the figures rounded as they are stored."""
        rows: dict[str, Any] = asdict(self)
        stored: dict[str, Any] = {n: round(x, DECIMALS) for n, x in rows.items() if isinstance(x, float)}
        return replace(self, **stored)


@dataclass(frozen=True)
class Replaced:
    """Figures that were accepted earlier, and why they were replaced."""

    figures: Figures
    reason: str


@dataclass(frozen=True)
class Anchor:
    """The figures that drift is counted from.

    ``drift`` is the sum of the accepted steps since then: ln perplexity, each step paired with the one before
    over the windows that both had. ``reason`` says why these are not the first figures, or why they were
    accepted in addition to those of another device class.
    """

    figures: Figures
    layers: Layers = NO_LAYERS
    reason: str = ""
    drift: float = 0.0


@dataclass(frozen=True)
class AuditedFigures:
    """What an audit found of the accepted checkpoint: each quantized layer, and the files beside the weights.

    ``names``, ``error``, ``gain``: by layer, relative to the model's weights. ``files``: what the
    checkpoint's files say otherwise than the model's, and its quantization config.
    """

    names: tuple[str, ...] = ()
    error: tuple[float, ...] = ()
    gain: tuple[float, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, audit: Audit) -> AuditedFigures | None:
        """Return the figures of an audit, rounded as they are stored; None where nothing was audited."""
        found = audit.weights.layers if audit.weights else ()
        layers = [layer for layer in found if math.isfinite(layer.error) and math.isfinite(layer.gain)]
        files = audit.files.own_fields if audit.files else {}
        if not (layers or files):
            return None
        return cls(
            tuple(layer.name for layer in layers),
            tuple(round(layer.error, DECIMALS) for layer in layers),
            tuple(round(layer.gain, DECIMALS) for layer in layers),
            files,
        )

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> AuditedFigures:
        """Return the figures that ``asdict`` wrote, from JSON."""
        return cls(tuple(plain["names"]), tuple(plain["error"]), tuple(plain["gain"]), plain["files"])


@dataclass(frozen=True)
class Entry:
    """The accepted figures of one device class.

    ``nll`` (nats, summed per window) and ``tokens`` let a later run be compared window by window,
    ``layers`` layer by layer. ``noise`` was measured by ``--tenpak-calibrate-noise``, if that was used.
    ``audit`` is what the audit found, if there was one. ``anchor`` holds the first accepted figures,
    ``history`` the latest replaced ones, newest first.
    """

    identity: Mapping[str, Any]
    figures: Figures
    ledger: Ledger
    nll: tuple[float, ...]
    tokens: tuple[int, ...]
    weights_digest: str
    provenance: Provenance
    anchor: Anchor
    history: tuple[Replaced, ...] = ()
    layers: Layers = NO_LAYERS
    noise: Noise | None = None
    audit: AuditedFigures | None = None

    @classmethod
    def of(
        cls,
        measurement: Measurement,
        reference: Measurement,
        noise: Noise | None = None,
        audit: Audit | None = None,
    ) -> Entry:
        """Make a first entry: its own anchor, without history."""
        figures = Figures.of(measurement, reference).rounded()
        layers = Layers(*(tuple(round(x, DECIMALS) for x in row) for row in astuple(measurement.layers)))
        return cls(
            identity=measurement.identity,
            figures=figures,
            ledger=measurement.ledger,
            nll=tuple(round(nll, DECIMALS) for nll in measurement.windows.nll),
            tokens=measurement.windows.tokens,
            weights_digest=labelled(measurement.weights_digest),
            provenance=measurement.provenance,
            anchor=Anchor(figures, layers),
            layers=layers,
            noise=noise and _rounded_noise(noise),
            audit=AuditedFigures.of(audit) if audit else None,
        )

    @property
    def is_anchor(self) -> bool:
        """Whether the anchor holds these same figures."""
        return self.anchor.figures == self.figures and self.anchor.layers == self.layers

    def replacing(self, old: Entry, reason: str, reanchor: bool = False) -> Entry:
        """Return this entry as the successor of ``old``, with the anchor of ``old`` unless ``reanchor``.

        With another identity the figures are not comparable: the entry is its own anchor, and the noise of
        ``old`` does not apply.
        """
        past = (Replaced(old.figures, reason), *old.history)[:HISTORY_LENGTH]
        if old.identity != self.identity:
            return replace(self, history=past)
        drift = round(old.anchor.drift + self.moved_since(old), DECIMALS)
        anchor = replace(self.anchor, reason=reason) if reanchor else replace(old.anchor, drift=drift)
        return replace(self, anchor=anchor, history=past, noise=self.noise or old.noise)

    def has_weights(self, digest: str) -> bool:
        """Return whether these figures are of the quantized weights with this digest (64 hex digits)."""
        return self.weights_digest == labelled(digest)

    def moved_since(self, old: Entry) -> float:
        """Return how far ln perplexity moved from ``old`` to this entry, over the windows that both have."""
        rows = list(zip(self.nll, old.nll, self.tokens, old.tokens, strict=False))
        if any(ours != theirs for _, _, ours, theirs in rows):
            return self.figures.loss - old.figures.loss
        return sum(new - before for new, before, _, _ in rows) / sum(count for _, _, count, _ in rows)

    def with_noise(self, noise: Noise) -> Entry:
        """Return this entry with newly calibrated noise and unchanged figures."""
        return replace(self, noise=_rounded_noise(noise))

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form, as it is stored."""
        plain = asdict(self)
        plain["windows"] = {"nll": plain.pop("nll"), "tokens": plain.pop("tokens")}
        if not self.provenance.config:  # files from before it was recorded stay as they are
            del plain["provenance"]["config"]
        if self.audit is None:
            del plain["audit"]
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Entry:
        """Return the entry that :meth:`to_dict` wrote."""
        return cls(
            identity=plain["identity"],
            figures=Figures(**plain["figures"]),
            ledger=Ledger(**plain["ledger"]),
            nll=tuple(plain["windows"]["nll"]),
            tokens=tuple(plain["windows"]["tokens"]),
            weights_digest=plain["weights_digest"],
            provenance=Provenance(**plain["provenance"]),
            anchor=Anchor(
                Figures(**plain["anchor"]["figures"]),
                Layers.from_dict(plain["anchor"]["layers"]),
                plain["anchor"]["reason"],
                plain["anchor"]["drift"],
            ),
            history=tuple(Replaced(Figures(**row["figures"]), row["reason"]) for row in plain["history"]),
            layers=Layers.from_dict(plain["layers"]),
            noise=Noise(**plain["noise"]) if plain["noise"] else None,
            audit=AuditedFigures.from_dict(plain["audit"]) if plain.get("audit") else None,
        )


def _rounded_noise(noise: Noise) -> Noise:
    runtime = {name: round(moved, DECIMALS) for name, moved in noise.runtime.items()}
    return replace(
        noise, spread=round(noise.spread, DECIMALS), layers=round(noise.layers, DECIMALS), runtime=runtime
    )


@dataclass(frozen=True)
class Baseline:
    """One baseline file: the id of the test that uses it, and an entry per device class."""

    case: str
    entries: Mapping[str, Entry] = field(default_factory=dict)

    def with_entry(self, device_class: str, entry: Entry) -> Baseline:
        """Return a copy in which ``device_class`` has this entry and the others are unchanged."""
        return replace(self, entries={**self.entries, device_class: entry})

    def write(self, path: Path) -> None:
        """Write the file atomically: a reader always finds a whole one."""
        entries = {name: entry.to_dict() for name, entry in self.entries.items()}
        write_atomically(path, render(self.case, entries))

    @classmethod
    def read(cls, path: Path) -> Baseline | None:
        """Read the baseline at ``path``, None if it does not exist; raise BaselineError as :meth:`parse`."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            if path.is_symlink():
                refuse(path, "is a link to a file that does not exist", str(path.readlink()))
            return None
        except (OSError, UnicodeDecodeError) as fault:
            refuse(path, "cannot be read", str(fault))
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: str, path: Path) -> Baseline:
        """Parse the text of a baseline file, and migrate it if an older version wrote it.

        Raises BaselineError, naming ``path`` and the field, for a text that is not a whole, consistent and
        unedited baseline.
        """
        plain = load(text, path)
        entries = {name: Entry.from_dict(row) for name, row in migrate(plain)["entries"].items()}
        for name, entry in entries.items():
            _check_consistency(path, name, entry)
        check_digests(plain, path)
        return cls(plain["case"], entries)

    def entry_for(self, device_class: str, any_device: bool = False) -> tuple[Entry | None, str]:
        """Return the entry to compare a device class with, and its own class where that is another one.

        Where the class has none, a CPU is compared with the nearest class of CPUs, since it is known how far
        figures move between these; with ``any_device``, whatever is nearest.
        """
        if device_class in self.entries:
            return self.entries[device_class], ""
        near = [name for name in self.entries if any_device or are_both_cpus(device_class, name)]
        name = min(near, key=partial(distance, device_class), default="")
        return self.entries.get(name), name


def baseline_files(folder: Path) -> dict[str, Path]:
    """Return the files of a baseline folder by baseline name: the path below it, without ``.json``."""
    files = [path for path in folder.rglob("*.json") if not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix().removesuffix(".json"): path for path in sorted(files)}


def _check_consistency(path: Path, name: str, entry: Entry) -> None:
    """Check what a schema cannot express: lengths agree, and the headline figures follow from the rest."""
    where = f"entries.{name}"
    if len(entry.nll) != len(entry.tokens):
        counts = f"{len(entry.nll)} NLLs for {len(entry.tokens)} token counts"
        refuse(path, f"has a fault in {where}.windows", counts)
    if len(entry.layers.gain) != len(entry.layers.error):
        counts = f"{len(entry.layers.gain)} gains for {len(entry.layers.error)} errors"
        refuse(path, f"has a fault in {where}.layers", counts)
    audit = entry.audit
    if audit and not len(audit.names) == len(audit.error) == len(audit.gain):
        counts = f"{len(audit.names)} names, {len(audit.error)} errors, {len(audit.gain)} gains"
        refuse(path, f"has a fault in {where}.audit", counts)
    whole = perplexity(entry.nll, entry.tokens)
    if not math.isclose(whole, entry.figures.perplexity, rel_tol=1e-6, abs_tol=1e-5):
        given = f"perplexity {entry.figures.perplexity} where the windows give {whole:.6f}"
        refuse(path, f"has a fault in {where}.figures.perplexity", given)
    compression = entry.ledger.ratios[HEADLINE]
    if not math.isclose(compression, entry.figures.compression, rel_tol=1e-6, abs_tol=1e-5):
        given = f"compression {entry.figures.compression} where the ledger gives {compression:.6f}"
        refuse(path, f"has a fault in {where}.figures.compression", given)
