"""Measuring one case: worker processes add windows to traces until the verdict is clear."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ..errors import GuessingError
from ..evaluation.trace import Trace
from ..execution.jobs import MeasureJob
from ..machines.shared_store import measured
from ..metrics.measurement import Coverage, Layers, Measurement, Provenance, Windows
from ..models.config import computing_fields
from ..models.ledger import Contents
from ..models.nonfinite import nonfinite_tensors
from ..quantizers.locate import locate
from ..verdict.compare import rounding_criterion
from ..verdict.criteria import FIRST_SECTION, Criterion, first_decisive_look, limit_of
from .experiment import Experiment, Subject

#: How many times the NLL of a case's best text another text may have.
_APART = 3
#: Scored tokens that round-to-nearest is measured on at most: it only has to reveal ruined checkpoints.
_ROUNDED_TOKENS = 8192


class Target(NamedTuple):
    """How far to measure: up to a limit as in :func:`limit_of`, or until the criteria are decided.

    With ``whole``, only until one of the criteria is broken.
    """

    limit: int | None
    criteria: Sequence[Criterion] = ()
    whole: bool = True


class Shipped(NamedTuple):
    """What a directory's files mean, flat by name, and the version of transformers that read them."""

    fields: Mapping[str, str]
    reader: str


@dataclass(frozen=True)
class SubjectTrace:
    """The measured windows of one subject; ``reference`` has those of the model that it is compared with."""

    experiment: Experiment
    subject: Subject
    budget: int
    reference: SubjectTrace | None = None

    @cached_property
    def trace(self) -> Trace:
        """The windows on disk."""
        cache_key = self.experiment.cache_key(self.subject)
        if self.subject.is_reference:
            cache_key["divergence"] = self.experiment.run.divergence
        if self.reference:
            cache_key["reference"] = self.reference.trace.folder.name
        store = self.experiment.run.store
        return Trace(store.growing("traces", cache_key, measured))

    @property
    def windows(self) -> Windows:
        """The windows measured so far, within the budget."""
        return self.trace.windows(self.budget)

    def extend(self, target: Target) -> None:
        """Measure more windows, in a new process, as far as ``target`` says.

        No window is measured twice, and none where the target is reached already.
        """
        store = self.experiment.run.store
        with store.lock(f"extend-{self.trace.folder.name}"):
            is_short = not self._reaches(target)
            if is_short:
                self._measure(target)
        if self.trace.count:
            store.push(self.trace.folder, self.trace.lasting, self.trace.count)
        if is_short:
            store.tidy()

    def _reaches(self, target: Target) -> bool:
        """Return whether the measured windows are enough for a target."""
        if self.trace.plan is None:
            return False
        planned = self.trace.planned(self.budget)
        if self.trace.count >= limit_of(planned, target.limit):
            return True
        if self.reference and self.reference.trace.stream != self.trace.stream:
            return self.trace.count > 0
        rule = self.experiment.run.rule
        return first_decisive_look(target.criteria, self.windows, planned, rule, target.whole) is not None

    def _measure(self, target: Target) -> None:
        experiment, quantizer = self.experiment, self.subject.quantizer
        run, spec = experiment.run, experiment.case.spec
        python = run.interpreter(quantizer, spec)
        title = f"measuring the {self.subject.what}" + (f", {spec.title}" if quantizer else "")
        with run.show_progress(title) as progress:
            job = self._job(target)
            if job.rounding:  # nobody asks for it again
                run.do_once(job, progress, python)
            else:
                run.do(job, progress, python)

    def _job(self, target: Target) -> MeasureJob:
        experiment, subject = self.experiment, self.subject
        return MeasureJob(
            directory=subject.directory,
            quantizer=locate(subject.quantizer) if subject.quantizer else None,
            spec=experiment.case.spec,
            layers=experiment.contents(subject).layers,
            rounding=subject.rounding,
            text=experiment.text(),
            protocol=experiment.protocol,
            device=experiment.device.torch_name,
            dtype=experiment.dtype,
            placement=experiment.run.placement,
            batch_size=experiment.run.batch_size,
            threads=experiment.threads,
            trace=self.trace.folder,
            reference=self.reference.trace.folder if self.reference else None,
            is_reference=subject.is_reference,
            divergence=experiment.run.divergence,
            budget=self.budget,
            limit=target.limit,
            criteria=tuple(target.criteria),
            rule=experiment.run.rule,
            whole=target.whole,
        )

    def of_checkpoint(self, subject: Subject) -> SubjectTrace:
        """Return the windows of a checkpoint that is compared with this reference."""
        return SubjectTrace(self.experiment, subject, self.budget, self)

    def measurement(self, count: int) -> Measurement:
        """Return the measurement over the first ``count`` windows."""
        subject, trace, experiment = self.subject, self.trace, self.experiment
        facts = trace.facts
        made = {"quantizer threads": str(subject.facts["threads"])} if "threads" in subject.facts else {}
        windows = self.windows.prefix(count)
        robust, divergence = (None, None) if windows.nonfinite else trace.summary(windows)
        contents = self._contents
        return Measurement(
            windows=windows,
            ledger=contents.ledger,
            identity=experiment.identity(subject),
            weights_digest=experiment.weights_digest(subject),
            provenance=Provenance(
                experiment.versions(subject), {**facts["device"], **made}, computing_fields(subject.directory)
            ),
            loader=facts["loader"],
            budget=trace.tokens(trace.planned(self.budget)),
            robust=robust,
            divergence=divergence,
            layers=Layers.from_dict(facts["layers"]),
            coverage=Coverage(
                contents.decoder_weights,
                contents.left_out,
                contents.added,
                nonfinite_tensors(subject.directory) if windows.nonfinite else (),
            ),
            vocabulary=facts["vocabulary"],
        )

    @property
    def shipped(self) -> Shipped:
        """What is shipped beside the weights, as the worker's transformers reads it."""
        return Shipped(**self.trace.facts["shipped"])

    @property
    def unread(self) -> list[str]:
        """Tensors of the subject's files that its loader did not read."""
        return list(self.trace.facts["unread"])

    @property
    def _contents(self) -> Contents:
        model = self.reference or self
        return self.experiment.contents(self.subject, model.unread, self.unread)


