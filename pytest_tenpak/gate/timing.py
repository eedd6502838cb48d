"""Speed and memory of one case beside the reference, where its marker has limits on them.

Neither is cached: how fast a machine is belongs to the moment.
"""

from __future__ import annotations

from typing import Any

from ..errors import MeasurementError
from ..evaluation.protocol import JOIN
from ..execution.jobs import MemoryJob, SpeedJob
from ..execution.memory import free_bytes, least_bytes
from ..metrics.speed import Memory, Speed
from ..quantizers.locate import locate
from ..units import in_gib
from .experiment import Experiment, Subject

#: Models that are loaded into one process.
_MODELS = 2.0
#: The beginning of the corpus that is sent: more than any tokenizer needs for what is timed.
_CHARACTERS = 1 << 16
#: Of all pytest processes that share a cache one times at a time: two would slow each other.
_LOCK = "timing"


def time_checkpoint(experiment: Experiment, subject: Subject) -> Speed | None:
    """Time the checkpoint beside the reference in a process of its own; None where no limit bounds it.

    Raises MeasurementError where both do not fit in memory together, and what the workers do.
    """
    least, run = experiment.case.limits.min_speedup, experiment.run
    if not least:
        return None
    job = SpeedJob(
        **_loading(experiment, subject),
        layers=experiment.contents(subject).layers,
        least=least,
        rule=run.rule,
    )
    python = run.interpreter(subject.quantizer, experiment.case.spec)
    with run.store.lock(_LOCK):
        run.workers.make_room(experiment.model.path, experiment.device.torch_name, times=_MODELS)
        require_room(experiment, subject)
        with run.show_progress(f"timing {experiment.case.spec.title} beside the reference") as progress:
            return Speed.from_dict(run.do_once(job, progress, python))


def weigh_checkpoint(experiment: Experiment, subject: Subject) -> Memory | None:
    """Return the peak memory of both models, each alone in a process; None where no limit bounds it.

    Raises UnavailableError where the system does not tell, and what the workers do.
    """
    run, model = experiment.run, experiment.model.path
    if experiment.case.limits.max_memory_ratio is None:
        return None
    python = run.interpreter(subject.quantizer, experiment.case.spec)
    peaks = []
    for one in (Subject("reference", model), subject):
        run.workers.make_room(model, experiment.device.torch_name)
        with run.show_progress(f"weighing the {one.what}") as progress:
            job = MemoryJob(**_loading(experiment, one))
            peaks.append(run.do_once(job, progress, python))
    theirs, ours = peaks
    return Memory(theirs["bytes"], ours["bytes"], ours["kind"], experiment.dtype)


def _loading(experiment: Experiment, subject: Subject) -> dict[str, Any]:
    """Return the fields that both jobs have."""
    return {
        "directory": subject.directory,
        "quantizer": locate(subject.quantizer) if subject.quantizer else None,
        "spec": experiment.case.spec,
        "device": experiment.device.torch_name,
        "dtype": experiment.dtype,
        "model": experiment.model.path,
        "text": JOIN.join(experiment.corpus.documents)[:_CHARACTERS],
        "context": experiment.protocol.context,
        "threads": experiment.threads,
    }


def require_room(experiment: Experiment, subject: Subject) -> None:
    """Raise MeasurementError where both models surely do not fit in memory together."""
    device, model = experiment.device.torch_name, experiment.model
    wide, stored = (2 if name.endswith("16") else 4 for name in (experiment.dtype, model.dtype))
    parts = least_bytes(model.path) * wide / stored, least_bytes(subject.directory)
    free = free_bytes(device)
    if free and free < sum(parts):  # 0: not known
        raise MeasurementError(
            "the checkpoint and the unquantized model do not fit in memory together, to be timed",
            given=f"{in_gib(parts[0])} for the model in {experiment.dtype} and {in_gib(parts[1])} for the "
            f"checkpoint, {in_gib(sum(parts))} together, where {in_gib(free)} of {device} are free",
            accepted="a device that holds both: their rounds are interleaved",
            remedy="free memory, measure in a 16-bit type (dtype= in the marker), or leave min_speedup out",
        )
