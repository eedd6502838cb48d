"""Heat maps: decoder layers by number and module, darker where there is more of what the map shows."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from ...metrics.audit import LayerAudit
from ...metrics.blame import Blame
from . import charts

_CELL, _NAMES = 15, 104
#: The least heat shown, so that a cell without any is seen as measured.
_PALEST = 0.06
#: The row of decoder layers that were looked at as a whole.
_WHOLE = "whole layer"


class Cell(NamedTuple):
    """What a map shows of one module: its heat, from 0, and whether it is framed."""

    name: str
    heat: float
    framed: bool = False


def heat_map(cells: Iterable[Cell]) -> str:
    """Return the map as SVG; the hottest is darkest.

    Experts share a cell, which shows the worst of them. Empty where the names have no numbers of layers.
    """
    places: dict[tuple[str, int], Cell] = {}
    for cell in cells:
        place = _place(cell.name)
        if place and (place not in places or cell.heat > places[place].heat):
            places[place] = cell
    if not places:
        return ""
    modules = list(dict.fromkeys(module for module, _ in places))
    deepest = max(number for _, number in places)
    width = min(_CELL, (charts.WIDTH - _NAMES - 8) / (deepest + 1))
    most = max(cell.heat for cell in places.values()) or 1.0
    body = [charts.text(_NAMES - 6, 12 + _CELL * n, name, "end") for n, name in enumerate(modules)]
    for (module, number), cell in places.items():
        shade = _PALEST + (1 - _PALEST) * cell.heat / most
        kind = "broken" if cell.framed else "heat"
        x, y = _NAMES + number * width, 1 + _CELL * modules.index(module)
        body.append(
            f"<rect class={kind} x={x:.1f} y={y} width={width - 1:.1f} height={_CELL - 1} "
            f"fill-opacity={shade:.2f} />"
        )
    foot = 12 + _CELL * len(modules)
    body += [charts.text(_NAMES, foot, "layer 0"), charts.text(charts.WIDTH - 8, foot, f"{deepest}", "end")]
    return charts.svg(body, charts.WIDTH, foot + 8)


def audit_cells(layers: Sequence[LayerAudit], broken: Collection[str]) -> Iterator[Cell]:
    """Yield the error of each layer's weights, in multiples of rounding's; ``broken`` layers are framed."""
    for layer in layers:
        heat = math.log2(1 + min(layer.factor, 1e3)) if math.isfinite(layer.factor) else 10.0
        yield Cell(layer.name, heat, layer.name in broken)


def blame_cells(blame: Blame) -> Iterator[Cell]:
    """Yield each module's share of the divergence, in the order of the model; culprits are framed."""
    shares, culprits = blame.shares, blame.culprits(len(blame.modules))
    for name in sorted(shares, key=_in_order):
        yield Cell(name, shares[name], name in culprits)


def _in_order(name: str) -> tuple[tuple[int, str], ...]:
    """Return a key that puts numbers in names in their order."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in name.split("."))


def _place(name: str) -> tuple[str, int] | None:
    """Return the module and the number of the decoder layer of a name: ``mlp.down_proj`` and 3."""
    parts = name.split(".")
    index = next((n for n, part in enumerate(parts) if part.isdecimal()), None)
    if index is None:
        return None
    module = ["*" if part.isdecimal() else part for part in parts[index + 1 :]]
    return ".".join(module) or _WHOLE, int(parts[index])
