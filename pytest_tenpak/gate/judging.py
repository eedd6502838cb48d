"""From measurements to a verdict on one corpus: what a checkpoint is compared with, and the floor."""

from __future__ import annotations

from ..baselines.entry import Entry
from ..metrics.measurement import Measurement
from ..models.tokenizer_changes import tokenizer_changes
from ..verdict.checks import Verdict
from ..verdict.compare import compare, needs_rounding
from ..verdict.comparison import Comparison
from .experiment import Experiment, Subject
from .measuring import measure_rounded


def comparison_of(
    experiment: Experiment, subject: Subject, entry: Entry | None = None, entry_device: str = ""
) -> Comparison:
    """Return what ``subject`` is compared with on one corpus.

    ``entry`` is the baseline's, if there is one, and ``entry_device`` its device class where that is not the
    run's own.
    """
    return Comparison(
        experiment.case.limits,
        experiment.case.tolerances,
        experiment.identity(subject),
        experiment.weights_digest(subject),
        entry,
        entry_device,
        experiment.device.device_class,
        experiment.run.rule,
        same_but=_same_text(experiment, entry),
        tokenizer_changes=tuple(tokenizer_changes(experiment.model.path, subject.directory)),
    )


def judge(
    experiment: Experiment,
    subject: Subject,
    measurement: Measurement,
    reference: Measurement,
    comparison: Comparison,
) -> Verdict:
    """Return the verdict on ``measurement``; round-to-nearest is measured where its loss calls for that."""
    rounded = None
    if needs_rounding(measurement, reference, experiment.case.limits):
        rounded = measure_rounded(experiment, subject, measurement, reference)
    return compare(measurement, reference, comparison, rounded)


def _same_text(experiment: Experiment, entry: Entry | None) -> dict[str, str]:
    """Return what an entry's corpus differs in, by its digest, where that is line ends and nothing else."""
    corpus = experiment.corpus
    differs = entry is not None and entry.identity.get("corpus") != corpus.digest
    return corpus.with_other_line_ends if differs else {}
