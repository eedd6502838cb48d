"""Whether there is room for what a case will do, found before it: disk for states, devices for layers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import TenpakError, UnavailableError
from ..evaluation.decoder_layers import TOKENS
from ..evaluation.divergence import EXACT, TOP_K, kind_by_size
from ..execution.memory import free_bytes
from ..models.ledger import INPUT_EMBEDDINGS, OUTPUT_HEADS
from ..models.safetensors_files import read_tensors
from ..quantizers.base import Quantizer
from ..quantizers.placement import NONE, OFFLOADABLE, loaded_bytes, quant_method
from ..units import in_gib
from .experiment import Experiment, Subject
from .measuring import SubjectTrace

#: Characters of a token, where the text is not tokenized yet: English has four to five.
_CHARACTERS = 4
#: Bytes per token of the figures that every trace holds: NLL, divergence, top-1, probability, all float32.
_FIGURES = 16


class States(NamedTuple):
    """What a reference's trace holds at most, in bytes: for each token, and once."""

    per_token: int
    once: int

    def total(self, tokens: int) -> int:
        """Return the bytes of a trace over so many scored tokens."""
        return self.per_token * tokens + self.once


def states_of(config: Mapping[str, Any], vocabulary: int, dtype_bytes: int, mode: str) -> States:
    """Return the bytes of a reference's states, by its config and the rows of its output head.

    ``mode`` is the divergence that the run asks for. Where logits are more than the head's product a lower
    bound is recorded, which takes less; a soft cap says so in the config, other changes show only when the
    model runs.
    """
    inner = {**config, **(config.get("text_config") or {})}
    width = int(inner.get("hidden_size") or inner.get("n_embd") or 0)
    layers = int(inner.get("num_hidden_layers") or inner.get("n_layer") or 0)
    head = vocabulary * width * dtype_bytes
    between = 2 * layers * TOKENS * width * 4
    capped = bool(inner.get("final_logit_softcapping"))
    if kind_by_size(mode, head, not capped) == EXACT:
        return States(width * dtype_bytes + _FIGURES, head + between)
    return States(8 * TOP_K + _FIGURES, between)


def require_disk(references: Sequence[SubjectTrace]) -> None:
    """Raise TenpakError where the references' states may not fit on the disk of the cache.

    Those of the whole budget, of references that are not begun: what a run needs of the others may be there.
    """
    needed = sum(_needed(one) for one in references if one.trace.plan is None)
    root = references[0].experiment.run.store.root
    free = shutil.disk_usage(_existing(root)).free
    if needed > free:
        raise no_disk(needed, free, root)


def no_disk(needed: int, free: int, root: Path) -> TenpakError:
    """Return the error that names what the states take, what is free, and what can be done."""
    return TenpakError(
        "the reference's states do not fit on the disk of the cache",
        given=f"up to {in_gib(needed)} for the budget of this case; {in_gib(free)} free in {root}",
        accepted="room for what a comparison with the reference needs, token by token",
        remedy="set a smaller max_tokens, use --tenpak-divergence=top-k, free space, "
        "or set --tenpak-cache-dir to a folder on another disk",
    )


def _needed(reference: SubjectTrace) -> int:
    experiment = reference.experiment
    states = states_of(
        experiment.model.architecture,
        _vocabulary(experiment),
        4 if experiment.dtype == "float32" else 2,
        experiment.run.divergence,
    )
    guessed = sum(map(len, experiment.corpus.documents)) // _CHARACTERS
    return states.total(min(reference.budget or guessed, guessed))


def _vocabulary(experiment: Experiment) -> int:
    """Return the rows of the output head: those of the embeddings, by their stored shape, or the config's."""
    config = experiment.model.architecture
    inner = {**config, **(config.get("text_config") or {})}
    rows = [
        tensor.shape[0]
        for name, tensor in read_tensors(experiment.model.path).items()
        if name.endswith((*INPUT_EMBEDDINGS, *OUTPUT_HEADS)) and len(tensor.shape) == 2
    ]
    return max([int(inner.get("vocab_size") or 0), *rows])


def _existing(folder: Path) -> Path:
    return folder if folder.exists() or folder == folder.parent else _existing(folder.parent)


# ---------------------------------------------------------------- devices


def require_place(experiment: Experiment, source: Quantizer | Subject) -> None:
    """Raise UnavailableError where a checkpoint needs other places than its method's layers can be in.

    Its size is known before it is made only for methods with an option ``bits``; others are refused when they
    are loaded. In a run of one device that offloads nothing there is nothing to choose.
    """
    run = experiment.run
    placement = run.placement
    if len(placement.devices) < 2 and placement.offload == NONE:
        return
    checkpoint = _checkpoint(experiment, source)
    if checkpoint.offloads and placement.offload != NONE:
        return
    devices = placement.devices if checkpoint.spreads else placement.devices[:1]
    if checkpoint.bytes > _free(devices, placement.memory):
        run.workers.make_room(experiment.model.path, *devices)  # of what stayed of other cases
    free = _free(devices, placement.memory)
    if checkpoint.bytes > free:
        raise UnavailableError(
            f"the layers of {checkpoint.name} cannot be in host memory or on disk"
            + ("" if checkpoint.spreads else ", nor on several devices"),
            given=f"about {in_gib(checkpoint.bytes)} of quantized weights; "
            f"{in_gib(max(0, free))} free on {', '.join(devices)}",
            accepted="method int4, and checkpoints that are not quantized",
            remedy="use more or larger GPUs or another method, or raise --tenpak-memory",
        )


class _Checkpoint(NamedTuple):
    """What a checkpoint is called, where its layers can be, about how many bytes it takes (0: unknown)."""

    name: str
    spreads: bool
    offloads: bool
    bytes: int


def _checkpoint(experiment: Experiment, source: Quantizer | Subject) -> _Checkpoint:
    if isinstance(source, Subject):
        form = quant_method(source.directory)
        size = sum(loaded_bytes(source.directory, experiment.dtype).values())
        return _Checkpoint(f"format {form!r}", True, not form or form in OFFLOADABLE, size)
    spec = experiment.case.spec
    bits = spec.options.get("bits") or 0
    weights = sum(tensor.numel for tensor in read_tensors(experiment.model.path).values())
    return _Checkpoint(f"method {spec.method!r}", source.spreads, source.offloads, weights * bits // 8)


def _free(devices: Sequence[str], limit: int) -> int:
    """Return the free bytes of devices together; on the host at most ``limit``, where there is one."""
    free = sum(map(free_bytes, devices))
    return min(free, limit) if limit and devices == ("cpu",) else free
