"""The baseline file: what was accepted for one case, per device class, as JSON that reads well in a diff."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

from .digest import labelled
from .errors import BaselineError
from .files import write_atomically
from .measurement import HEADLINE, NO_LAYERS, Layers, Ledger, Measurement, Noise, Provenance
from .statistics import perplexity

SCHEMA_VERSION = 1
#: How many replaced figures an entry keeps.
HISTORY_LENGTH = 10
#: Decimals of every stored figure; identities keep theirs exactly.
_DECIMALS = 6


@dataclass(frozen=True)
class Figures:
    """The figures a reviewer reads. ``compression`` is the whole checkpoint vs 16 bit.

    ``kld`` (mean, nats per token) and ``top1`` (agreement) are None where no reference was compared with.
    """

    perplexity: float
    reference_perplexity: float
    bits_per_weight: float | None
    compression: float
    kld: float | None = None
    top1: float | None = None

    @classmethod
    def of(cls, measurement: Measurement, reference: Measurement) -> Figures:
        """The figures of a measurement, rounded as they are stored."""
        bits, divergence = measurement.ledger.bits_per_weight, measurement.divergence
        return cls(
            perplexity=round(measurement.perplexity, _DECIMALS),
            reference_perplexity=round(reference.perplexity, _DECIMALS),
            bits_per_weight=None if bits is None else round(bits, _DECIMALS),
            compression=round(measurement.ledger.ratios[HEADLINE], _DECIMALS),
            kld=round(divergence.mean, _DECIMALS) if divergence else None,
            top1=round(divergence.top1, _DECIMALS) if divergence else None,
        )


@dataclass(frozen=True)
class Replaced:
    """Figures that were accepted once, and why they were replaced."""

    figures: Figures
    reason: str


@dataclass(frozen=True)
class Entry:
    """What was accepted on one device class.

    ``nll`` (nats, summed per window) and ``tokens`` let a later run be compared window by window,
    ``layers`` layer by layer. ``noise`` is what ``--tenpak-calibrate-noise`` measured, if it was asked.
    ``anchor`` holds the first accepted figures; ``history`` the latest replaced ones, newest first.
    """

    identity: Mapping[str, Any]
    figures: Figures
    ledger: Ledger
    nll: tuple[float, ...]
    tokens: tuple[int, ...]
    weights_digest: str
    provenance: Provenance
    anchor: Figures
    history: tuple[Replaced, ...] = ()
    layers: Layers = NO_LAYERS
    noise: Noise | None = None

    @classmethod
    def of(cls, measurement: Measurement, reference: Measurement, noise: Noise | None = None) -> Entry:
        """A first entry: its own anchor, no history."""
        figures = Figures.of(measurement, reference)
        return cls(
            identity=measurement.identity,
            figures=figures,
            ledger=measurement.ledger,
            nll=tuple(round(nll, _DECIMALS) for nll in measurement.windows.nll),
            tokens=measurement.windows.tokens,
            weights_digest=labelled(measurement.weights_digest),
            provenance=measurement.provenance,
            anchor=figures,
            layers=Layers(*(tuple(round(x, _DECIMALS) for x in row) for row in astuple(measurement.layers))),
            noise=noise and _rounded_noise(noise),
        )

    def replacing(self, old: Entry, reason: str) -> Entry:
        """This entry as the successor of ``old``: its anchor kept, its figures moved into history.

        Another identity is another question, whose first figures these are: they anchor themselves, and
        what was known of the noise does not hold.
        """
        past = (Replaced(old.figures, reason), *old.history)[:HISTORY_LENGTH]
        if old.identity != self.identity:
            return replace(self, history=past)
        return replace(self, anchor=old.anchor, history=past, noise=self.noise or old.noise)

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
            anchor=Figures(**plain["anchor"]),
            history=tuple(Replaced(Figures(**row["figures"]), row["reason"]) for row in plain["history"]),
            layers=Layers.from_dict(plain["layers"]),
            noise=Noise(**plain["noise"]) if plain["noise"] else None,
        )


def _rounded_noise(noise: Noise) -> Noise:
    runtime = {name: round(moved, _DECIMALS) for name, moved in noise.runtime.items()}
    return replace(
        noise, spread=round(noise.spread, _DECIMALS), layers=round(noise.layers, _DECIMALS), runtime=runtime
    )


@dataclass(frozen=True)
class Baseline:
    """One baseline file: the case it answers to, and an entry per device class."""

    case: str
    entries: Mapping[str, Entry] = field(default_factory=dict)

    def with_entry(self, device_class: str, entry: Entry) -> Baseline:
        """A copy in which ``device_class`` has this entry and the others are untouched."""
        return replace(self, entries={**self.entries, device_class: entry})

    def write(self, path: Path) -> None:
        """Write the file atomically: whoever reads it, at any moment, finds a whole one."""
        plain = {
            "schema_version": SCHEMA_VERSION,
            "case": self.case,
            "entries": {name: entry.to_dict() for name, entry in self.entries.items()},
        }
        write_atomically(path, _render(plain) + "\n")

    @classmethod
    def read(cls, path: Path) -> Baseline | None:
        """The baseline at ``path``, or None where there is no such file.

        Raises BaselineError, naming file and field, for anything that is not a whole and consistent
        baseline of this schema version.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as fault:
            _refuse(path, "cannot be read", str(fault))
        try:
            plain = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
        except (ValueError, RecursionError) as fault:
            _refuse(path, "is not valid JSON", str(fault))
        _check_version(path, plain)
        _check_schema(path, plain)
        entries = {name: Entry.from_dict(row) for name, row in plain["entries"].items()}
        for name, entry in entries.items():
            _check_consistency(path, name, entry)
        return cls(plain["case"], entries)


