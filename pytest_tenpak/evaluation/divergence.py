"""KL divergence from the reference, token by token, from files that the reference's run saved.

Exact over the whole vocabulary where logits are the output head's product and nothing else: the reference's
run saves the head's inputs (width × bytes of its type per token: 2.3 kB for SmolLM2-135M in float32, 8 kB
for a 7-billion Llama in 16 bit) and, once, the head; both models need never be in memory together.
Otherwise the run saves the TOP_K most likely tokens with their log-probabilities (8 · TOP_K bytes per token),
and the divergence over these and one class of all others is a lower bound: merging classes can only reduce
divergence (the data processing inequality: Cover & Thomas, Elements of Information Theory, §2.8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import MeasurementError
from .predictions import LOG_OF_ZERO, divergence
from .transfer import upload

if TYPE_CHECKING:
    from .perplexity import Scorer
    from .trace import Trace

EXACT, LOWER_BOUND = "exact", "top-k lower bound"
MODES = ("auto", "exact", "top-k")
TOP_K = 64
#: The largest output head that is saved with the reference's states, unless ``exact`` is requested.
_HEAD_BYTES = 1 << 30


def kind_of(scorer: Scorer, mode: str) -> str:
    """Return the kind of divergence that ``mode`` (one of MODES) means for this model.

    Raises MeasurementError where ``exact`` is requested and not possible.
    """
    if mode == "exact" and not scorer.head_is_all:
        raise MeasurementError(
            "the exact divergence of this model cannot be computed",
            given="logits that are more than the output head's product (soft caps or scales)",
            accepted="divergence auto or top-k",
            remedy="use --tenpak-divergence=auto, which gives a lower bound here",
        )
    return kind_by_size(mode, _bytes_of(scorer.head) if scorer.head_is_all else 0, scorer.head_is_all)


def kind_by_size(mode: str, head_bytes: int, head_is_all: bool) -> str:
    """Return the kind of divergence for an output head of so many bytes.

    ``head_is_all``: logits are its product and nothing else.
    """
    if mode == "exact":
        return EXACT
    fits = head_is_all and head_bytes <= _HEAD_BYTES
    return EXACT if mode == "auto" and fits else LOWER_BOUND


def _bytes_of(head: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in head.parameters())


class ReferenceRecorder:
    """Observes a reference's run and records what computing a divergence from it needs."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.needs_predictions = kind != EXACT

    def begin(self, first: int, count: int) -> None:
        """Do nothing: what is recorded does not depend on the windows' places."""

    def observe(self, states: Any, log_probabilities: Any, nll: Any, start: int) -> dict[str, Any]:  # noqa: ARG002
        """Return the head's inputs, or the most likely tokens with their log-probabilities."""
        import torch

        if self._kind == EXACT:
            return {"states": states}
        top = log_probabilities.topk(min(TOP_K, log_probabilities.shape[-1]), dim=-1)
        return {"top_ids": top.indices.to(torch.int32), "top_log_probabilities": top.values}


class Comparer:
    """Observes a checkpoint's run and compares it with what a reference's run recorded.

    ``head`` is the checkpoint's output head. Most methods leave it as it was: where it is the reference's,
    bit for bit, there is no need of a second one in memory.

    An exact divergence takes a product of states and head more than the checkpoint's own run: of the bare
    pass's speed no more is left than 1 / (1 + the head's share of a model's arithmetic).
    """

    needs_predictions = True

    def __init__(self, reference: Trace, device: Any, head: Any = None) -> None:
        self._reference = reference
        self._device = device
        self._head = _shared(reference.head(device), head) if reference.kind == EXACT else None
        self._batch = 0, 0
        self._recorded: dict[str, Any] = {}
        self._room: Any = None

    def begin(self, first: int, count: int) -> None:
        """Note which windows come; what was recorded of the reference on them is read when it is needed.

        A GPU has the whole batch to run by then, and does not wait for the disk.
        """
        self._batch, self._recorded = (first, count), {}

    def _read(self) -> dict[str, Any]:
        first, count = self._batch
        names = ("nll", "states") if self._head else ("nll", "top_ids", "top_log_probabilities")
        return {
            name: upload(self._reference.read(name, first, count), self._device).unflatten(0, (count, -1))
            for name in names
        }

    def observe(self, states: Any, log_probabilities: Any, nll: Any, start: int) -> dict[str, Any]:  # noqa: ARG002
        """Return divergence (nats), whether the most likely tokens differ, squared probability difference."""
        positions = slice(start, start + nll.shape[1])
        self._recorded = self._recorded or self._read()
        recorded = {name: row[:, positions] for name, row in self._recorded.items()}
        if self._head:
            kld, agrees = divergence(self._logits(recorded["states"]), log_probabilities)
        else:
            kld, agrees = _by_top(recorded, log_probabilities)
        squared_dp = ((-nll).exp() - (-recorded["nll"]).exp()) ** 2
        return {"kld": kld.clamp(min=0), "disagreement": (~agrees).float(), "squared_dp": squared_dp}

    def _logits(self, states: Any) -> Any:
        """Return the reference's logits (windows, positions, vocabulary), valid until the next call.

        On a CPU they are written where the last ones were: memory that is new for each chunk has to be
        cleared by the kernel first.
        """
        import torch
        from torch.nn.functional import linear

        weight, bias = self._head  # type: ignore[misc]
        if states.device.type != "cpu" or states.dtype != torch.float32 or bias is not None:
            return linear(states, weight, bias)
        rows = states.shape[0] * states.shape[1]
        if self._room is None or len(self._room) < rows:
            self._room = None  # given back before there is another one
            self._room = states.new_empty(rows, len(weight))
        product = torch.mm(states.flatten(0, 1), weight.T, out=self._room[:rows])
        return product.view(*states.shape[:2], -1)


def _by_top(recorded: dict[str, Any], ours: Any) -> tuple[Any, Any]:
    ids, theirs = recorded["top_ids"].long(), recorded["top_log_probabilities"].clamp(min=LOG_OF_ZERO)
    agrees = ours.argmax(-1) == ids[..., 0]
    ours = ours.gather(2, ids).clamp(min=LOG_OF_ZERO)
    listed = (theirs.exp() * (theirs - ours)).sum(-1)
    # The rest is small: its sums are in double, since rounding errors could be as large.
    tail, our_tail = ((1 - row.double().exp().sum(-1)).clamp(min=1e-12) for row in (theirs, ours))
    return (listed + tail * (tail.log() - our_tail.log())).float(), agrees


def _shared(saved: tuple[Any, Any], head: Any) -> tuple[Any, Any]:
    """Return (weight, bias or None) of a saved head, by the weight of ``head`` where that is equal."""
    import torch

    weight, bias = saved
    own: Any = getattr(head, "weight", None)
    if type(own) is not torch.nn.Parameter or own.is_meta:  # quantized, or somewhere else between its uses
        return saved
    alike = (own.shape, own.dtype, own.device) == (weight.shape, weight.dtype, weight.device)
    return (own.detach(), bias) if alike and torch.equal(own, weight) else saved
