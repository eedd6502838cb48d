"""The baseline: what was accepted for one case, per device class, and how the next figures succeed it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..metrics.intervals import perplexity
from ..metrics.measurement import HEADLINE, NO_LAYERS, Layers, Ledger, Measurement, Noise, Provenance
from ..store.atomic import write_atomically
from ..store.digest import labelled
from .file_format import DECIMALS, check_digests, load, migrate, refuse, render

#: How many replaced figures an entry keeps.
HISTORY_LENGTH = 10


@dataclass(frozen=True)
class Figures:
    """The figures a reviewer reads. ``compression`` is the whole checkpoint vs 16 bit.

    ``kld`` (mean, nats per token) and ``top1`` (agreement) are None where no reference was compared with.
    ``divergence`` says what ``kld`` is, where that is known: ``exact`` or a ``top-k lower bound``.
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
        """Nats per token that were lost: ln perplexity over the reference's."""
        return math.log(self.perplexity / self.reference_perplexity)

    @classmethod
    def of(cls, measurement: Measurement, reference: Measurement) -> Figures:
        """The figures of a measurement, unrounded."""
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
        """The figures as they are stored."""
        rows: dict[str, Any] = asdict(self)
        stored: dict[str, Any] = {n: round(x, DECIMALS) for n, x in rows.items() if isinstance(x, float)}
        return replace(self, **stored)


@dataclass(frozen=True)
class Replaced:
    """Figures that were accepted once, and why they were replaced."""

    figures: Figures
    reason: str


@dataclass(frozen=True)
class Anchor:
    """The figures from which small steps are added up.

    ``drift`` is what the accepted steps since add up to: ln perplexity, each step paired with the one before
    over the windows that both had. ``reason`` says why these are not the first figures, or why they were
    accepted beside another device's.
    """

    figures: Figures
    layers: Layers = NO_LAYERS
    reason: str = ""
    drift: float = 0.0