def baseline_files(folder: Path) -> dict[str, Path]:
    """The files of a baseline folder by the baseline's name: the path below it, without ``.json``."""
    files = [path for path in folder.rglob("*.json") if not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix().removesuffix(".json"): path for path in sorted(files)}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a figure")


def _finite(digits: str) -> float:
    figure = float(digits)
    if not math.isfinite(figure):
        raise ValueError(f"{digits[:40]} is out of range")
    return figure


def _refuse(path: Path, problem: str, given: str) -> NoReturn:
    raise BaselineError(
        f"the baseline {path} {problem}",
        given=given,
        accepted=f"a pytest-tenpak baseline of schema version {SCHEMA_VERSION}",
        remedy="restore it with git, or delete it and run again to create it",
    )


def _check_version(path: Path, plain: Any) -> None:
    version = plain.get("schema_version") if isinstance(plain, dict) else None
    if version == SCHEMA_VERSION and not isinstance(version, bool):
        return
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BaselineError(
            f"the baseline {path} was written by a newer pytest-tenpak",
            given=f"schema_version {version}",
            accepted=f"schema_version {SCHEMA_VERSION}",
            remedy="upgrade pytest-tenpak",
        )
    _refuse(path, "has no schema version that is known", f"schema_version {version!r}")


@cache
def _schema() -> dict[str, Any]:
    source = resources.files(__package__).joinpath(f"schemas/baseline-{SCHEMA_VERSION}.json")
    schema: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    return schema


def _check_schema(path: Path, plain: Any) -> None:
    import jsonschema  # here, since a run without gates should not pay for it

    validator = jsonschema.Draft202012Validator(_schema())
    fault = jsonschema.exceptions.best_match(validator.iter_errors(plain))
    if fault is not None:
        where = ".".join(str(step) for step in fault.absolute_path) or "top level"
        _refuse(path, f"has a fault in {where}", fault.message[:300])


def _check_consistency(path: Path, name: str, entry: Entry) -> None:
    """What a schema cannot say: the windows pair up, and the headline figure is theirs."""
    where = f"entries.{name}"
    if len(entry.nll) != len(entry.tokens):
        counts = f"{len(entry.nll)} NLLs for {len(entry.tokens)} token counts"
        _refuse(path, f"has a fault in {where}.windows", counts)
    if len(entry.layers.gain) != len(entry.layers.error):
        counts = f"{len(entry.layers.gain)} gains for {len(entry.layers.error)} errors"
        _refuse(path, f"has a fault in {where}.layers", counts)
    whole = perplexity(entry.nll, entry.tokens)
    if not math.isclose(whole, entry.figures.perplexity, rel_tol=1e-6, abs_tol=1e-5):
        given = f"perplexity {entry.figures.perplexity} where the windows give {whole:.6f}"
        _refuse(path, f"has a fault in {where}.figures.perplexity", given)
    compression = entry.ledger.ratios[HEADLINE]
    if not math.isclose(compression, entry.figures.compression, rel_tol=1e-6, abs_tol=1e-5):
        given = f"compression {entry.figures.compression} where the ledger gives {compression:.6f}"
        _refuse(path, f"has a fault in {where}.figures.compression", given)


def _render(plain: Any, indent: str = "", exact: bool = False) -> str:
    """JSON with sorted keys, arrays of scalars on one line, floats outside identities at fixed digits."""
    inner = indent + "  "
    if isinstance(plain, Mapping) and plain:
        rows = [
            f"{inner}{json.dumps(key)}: {_render(plain[key], inner, exact or key == 'identity')}"
            for key in sorted(plain)
        ]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(plain, (list, tuple)):
        if any(isinstance(item, (Mapping, list, tuple)) for item in plain):
            rows = [inner + _render(item, inner, exact) for item in plain]
            return "[\n" + ",\n".join(rows) + f"\n{indent}]"
        return "[" + ", ".join(_render(item, inner, exact) for item in plain) + "]"
    if isinstance(plain, float) and not exact:
        return f"{plain:.{_DECIMALS}f}"
    return json.dumps(plain, ensure_ascii=False, allow_nan=False)
