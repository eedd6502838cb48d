"""Figures of predictions, each from one row of logits: NLL, log-probabilities, divergence, likeliest token.

On a CPU all is done in place, in pieces of a chunk that stay in its cache from one step to the next. torch's
own functions make a second tensor as large as the first there, and their sums over a large vocabulary are
off by 1e-6 to 1e-5 nats, all to one side. A GPU is given few large steps, of as few passes over its memory as
torch has functions for, and is never asked for a value: it would have to finish before it answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: Bytes of a piece: so few that it stays in the cache, and so many that threads, which wait for each other
#: after each step, do so rarely.
_PIECE_BYTES = 8 << 20
#: Stands for the logarithm of 0, so that 0 · ln 0 is 0 and not NaN.
LOG_OF_ZERO = -1e4


def score(logits: Any, targets: Any, wants_all: bool) -> tuple[Any, Any]:
    """Return −ln softmax(logits)[target] of each position, and with ``wants_all`` all ln softmax(logits).

    ``logits`` (windows, positions, vocabulary) may be overwritten; the results are float32.
    """
    if logits.device.type == "cpu":
        return _score_in_place(logits.float(), targets, wants_all)
    return _score_at_once(logits, targets, wants_all)


def divergence(theirs: Any, ours: Any) -> tuple[Any, Any]:
    """Return KL(theirs ‖ ours) in nats, and whether the likeliest tokens agree, of each position.

    ``theirs`` are logits, ``ours`` float32 log-probabilities, both (windows, positions, vocabulary); both may
    be overwritten. The results are (windows, positions).
    """
    if theirs.device.type == "cpu":
        return _divergence_in_pieces(theirs.float(), ours)
    return _divergence_at_once(theirs, ours)


# ------------------------------------------------------------ on a GPU


def _score_at_once(logits: Any, targets: Any, wants_all: bool) -> tuple[Any, Any]:
    log_probabilities = _log_softmax(logits)
    nll = -log_probabilities.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return nll, log_probabilities if wants_all else None


def _log_softmax(logits: Any) -> Any:
    import torch

    return torch.log_softmax(logits, dim=-1, dtype=torch.float32)


def _divergence_at_once(theirs: Any, ours: Any) -> tuple[Any, Any]:
    """Logarithms of 0, which are rare, are replaced whether there are any or not."""
    import torch

    agrees = ours.argmax(dim=-1) == theirs.argmax(dim=-1)
    theirs = _log_softmax(theirs)
    # A token's own NaN is in its weights too, and stays.
    difference = torch.sub(theirs, ours, out=ours).nan_to_num_(0.0, posinf=-LOG_OF_ZERO, neginf=LOG_OF_ZERO)
    return theirs.exp_().mul_(difference).sum(dim=-1), agrees


# ------------------------------------------------------------ on a CPU


def _score_in_place(logits: Any, targets: Any, wants_all: bool) -> tuple[Any, Any]:
    """All in place, but for the exponentials of a piece where the logits are still needed."""
    import torch

    pieces = in_pieces(logits)
    scratch = torch.empty_like(pieces[0]) if wants_all else None
    found = []
    for piece, wanted in zip(pieces, targets.tensor_split(len(pieces), dim=1), strict=True):
        piece.sub_(piece.amax(dim=-1, keepdim=True))
        own = piece.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
        exponentials = piece if scratch is None else scratch[:, : piece.shape[1]]
        total = torch.exp(piece, out=exponentials).sum(dim=-1).log_()
        found.append(total - own)
        if wants_all:
            piece.sub_(total.unsqueeze(-1))
    return _joined(found), logits if wants_all else None


def _divergence_in_pieces(theirs: Any, ours: Any) -> tuple[Any, Any]:
    import torch

    pairs = list(zip(in_pieces(theirs), in_pieces(ours), strict=True))
    scratch = torch.empty_like(pairs[0][0])
    kld, agrees = zip(
        *(_divergence_in_place(*pair, scratch[:, : pair[0].shape[1]]) for pair in pairs), strict=True
    )
    return _joined(kld), _joined(agrees)


def _divergence_in_place(theirs: Any, ours: Any, scratch: Any) -> tuple[Any, Any]:
    """``scratch`` is overwritten too, and has the others' shape."""
    import torch

    agrees = _likeliest(ours) == _likeliest(theirs)
    # With e = exp(theirs − max) and its sum s, p is e / s: Σ p·(ln p − ln q) needs one exponential and
    # one product over the vocabulary, which are most of the cost of a comparison.
    weights = torch.exp(theirs.sub_(theirs.amax(dim=-1, keepdim=True)), out=scratch)
    total = weights.sum(dim=-1, keepdim=True)
    kld = theirs.sub_(total.log()).sub_(ours).mul_(weights).sum(dim=-1) / total[..., 0]
    if not bool(torch.isfinite(kld).all()):
        # Logarithms of 0 are rare, and cost two more passes over the vocabulary.
        theirs = (weights / total).log_().clamp_(min=LOG_OF_ZERO)
        kld = theirs.sub_(ours.clamp_(min=LOG_OF_ZERO)).mul_(weights).sum(dim=-1) / total[..., 0]
    return kld, agrees


def _likeliest(rows: Any) -> Any:
    """Return the number of the largest of each row, of equal ones the first.

    numpy's search is ten times as fast as torch's, with the same answer.
    """
    import torch

    return torch.from_numpy(rows.numpy().argmax(axis=-1))


def in_pieces(logits: Any) -> Sequence[Any]:
    """Return float32 rows (windows, positions, vocabulary) as views of some positions each, largest first.

    Whatever is done row by row has the same figures in pieces, bit for bit: only products of matrices may
    depend on how many rows there are. (A sum of one row alone is the exception: threads share it.)
    """
    windows, _, vocabulary = logits.shape
    return split(logits, _PIECE_BYTES // (4 * vocabulary * windows), 1 if windows > 1 else 2)


def split(rows: Any, most: int, least: int = 1) -> Sequence[Any]:
    """Return views of (windows, positions, …), as alike as can be, of at most ``most`` positions.

    But never of less than ``least``, where there are as many.

    Alike, so that none is left with few rows: the head's product of fewer than 16 rows takes another way
    through the library, with other last digits, and as long as one of many rows.
    """
    positions = rows.shape[1]
    count = min(-(-positions // max(1, most)), positions // least)
    parts: Sequence[Any] = rows.tensor_split(max(1, count), dim=1)
    return parts


def _joined(pieces: Sequence[Any]) -> Any:
    import torch

    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces), dim=1)
