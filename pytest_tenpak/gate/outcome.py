"""The outcome of a case: its measurements, its verdict, and what happens to its baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..baselines.entry import Entry
from ..metrics.audit import Audit
from ..metrics.blame import Blame
from ..metrics.measurement import Measurement, Noise
from ..metrics.speed import Memory, Speed
from ..store.use import StoreUse
from ..verdict.checks import Check, Status, Verdict
from ..verdict.update import Decided, Note, Update
from .case import Case


@dataclass(frozen=True)
class Part:
    """What was measured of a case on one corpus.

    ``name`` is the baseline's, ``changes`` the differences in provenance since it was accepted, ``noise`` was
    calibrated by this run, if it was requested. ``overlap`` is the share of calibration text or corpus that
    was copied from the other, ``nulls`` the number of rows of the corpus that have no text and were left out.
    ``corpus_part`` is the number of characters that were used of a longer corpus; 0 where that was all of it.
    ``resolution`` is the smallest difference of perplexity, relative, that could have been told from none.
    ``other_weights``: the quantized weights are not those that the baseline was accepted for.
    ``entry_device`` is the device class of the baseline entry that it was compared with; empty without one.
    """

    corpus: str
    name: str
    measurement: Measurement
    reference: Measurement
    changes: tuple[str, ...] = ()
    noise: Noise | None = None
    overlap: float = 0.0
    nulls: int = 0
    corpus_part: int = 0
    resolution: float | None = None
    other_weights: bool = False
    entry_device: str = ""

    def entry(self, audit: Audit | None) -> Entry:
        """Return a first baseline entry of what was measured, and audited, on this corpus."""
        return Entry.of(self.measurement, self.reference, self.noise, audit)

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form."""
        measured = {"measurement": self.measurement.to_dict(), "reference": self.reference.to_dict()}
        return {**asdict(self), **measured}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Part:
        """Return the part that :meth:`to_dict` wrote."""
        nested = {
            "measurement": Measurement.from_dict(plain["measurement"]),
            "reference": Measurement.from_dict(plain["reference"]),
            "changes": tuple(plain["changes"]),
            "noise": Noise(**plain["noise"]) if plain["noise"] else None,
        }
        return cls(**{**plain, **nested})


@dataclass(frozen=True)
class Outcome:
    """The outcome of one case.

    ``parts`` has one for each corpus, and none when the case could not be measured; ``problem`` then
    says why, and ``skipped`` whether that was allowed to pass as a skip. ``baseline`` is the file's
    path as shown to the user, ``device_class`` the entry in it, ``quantizing`` the cost of making the
    checkpoint (``seconds``, ``peak_bytes``, ``threads``). ``audit`` is what was found without running it, if
    there was one, ``blame`` which modules carry the divergence on the first corpus, or why that is not known,
    where it was looked for. ``speed`` and ``memory`` were measured beside the reference where the case has a
    limit on them. ``store`` is what came from the store that machines share, if there is one.
    ``body_passed`` is False where the test's own body failed, whatever the gate says. ``retried`` says which
    jobs were lost with their machine, and begun again. ``shard`` names the report that it came from, where
    several merged reports have the same gate.
    """

    case: Case
    verdict: Verdict
    update: Update
    device_class: str = ""
    baseline: str = ""
    checkpoint: str = ""
    parts: tuple[Part, ...] = ()
    quantizing: Mapping[str, Any] = field(default_factory=dict)
    audit: Audit | None = None
    blame: Blame | None = None
    speed: Speed | None = None
    memory: Memory | None = None
    store: StoreUse | None = None
    problem: str = ""
    skipped: bool = False
    body_passed: bool = True
    retried: tuple[str, ...] = ()
    shard: str = ""

    @property
    def title(self) -> str:
        """The test's id, with the shard where several shards have the same test."""
        return f"{self.case.nodeid} ({self.shard})" if self.shard else self.case.nodeid

    @property
    def measurement(self) -> Measurement | None:
        """The checkpoint's measurement on the first corpus."""
        return self.parts[0].measurement if self.parts else None

    @property
    def reference(self) -> Measurement | None:
        """The reference's measurement on the first corpus."""
        return self.parts[0].reference if self.parts else None

    def entry_of(self, part: Part) -> Entry:
        """Return a first baseline entry of one part; that of the first has what was audited."""
        return part.entry(self.audit if part is self.parts[0] else None)

    @property
    def passes(self) -> bool:
        """Whether the test passes as far as the gate is concerned."""
        return self.update.passes

    def excused(self, reason: str) -> Outcome:
        """Return this outcome as that of a test that is expected to fail: its verdict fails no run."""
        note = Note(Decided.EXPECTED_TO_FAIL, reason)
        return replace(self, update=replace(self.update, passes=True, note=note), body_passed=True)

    @property
    def is_refused(self) -> bool:
        """Whether the gate failed the test."""
        return not self.passes and not self.skipped

    @property
    def fails(self) -> bool:
        """Whether the test failed, by the gate or by itself."""
        return self.is_refused or not (self.skipped or self.body_passed)

    @property
    def status(self) -> Status:
        """The verdict's status."""
        return self.verdict.status

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form, which is sent between processes and written by ``--tenpak-json``."""
        return {
            "case": self.case.to_dict(),
            "verdict": self.verdict.to_dict(),
            "update": self.update.to_dict(),
            "device_class": self.device_class,
            "baseline": self.baseline,
            "checkpoint": self.checkpoint,
            "parts": [part.to_dict() for part in self.parts],
            "quantizing": dict(self.quantizing),
            "audit": self.audit.to_dict() if self.audit else None,
            "blame": self.blame.to_dict() if self.blame else None,
            "speed": self.speed.to_dict() if self.speed else None,
            "memory": self.memory.to_dict() if self.memory else None,
            "store": self.store.to_dict() if self.store else None,
            "problem": self.problem,
            "skipped": self.skipped,
            "body_passed": self.body_passed,
            "retried": list(self.retried),
            "shard": self.shard,
        }

    @classmethod
    def not_measured(cls, case: Case, status: Status, evidence: str, problem: str, skipped: bool) -> Outcome:
        """Make the outcome of a case without figures: never a pass."""
        check = Check("measured", status, evidence=evidence)
        update = Update(write=False, passes=False)
        return cls(case, Verdict((check,)), update, problem=problem, skipped=skipped)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Outcome:
        """Return the outcome that :meth:`to_dict` wrote."""
        nested = {
            "case": Case.from_dict(plain["case"]),
            "verdict": Verdict.from_dict(plain["verdict"]),
            "update": Update.from_dict(plain["update"]),
            "parts": tuple(Part.from_dict(part) for part in plain["parts"]),
            "audit": Audit.from_dict(plain["audit"]) if plain.get("audit") else None,
            "blame": Blame.from_dict(plain["blame"]) if plain.get("blame") else None,
            "speed": Speed.from_dict(plain["speed"]) if plain.get("speed") else None,
            "memory": Memory.from_dict(plain["memory"]) if plain.get("memory") else None,
            "store": StoreUse.from_dict(plain["store"]) if plain.get("store") else None,
            "retried": tuple(plain.get("retried", ())),
        }
        return cls(**{**plain, **nested})
