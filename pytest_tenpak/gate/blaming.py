"""The blame of one case: whether to look for the modules that carry its divergence, and what was found."""

from __future__ import annotations

from collections.abc import Sequence

from ..diagnosis.folding import moves_scales
from ..errors import TenpakError
from ..evaluation.blame import tokens_to_run
from ..execution.jobs import BlameJob
from ..metrics.blame import BLAME_VERSION, Blame
from ..metrics.measurement import Measurement
from ..quantizers.locate import locate
from ..quantizers.placement import NONE
from ..verdict.checks import Check, Status
from .measuring import SubjectTrace

#: Models that are loaded into one process.
_MODELS = 2.0
#: What a module that is to blame may have moved.
_ABOUT = ("max_ppl_delta", "max_rtn_factor", "max_kld", "min_top1", "ppl_tolerance", "drift", "layers")


def find_culprits(
    checkpoint: SubjectTrace, measurement: Measurement, checks: Sequence[Check]
) -> Blame | None:
    """Return which modules carry the divergence of a measured checkpoint, or why that is not known.

    Looked for where the run asks for it; and by itself where figures regressed that a module can have moved,
    and the estimate is below what the run allows. None where neither is so. ``measurement`` is that of
    ``checkpoint`` on the windows that the verdict rests on.
    """
    run = checkpoint.experiment.run
    regressed = {check.name for check in checks if check.status is Status.REGRESSED}
    by_itself = run.blame_seconds > 0 and bool(regressed & {*_ABOUT})
    if not (run.blame or by_itself):
        return None
    why = _hindrance(checkpoint, measurement)
    if why:
        return Blame(note=why)
    budget = measurement.budget if run.blame else _affordable(checkpoint, measurement, run.blame_seconds)
    if not budget:
        return Blame(note="modules were not blamed, which would take too long: --tenpak-blame does it")
    try:
        return _find(checkpoint, measurement, budget)
    except TenpakError as error:
        # What was measured stands: blame needs more memory than measuring, and more of the library.
        given = (error.given or "").partition("\n")[0]
        return Blame(note=f"no module is blamed: {error.problem}" + (f" ({given})" if given else ""))


def _hindrance(checkpoint: SubjectTrace, measurement: Measurement) -> str:
    """Say why no module can be blamed; empty where that can be tried."""
    if measurement.windows.nonfinite:
        return "no module is blamed: figures are not finite"
    if checkpoint.reference is None or not measurement.windows.kld:
        return "no module is blamed: the divergence from the reference was not measured"
    if not sum(measurement.windows.kld):
        return "no module is blamed: the checkpoint does not diverge from the reference"
    if checkpoint.experiment.run.offload != NONE:
        return "no module is blamed: both models have to be in memory, and this run offloads layers"
    return ""


def _affordable(checkpoint: SubjectTrace, measurement: Measurement, seconds: float) -> int:
    """Return the budget (tokens) whose blame takes at most so many seconds, after loading; 0 for none.

    That of the whole measurement, or else of what was measured of it: a verdict may come early. The speed is
    that at which the checkpoint was measured; where it was not noted, nothing is promised.
    """
    speed = checkpoint.trace.tokens_per_second or 0.0
    modules = len(checkpoint.experiment.contents(checkpoint.subject).layers)
    budgets = measurement.budget, measurement.windows.total_tokens
    return next((one for one in budgets if tokens_to_run(one, modules) <= seconds * speed), 0)


def _find(checkpoint: SubjectTrace, measurement: Measurement, budget: int) -> Blame:
    """Look for the culprits in a worker process, or take what is stored."""
    experiment, subject, reference = checkpoint.experiment, checkpoint.subject, checkpoint.reference
    assert reference is not None
    run, spec, quantizer = experiment.run, experiment.case.spec, subject.quantizer
    job = BlameJob(
        model=experiment.model.path,
        directory=subject.directory,
        quantizer=locate(quantizer) if quantizer else None,
        spec=spec,
        whole_blocks=quantizer.moves_scales if quantizer else moves_scales(subject.directory),
        text=experiment.text(),
        protocol=experiment.protocol,
        device=experiment.device.torch_name,
        dtype=experiment.dtype,
        placement=run.placement,
        batch_size=run.batch_size,
        threads=experiment.threads,
        reference=reference.trace.folder,
        trace=checkpoint.trace.folder,
        windows=len(measurement.windows.tokens),
        budget=budget,
    )
    # The names of traces are digests of all that figures depend on.
    cache_key = {
        "checkpoint": checkpoint.trace.folder.name,
        "reference": reference.trace.folder.name,
        "windows": [job.windows, job.budget],
        "whole_blocks": job.whole_blocks,
        "version": BLAME_VERSION,
    }
    python = run.interpreter(quantizer, spec)

    def find() -> dict[str, object]:
        run.workers.make_room(experiment.model.path, experiment.device.torch_name, times=_MODELS)
        with run.show_progress("looking for the modules to blame") as progress:
            return dict(run.do_once(job, progress, python))

    return Blame.from_dict(run.store.document("blames", cache_key, find))
