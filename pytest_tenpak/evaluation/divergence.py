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
from .perplexity import in_pieces, joined
from .transfer import upload

if TYPE_CHECKING:
    from .perplexity import Scorer
    from .trace import Trace

EXACT, LOWER_BOUND = "exact", "top-k lower bound"
MODES = ("auto", "exact", "top-k")
TOP_K = 64
#: The largest output head that is saved with the reference's states, unless ``exact`` is requested.
_HEAD_BYTES = 1 << 30
#: Stands for the logarithm of 0, so that 0 · ln 0 is 0 and not NaN.
_LOG_OF_ZERO = -1e4


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
        self._recorded: dict[str, Any] = {}
        self._room: Any = None

    def begin(self, first: int, count: int) -> None:
        """Read what was recorded of the reference on a batch's windows."""
        names = ("nll", "states") if self._head else ("nll", "top_ids", "top_log_probabilities")
        self._recorded = {
            name: upload(self._reference.read(name, first, count), self._device).unflatten(0, (count, -1))
            for name in names
        }

    def observe(self, states: Any, log_probabilities: Any, nll: Any, start: int) -> dict[str, Any]:  # noqa: ARG002
        """Return divergence (nats), whether the most likely tokens differ, squared probability difference."""
        positions = slice(start, start + nll.shape[1])
        recorded = {name: row[:, positions] for name, row in self._recorded.items()}
        compare = self._exactly if self._head else self._by_top
        kld, agrees = compare(recorded, log_probabilities)
        squared_dp = ((-nll).exp() - (-recorded["nll"]).exp()) ** 2
        return {"kld": kld.clamp(min=0), "disagreement": (~agrees).float(), "squared_dp": squared_dp}

    def _exactly(self, recorded: dict[str, Any], ours: Any) -> tuple[Any, Any]:
        import torch

        theirs = self._logits(recorded["states"])
        may_ask = ours.device.type == "cpu"
        pairs = list(zip(in_pieces(theirs), in_pieces(ours), strict=True))
        scratch = torch.empty_like(pairs[0][0])
        found = [exactly(*pair, may_ask=may_ask, scratch=scratch[:, : pair[0].shape[1]]) for pair in pairs]
        kld, agrees = zip(*found, strict=True)
        return joined(kld), joined(agrees)

    def _logits(self, states: Any) -> Any:
        """Return the reference's logits, float32 (windows, positions, vocabulary), valid until the next call.

        On a CPU they are written where the last ones were: memory that is new for each chunk has to be
        cleared by the kernel first.
        """
        import torch
        from torch.nn.functional import linear

        weight, bias = self._head  # type: ignore[misc]
        if states.device.type != "cpu" or states.dtype != torch.float32 or bias is not None:
            return linear(states, weight, bias).float()
        rows = states.shape[0] * states.shape[1]
        if self._room is None or len(self._room) < rows:
            self._room = None  # given back before there is another one
            self._room = states.new_empty(rows, len(weight))
        product = torch.mm(states.flatten(0, 1), weight.T, out=self._room[:rows])
        return product.view(*states.shape[:2], -1)

    def _by_top(self, recorded: dict[str, Any], ours: Any) -> tuple[Any, Any]:
        ids, theirs = recorded["top_ids"].long(), recorded["top_log_probabilities"].clamp(min=_LOG_OF_ZERO)
        agrees = ours.argmax(-1) == ids[..., 0]
        ours = ours.gather(2, ids).clamp(min=_LOG_OF_ZERO)
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


def exactly(theirs: Any, ours: Any, *, may_ask: bool, scratch: Any = None) -> tuple[Any, Any]:
    """Return divergence, and whether the most likely tokens agree, of each position; changes its arguments.

    ``theirs`` are the reference's logits, ``ours`` log-probabilities, float32 (…, vocabulary); ``scratch`` is
    overwritten, of the same shape. Logarithms of 0 are rare, and cost two more passes over the vocabulary. On
    a CPU they are looked for. Without ``may_ask`` they are replaced whether there are any or not: a GPU would
    have to finish before it answers.
    """
    import torch

    agrees = _likeliest(ours) == _likeliest(theirs)
    # With e = exp(theirs − max) and its sum s, p is e / s: Σ p·(ln p − ln q) needs one exponential and
    # one product over the vocabulary, which are most of the cost of a comparison.
    weights = torch.exp(theirs.sub_(theirs.amax(dim=-1, keepdim=True)), out=scratch)
    total = weights.sum(dim=-1, keepdim=True)
    difference = theirs.sub_(total.log()).sub_(ours)
    if not may_ask:
        # A token's own NaN is in its weights too, and stays.
        difference.nan_to_num_(nan=0.0, posinf=-_LOG_OF_ZERO, neginf=_LOG_OF_ZERO)
    kld = difference.mul_(weights).sum(dim=-1) / total[..., 0]
    if may_ask and not bool(torch.isfinite(kld).all()):
        theirs = (weights / total).log_().clamp_(min=_LOG_OF_ZERO)
        kld = theirs.sub_(ours.clamp_(min=_LOG_OF_ZERO)).mul_(weights).sum(dim=-1) / total[..., 0]
    return kld, agrees


def _likeliest(rows: Any) -> Any:
    """Return the number of the largest of each row, of equal ones the first.

    numpy's search is ten times as fast as torch's on a CPU, with the same answer.
    """
    import torch

    if rows.device.type != "cpu":
        return rows.argmax(dim=-1)
    return torch.from_numpy(rows.numpy().argmax(axis=-1))
