"""Blame in words: which modules carry a checkpoint's divergence, and how far that can be said."""

from __future__ import annotations

from collections.abc import Sequence

from ..gate.outcome import Outcome
from ..metrics.blame import ADDS_UP, Blame, adds_up

#: How many modules are listed.
_LISTED = 5


def blame_lines(outcome: Outcome) -> list[str]:
    """What is to blame, the modules with the largest shares, and how far these explain the divergence."""
    blame = outcome.blame
    if blame is None:
        return []
    if not blame.modules:
        return [blame.note]
    return [
        blame_sentence(blame),
        *(_listed(blame) if adds_up(blame.additivity) else []),
        f"blame: {blame_evidence(blame)}",
        *([f"blame: {blame.note}"] if blame.note else []),
    ]


def blame_sentence(blame: Blame) -> str:
    """What is to blame for the divergence, or that nothing is and why."""
    layers, modules = blame.culprit_layers(), blame.culprits()
    within = [f"decoder layer {n} ({blame.layer_shares[n]:.0%} of the divergence)" for n in layers]
    named = [f"{name} ({blame.shares[name]:.0%})" for name in modules]
    if layers or modules:
        return "to blame: " + "; ".join(", ".join(row) for row in (within, named) if row)
    if not adds_up(blame.additivity):
        low, high = ADDS_UP
        return (
            "no module is to blame: one by one they do not add up to the checkpoint's divergence "
            f"(ratio {_ratio(blame.additivity)}, {low:g} to {high:g} would)"
        )
    return "no module is to blame: the divergence is spread, and none stands out"


def blame_evidence(blame: Blame) -> str:
    """What the shares are of, and on how many tokens."""
    parts = f"{len(blame.modules):,} parts" if len(blame.modules) > 1 else "the only part"
    layers = f" ({_ratio(blame.layer_additivity)} times for whole layers)" if blame.layers else ""
    return (
        f"{parts} put into the reference one by one, on {blame.tokens:,} tokens where the checkpoint "
        f"diverges most: the sum of their KL divergences is {_ratio(blame.additivity)} times{layers} the "
        f"whole checkpoint's {blame.total:.4g} nats per token"
    )


def _ratio(ratio: float | None) -> str:
    return "unknown" if ratio is None else f"{ratio:.2f}"


def _listed(blame: Blame) -> Sequence[str]:
    """The modules with the largest shares, a line each."""
    klds = {module.name: module.kld for module in blame.modules}
    rows = list(blame.shares.items())[:_LISTED]
    return [f"  {share:6.1%}  {name}, {klds[name]:.4g} nats per token" for name, share in rows]