def reference_of(experiment: Experiment) -> SubjectTrace:
    """Return the windows of the unquantized model, as far as they are measured."""
    return SubjectTrace(experiment, Subject("reference", experiment.model.path), experiment.case.max_tokens)


def start_reference(experiment: Experiment, whole: bool) -> SubjectTrace:
    """Measure the reference's first windows, or all where the whole budget is wanted or one look is fixed."""
    reference = reference_of(experiment)
    reference.extend(Target(None if whole or experiment.run.rule.fixed else FIRST_SECTION))
    return reference


def refuse_guessing(references: Sequence[SubjectTrace]) -> None:
    """Raise GuessingError where the unquantized model predicts a text no better than by chance.

    Or far worse than another text of the case. Figures of such a text mean nothing: quantizing may even
    improve them.
    """
    measured = [one.measurement(len(one.windows.tokens)) for one in references]
    best = min((share for one in measured if (share := one.guessing) is not None), default=0.0)
    for trace, one in zip(references, measured, strict=True):
        share, most = one.guessing, trace.experiment.case.max_reference_nll
        if share is None or not most:
            continue
        apart = len(references) > 1 and share > max(_APART * best, most / 2)
        if share > most or apart:
            raise GuessingError(
                "the unquantized model cannot predict this text, so figures on it mean nothing"
                if share > most
                else "the unquantized model predicts this text far worse than another text of the case",
                given=f"corpus {trace.experiment.corpus.name!r}: perplexity {one.perplexity:,.0f}; "
                f"guessing among {one.vocabulary:,} tokens has {one.vocabulary:,}"
                + (f"; the best text has {one.vocabulary**best:,.1f}" if apart else ""),
                accepted=f"an NLL of at most {most:g} times that of guessing (max_reference_nll)",
                remedy="check that text, tokenizer and weights belong together; "
                "or set max_reference_nll= in the marker, 0 for no limit",
            )


def measure_pair(
    reference: SubjectTrace,
    subject: Subject,
    criteria_for: Callable[[Windows], Sequence[Criterion]],
    whole: bool,
) -> tuple[Measurement, Measurement]:
    """Measure ``subject`` and the reference, until the criteria are decided or the budget is spent.

    ``criteria_for(windows)`` gives the criteria, paired with the reference's windows so far. A clear verdict
    takes a quarter of the budget, for the reference too; ``whole`` spends all of it unless a criterion is
    broken.
    """
    experiment = reference.experiment
    checkpoint = reference.of_checkpoint(subject)
    planned = reference.trace.planned(reference.budget)
    while True:
        theirs = reference.windows
        criteria = criteria_for(theirs)
        checkpoint.extend(Target(len(theirs.tokens), criteria, whole))
        if checkpoint.trace.stream != reference.trace.stream:
            count = min(len(checkpoint.windows.tokens), len(theirs.tokens))
            break
        decisive = first_decisive_look(criteria, checkpoint.windows, planned, experiment.run.rule, whole)
        if decisive or len(theirs.tokens) == planned:
            count = decisive or planned
            break
        reference.extend(Target(None))
    return checkpoint.measurement(count), reference.measurement(count)


def measure_rounded(
    experiment: Experiment, checkpoint: Subject, measurement: Measurement, reference: Measurement
) -> Measurement | None:
    """Measure round-to-nearest until it is clear whether the checkpoint is worse than allowed.

    On at most the windows of ``measurement``, and 8,192 tokens. None if no layer is quantized.
    """
    rounded = experiment.rounded(checkpoint)
    if rounded is None:
        return None
    budget = min(experiment.case.max_tokens or _ROUNDED_TOKENS, _ROUNDED_TOKENS)
    trace = SubjectTrace(experiment, rounded, budget)
    count = len(measurement.windows.tokens)
    criteria = [rounding_criterion(measurement, reference, experiment.case.limits)]
    trace.extend(Target(count, criteria, whole=False))
    planned, rule = trace.trace.planned(budget), experiment.run.rule
    decisive = first_decisive_look(criteria, trace.windows.prefix(min(count, planned)), planned, rule)
    return trace.measurement(decisive or min(count, planned))
