"""Calibrating noise: how far figures move by quantizing again, or by running the same weights differently."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

from ..errors import MeasurementError, SpecError
from ..metrics.measurement import Layers, Measurement, Noise
from ..spec import QuantizeSpec
from .experiment import Experiment, Subject
from .measuring import SubjectTrace, Target

#: Windows that the runtime noise is measured on at most: for the same weights the figures differ little.
_RUNTIME_WINDOWS = 16
#: Types to run the same weights in: the first that is not the run's own and that the quantizer supports.
_DTYPES = ("bfloat16", "float16", "float32")
#: Two batch sizes, and two numbers of threads, of which at least one is not the run's own.
_BATCHES, _THREADS = (1, 4), (1, 2)


def calibrate(reference: SubjectTrace, subject: Subject, measurement: Measurement, wanted: int) -> Noise:
    """Requantize ``wanted`` times with other samples and seeds, and run the same weights differently.

    A method that has no seed and gives the same weights again is not repeated further.
    """
    quantizer = subject.quantizer
    assert quantizer is not None
    found = [measurement]
    for repetition in range(1, wanted + 1):
        experiment = _requantizing(reference.experiment, repetition)
        again = _measured(
            SubjectTrace(experiment, experiment.quantize(quantizer), reference.budget, reference), measurement
        )
        found.append(again)
        if "seed" not in experiment.case.spec.options and again.weights_digest == measurement.weights_digest:
            break
    if not all(math.isfinite(one.perplexity) and not one.layers.nonfinite for one in found):
        raise MeasurementError(
            "the noise of this recipe cannot be calibrated",
            given="a requantization with other samples or another seed has figures that are not finite",
            remedy="the recipe sometimes ruins the model: change it, or measure in another dtype",
        )
    levels = [math.log(one.perplexity) for one in found]
    spread = statistics.stdev(levels) if len({one.weights_digest for one in found}) > 1 else 0.0
    return Noise(
        requantizations=len(found) - 1,
        spread=spread,
        layers=max(_farthest(measurement.layers, one.layers) for one in found),
        runtime=_runtime(reference, subject, measurement),
    )


def _requantizing(experiment: Experiment, repetition: int) -> Experiment:
    """Return the experiment for another draw of the same recipe: with another seed, if it has one."""
    spec = experiment.case.spec
    if "seed" in spec.options:
        spec = QuantizeSpec(spec.method, {**spec.options, "seed": spec.options["seed"] + repetition})
    return replace(experiment, case=replace(experiment.case, spec=spec), repetition=repetition)


def _measured(trace: SubjectTrace, like: Measurement) -> Measurement:
    count = len(like.windows.tokens)
    trace.extend(Target(count))
    return trace.measurement(count)


def _farthest(old: Layers, new: Layers) -> float:
    pairs = [*zip(old.gain, new.gain, strict=False), *zip(old.error, new.error, strict=False)]
    return max((abs(one - other) for one, other in pairs), default=0.0)


def _runtime(reference: SubjectTrace, subject: Subject, measurement: Measurement) -> dict[str, float]:
    """Return, by what is changed, the largest difference of ln perplexity of the same weights."""
    experiment = reference.experiment
    ways = [
        *(
            ("batch_size", replace(experiment, run=replace(experiment.run, batch_size=size)))
            for size in _BATCHES
        ),
        *(("threads", replace(experiment, threads=count)) for count in _THREADS),
        *(
            ("dtype", replace(experiment, case=replace(experiment.case, dtype=dtype)))
            for dtype in _other_dtype(experiment, subject)
        ),
    ]
    usual = measurement.windows.prefix(_RUNTIME_WINDOWS)
    moved: dict[str, float] = {}
    for name, way in ways:
        trace = SubjectTrace(way, subject, reference.budget)
        trace.extend(Target(len(usual.tokens)))
        found = trace.windows.prefix(len(usual.tokens)).perplexity
        if math.isfinite(found):  # another type may overflow, which is neither noise nor an error here
            moved[name] = max(moved.get(name, 0.0), abs(math.log(found / usual.perplexity)))
    return moved


def _other_dtype(experiment: Experiment, subject: Subject) -> list[str]:
    """Return another type that the quantizer's checkpoint can be measured in, if there is one."""
    for dtype in _DTYPES:
        try:
            if dtype != experiment.dtype and subject.quantizer:
                subject.quantizer.check(
                    experiment.case.spec, experiment.model, experiment.device.family, dtype
                )
                return [dtype]
        except SpecError:
            continue
    return []
