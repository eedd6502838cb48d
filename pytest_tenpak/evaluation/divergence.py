"""KL divergence from the reference, token by token, from what the reference's run left on disk.

Exact over the whole vocabulary where logits are the output head's product and nothing else: the reference
leaves the head's inputs (width × bytes of its type per token: 2.3 kB for SmolLM2-135M in float32, 8 kB
for a 7-billion Llama in 16 bit) and, once, the head; both models need never be in memory together.
Otherwise the reference leaves its TOP_K most likely tokens with their log-probabilities (8 · TOP_K bytes
per token), and what is computed over them and one class of all others is a lower bound: merging classes
can only lose divergence (the data processing inequality: Cover & Thomas, Elements of Information
Theory, §2.8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import MeasurementError

if TYPE_CHECKING:
    from .perplexity import Scorer
    from .trace import Trace

EXACT, LOWER_BOUND = "exact", "top-k lower bound"
MODES = ("auto", "exact", "top-k")
TOP_K = 64
#: The largest output head that is kept beside the reference's states unless exactness is asked for.
_HEAD_BYTES = 1 << 30
#: Stands for the logarithm of nothing, so that 0 · ln 0 is 0 and not NaN.
_LOG_OF_NOTHING = -1e4


def kind_of(scorer: Scorer, mode: str) -> str:
    """What a reference's run keeps: the kind that ``mode`` (one of MODES) stands for with this model.

    Raises MeasurementError where exactness was asked for and cannot be had.
    """
    if mode == "exact" and not scorer.head_is_all:
        raise MeasurementError(
            "the exact divergence of this model cannot be kept",
            given="logits that are more than the output head's product (soft caps or scales)",
            accepted="divergence auto or top-k",
            remedy="use --tenpak-divergence=auto, and mind that it is a lower bound",
        )
    if mode == "exact":
        return EXACT
    fits = scorer.head_is_all and _bytes_of(scorer.head) <= _HEAD_BYTES
    return EXACT if mode == "auto" and fits else LOWER_BOUND


def _bytes_of(head: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in head.parameters())


class Keeper:
    """Observes a reference's run and keeps what a divergence from it needs."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.needs_predictions = kind != EXACT

    def begin(self, first: int, count: int) -> None:
        """Nothing depends on where the windows are."""

    def observe(self, states: Any, log_probabilities: Any, nll: Any, start: int) -> dict[str, Any]:  # noqa: ARG002
        """The head's inputs, or the most likely tokens with their log-probabilities."""
        import torch

        if self._kind == EXACT:
            return {"states": states}
        top = log_probabilities.topk(min(TOP_K, log_probabilities.shape[-1]), dim=-1)
        return {"top_ids": top.indices.to(torch.int32), "top_log_probabilities": top.values}


class Comparer:
    """Observes a checkpoint's run and compares it with what a reference's run kept."""

    needs_predictions = True

    def __init__(self, reference: Trace, device: Any) -> None:
        self._reference = reference
        self._device = device
        self._head = reference.head(device) if reference.kind == EXACT else None
        self._kept: dict[str, Any] = {}

    def begin(self, first: int, count: int) -> None:
        """Read what the reference kept of a batch's windows."""
        names = ("nll", "states") if self._head else ("nll", "top_ids", "top_log_probabilities")
        self._kept = {
            name: self._reference.read(name, first, count).to(self._device).unflatten(0, (count, -1))
            for name in names
        }

    def observe(self, states: Any, log_probabilities: Any, nll: Any, start: int) -> dict[str, Any]:  # noqa: ARG002
        """Divergence (nats), whether the most likely tokens differ, squared difference of probabilities."""
        positions = slice(start, start + nll.shape[1])
        kept = {name: row[:, positions] for name, row in self._kept.items()}
        compare = self._exactly if self._head else self._by_top
        kld, agrees = compare(kept, log_probabilities)
        squared_dp = ((-nll).exp() - (-kept["nll"]).exp()) ** 2
        return {"kld": kld.clamp(min=0), "disagreement": (~agrees).float(), "squared_dp": squared_dp}

    def _exactly(self, kept: dict[str, Any], ours: Any) -> tuple[Any, Any]:
        import torch
        from torch.nn.functional import linear

        theirs = linear(kept["states"], *self._head).float()  # type: ignore[misc]
        highest, likeliest = theirs.max(dim=-1, keepdim=True)
        agrees = ours.argmax(-1) == likeliest[..., 0]
        # With e = exp(theirs − max) and its sum s, p is e / s: Σ p·(ln p − ln q) takes one exponential and
        # one product over the vocabulary, which is most of what a comparison costs.
        weights = theirs.sub_(highest).exp()
        total = weights.sum(dim=-1, keepdim=True)
        kld = torch.linalg.vecdot(weights, theirs.sub_(total.log()).sub_(ours)) / total[..., 0]
        if not bool(torch.isfinite(kld).all()):
            theirs = (weights / total).log_().clamp_(min=_LOG_OF_NOTHING)
            kld = torch.linalg.vecdot(weights, theirs.sub_(ours.clamp_(min=_LOG_OF_NOTHING))) / total[..., 0]
        return kld, agrees

    def _by_top(self, kept: dict[str, Any], ours: Any) -> tuple[Any, Any]:
        ids, theirs = kept["top_ids"].long(), kept["top_log_probabilities"].clamp(min=_LOG_OF_NOTHING)
        agrees = ours.argmax(-1) == ids[..., 0]
        ours = ours.gather(2, ids).clamp(min=_LOG_OF_NOTHING)
        listed = (theirs.exp() * (theirs - ours)).sum(-1)
        # What is left is small: the sums are in double, lest rounding make a tail of nothing.
        tail, our_tail = ((1 - row.double().exp().sum(-1)).clamp(min=1e-12) for row in (theirs, ours))
        return (listed + tail * (tail.log() - our_tail.log())).float(), agrees