@dataclass(frozen=True)
class Entry:
    """What was accepted on one device class.

    ``nll`` (nats, summed per window) and ``tokens`` let a later run be compared window by window,
    ``layers`` layer by layer. ``noise`` is what ``--tenpak-calibrate-noise`` measured, if it was asked.
    ``anchor`` holds what was accepted first; ``history`` the latest replaced ones, newest first.
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

    @classmethod
    def of(cls, measurement: Measurement, reference: Measurement, noise: Noise | None = None) -> Entry:
        """A first entry: its own anchor, no history."""
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
        )

    @property
    def is_anchor(self) -> bool:
        """Whether these are the figures that the anchor holds."""
        return self.anchor.figures == self.figures and self.anchor.layers == self.layers

    def replacing(self, old: Entry, reason: str, reanchor: bool = False) -> Entry:
        """This entry as the successor of ``old``: its anchor kept unless ``reanchor``.

        Another identity is another question, whose first figures these are: they anchor themselves, and
        what was known of the noise does not hold.
        """
        past = (Replaced(old.figures, reason), *old.history)[:HISTORY_LENGTH]
        if old.identity != self.identity:
            return replace(self, history=past)
        drift = round(old.anchor.drift + self.moved_since(old), DECIMALS)
        anchor = replace(self.anchor, reason=reason) if reanchor else replace(old.anchor, drift=drift)
        return replace(self, anchor=anchor, history=past, noise=self.noise or old.noise)

    def has_weights(self, digest: str) -> bool:
        """Whether these figures are of the quantized weights with this digest (64 hex digits)."""
        return self.weights_digest == labelled(digest)

    def moved_since(self, old: Entry) -> float:
        """How far ln perplexity moved from ``old`` to these figures, over the windows that both have."""
        rows = list(zip(self.nll, old.nll, self.tokens, old.tokens, strict=False))
        if any(ours != theirs for _, _, ours, theirs in rows):
            return self.figures.loss - old.figures.loss
        return sum(new - before for new, before, _, _ in rows) / sum(count for _, _, count, _ in rows)

    def with_noise(self, noise: Noise) -> Entry:
        """This entry, its figures untouched, with noise that was calibrated now."""
        return replace(self, noise=_rounded_noise(noise))

    def to_dict(self) -> dict[str, Any]:
        """Plain form, as it is stored."""
        plain = asdict(self)
        plain["windows"] = {"nll": plain.pop("nll"), "tokens": plain.pop("tokens")}
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Entry:
        """The entry that :meth:`to_dict` wrote."""
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
        )


def _rounded_noise(noise: Noise) -> Noise:
    runtime = {name: round(moved, DECIMALS) for name, moved in noise.runtime.items()}
    return replace(
        noise, spread=round(noise.spread, DECIMALS), layers=round(noise.layers, DECIMALS), runtime=runtime
    )


@dataclass(frozen=True)
class Baseline:
    """One baseline file: the case it belongs to, and an entry per device class."""

    case: str
    entries: Mapping[str, Entry] = field(default_factory=dict)

    def with_entry(self, device_class: str, entry: Entry) -> Baseline:
        """A copy in which ``device_class`` has this entry and the others are untouched."""
        return replace(self, entries={**self.entries, device_class: entry})

    def write(self, path: Path) -> None:
        """Write the file atomically: whoever reads it, at any moment, finds a whole one."""
        entries = {name: entry.to_dict() for name, entry in self.entries.items()}
        write_atomically(path, render(self.case, entries))

    @classmethod
    def read(cls, path: Path) -> Baseline | None:
        """The baseline at ``path``, or None where there is no such file; BaselineError as :meth:`parse`."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as fault:
            refuse(path, "cannot be read", str(fault))
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: str, path: Path) -> Baseline:
        """The baseline that a file's text holds, migrated if an older version wrote it.

        Raises BaselineError, naming ``path`` and the field, for anything that is not a whole and
        consistent baseline, as it was written.
        """
        plain = load(text, path)
        entries = {name: Entry.from_dict(row) for name, row in migrate(plain)["entries"].items()}
        for name, entry in entries.items():
            _check_consistency(path, name, entry)
        check_digests(plain, path)
        return cls(plain["case"], entries)

    def nearest(self, device_class: str) -> tuple[str, Entry] | None:
        """The entry of a device class, or of the one most like it, with its class; None if there is none.

        A CUDA class is nearest to the one of the closest compute capability, and nearer to any of its kind
        than to another kind.
        """
        family, number = _family(device_class)

        def distance(name: str) -> tuple[bool, bool, int, str]:
            theirs, other = _family(name)
            return name != device_class, theirs != family, abs(other - number), name

        name = min(self.entries, key=distance, default=None)
        return None if name is None else (name, self.entries[name])


def _family(device_class: str) -> tuple[str, int]:
    """``cuda-sm90`` as ``("cuda-sm", 90)``, ``cpu`` as ``("cpu", 0)``."""
    family = device_class.rstrip("0123456789")
    return family, int(device_class[len(family) :] or 0)


def baseline_files(folder: Path) -> dict[str, Path]:
    """The files of a baseline folder by the baseline's name: the path below it, without ``.json``."""
    files = [path for path in folder.rglob("*.json") if not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix().removesuffix(".json"): path for path in sorted(files)}


def _check_consistency(path: Path, name: str, entry: Entry) -> None:
    """What a schema cannot say: the windows pair up, and the headline figure is theirs."""
    where = f"entries.{name}"
    if len(entry.nll) != len(entry.tokens):
        counts = f"{len(entry.nll)} NLLs for {len(entry.tokens)} token counts"
        refuse(path, f"has a fault in {where}.windows", counts)
    if len(entry.layers.gain) != len(entry.layers.error):
        counts = f"{len(entry.layers.gain)} gains for {len(entry.layers.error)} errors"
        refuse(path, f"has a fault in {where}.layers", counts)
    whole = perplexity(entry.nll, entry.tokens)
    if not math.isclose(whole, entry.figures.perplexity, rel_tol=1e-6, abs_tol=1e-5):
        given = f"perplexity {entry.figures.perplexity} where the windows give {whole:.6f}"
        refuse(path, f"has a fault in {where}.figures.perplexity", given)
    compression = entry.ledger.ratios[HEADLINE]
    if not math.isclose(compression, entry.figures.compression, rel_tol=1e-6, abs_tol=1e-5):
        given = f"compression {entry.figures.compression} where the ledger gives {compression:.6f}"
        refuse(path, f"has a fault in {where}.figures.compression", given)
