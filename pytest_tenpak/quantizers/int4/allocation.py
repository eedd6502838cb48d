"""Spending a budget of bits where it matters: groups and outliers of each matrix, by Fisher information.

Each matrix can have smaller groups and more outliers, or larger and fewer. What a choice costs is known, and
what it loses is estimated: ½ Σ F·ΔW², nats per token (:mod:`.statistics`). From the cheapest choices up, the
step that saves most per bit is taken, until the bits of the uniform recipe are spent: the greedy solution
of this knapsack, which is the best one but for the last step.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

from .matrix import Recipe

#: Groups and shares of outliers, in multiples of the uniform recipe's.
_GROUPS = (0.25, 0.5, 1, 2, 4)
_OUTLIERS = (0.0, 0.5, 1, 2)
_SMALLEST_GROUP = 16


class Choice(NamedTuple):
    """One way to quantize a matrix: what it takes, in bits, and what it loses, in nats per token."""

    recipe: Recipe
    bits: int
    loss: float


def candidates(uniform: Recipe, inputs: int) -> list[Recipe]:
    """List the recipes that a matrix may have, among them the uniform one."""
    width = min(uniform.group, inputs)
    groups = {min(inputs, max(_SMALLEST_GROUP, round(width * factor))) for factor in _GROUPS} | {width}
    shares = {uniform.outliers * factor for factor in _OUTLIERS}
    pairs = product(sorted(groups), sorted(shares))
    return [replace(uniform, group=group, outliers=share) for group, share in pairs]


def allocate(choices: Mapping[str, Sequence[Choice]], budget: int) -> dict[str, Recipe]:
    """Choose a recipe for each matrix so that together they take at most ``budget`` bits.

    Where even the cheapest take more, these are chosen.
    """
    steps = {name: _worthwhile(rows) for name, rows in choices.items()}
    taken = dict.fromkeys(steps, 0)
    left = budget - sum(rows[0].bits for rows in steps.values())
    queue = [(-_gain(rows[0], rows[1]), name) for name, rows in steps.items() if len(rows) > 1]
    heapq.heapify(queue)
    while queue:
        _, name = heapq.heappop(queue)
        rows, at = steps[name], taken[name]
        cost = rows[at + 1].bits - rows[at].bits
        if cost > left:
            continue
        left -= cost
        taken[name] = at + 1
        if at + 2 < len(rows):
            heapq.heappush(queue, (-_gain(rows[at + 1], rows[at + 2]), name))
    return {name: steps[name][at].recipe for name, at in taken.items()}


def _worthwhile(rows: Sequence[Choice]) -> list[Choice]:
    """Return the choices on the lower convex hull of loss over bits: each step saves less per bit."""
    hull: list[Choice] = []
    for row in sorted(rows, key=lambda one: (one.bits, one.loss)):
        if hull and row.loss >= hull[-1].loss:
            continue
        while len(hull) > 1 and _gain(hull[-1], row) >= _gain(hull[-2], hull[-1]):
            hull.pop()
        hull.append(row)
    return hull


def _gain(one: Choice, other: Choice) -> float:
    return (one.loss - other.loss) / max(1, other.bits - one.bits)


def choices_for(uniform: Recipe, shape: tuple[int, int], loss: Callable[[Recipe], float]) -> list[Choice]:
    """List the choices for a matrix (outputs, inputs), each with the loss that ``loss(recipe)`` estimates."""
    return [Choice(one, one.bits(*shape), loss(one)) for one in candidates(uniform, shape[1])]
