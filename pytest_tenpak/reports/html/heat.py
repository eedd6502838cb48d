"""The heat map of an audit: layers by number and module, darker where the error is larger."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from ...metrics.audit import LayerAudit
from . import charts

_CELL, _NAMES = 15, 104
#: The least error shown, so that a cell without any is seen as measured.
_PALEST = 0.06


def heat_map(layers: Sequence[LayerAudit], broken: Collection[str]) -> str:
    """Return the map as SVG: error in multiples of that of rounding to nearest; ``broken`` layers are framed.

    Experts share a cell, which shows the worst of them. Empty where the names have no numbers of layers.
    """
    cells: dict[tuple[str, int], LayerAudit] = {}
    for layer in layers:
        place = _place(layer.name)
        if place and (place not in cells or _heat(layer) > _heat(cells[place])):
            cells[place] = layer
    if not cells:
        return ""
    modules = list(dict.fromkeys(module for module, _ in cells))
    deepest = max(number for _, number in cells)
    width = min(_CELL, (charts.WIDTH - _NAMES - 8) / (deepest + 1))
    most = max(map(_heat, cells.values()))
    body = [charts.text(_NAMES - 6, 12 + _CELL * n, name, "end") for n, name in enumerate(modules)]
    for (module, number), layer in cells.items():
        shade = _PALEST + (1 - _PALEST) * _heat(layer) / most
        kind = "broken" if layer.name in broken else "heat"
        x, y = _NAMES + number * width, 1 + _CELL * modules.index(module)
        body.append(
            f"<rect class={kind} x={x:.1f} y={y} width={width - 1:.1f} height={_CELL - 1} "
            f"fill-opacity={shade:.2f} />"
        )
    foot = 12 + _CELL * len(modules)
    body += [charts.text(_NAMES, foot, "layer 0"), charts.text(charts.WIDTH - 8, foot, f"{deepest}", "end")]
    return charts.svg(body, charts.WIDTH, foot + 8)


def _place(name: str) -> tuple[str, int] | None:
    """Return the module and the number of the decoder layer of a name: ``mlp.down_proj`` and 3."""
    parts = name.split(".")
    index = next((n for n, part in enumerate(parts) if part.isdecimal()), None)
    if index is None:
        return None
    module = ["*" if part.isdecimal() else part for part in parts[index + 1 :]]
    return ".".join(module), int(parts[index])


def _heat(layer: LayerAudit) -> float:
    return math.log2(1 + min(layer.factor, 1e3)) if math.isfinite(layer.factor) else 10.0
