"""The heat map of an audit: a cell for each layer and module, darker where the error is larger."""

import re
from dataclasses import replace

from pytest_tenpak.metrics.audit import NEAREST, LayerAudit
from pytest_tenpak.reports.html.heat import heat_map

LAYER = LayerAudit("model.layers.0.mlp.up_proj", 0.1, 0.99, 0.1, 0.99, 0.0, NEAREST)


def cells(svg):
    """Class, place and shade of every cell."""
    found = re.findall(r"<rect class=(\w+) x=([\d.]+) y=(\d+) .*?fill-opacity=([\d.]+)", svg)
    return [(kind, float(x), int(y), float(shade)) for kind, x, y, shade in found]


def test_each_layer_has_its_place():
    """Decoder layers side by side, modules one below the other, by name."""
    names = [f"model.layers.{n}.mlp.{m}_proj" for n in range(3) for m in ("up", "down")]
    svg = heat_map([replace(LAYER, name=name) for name in names], ())
    found = cells(svg)
    assert len(found) == 6
    assert len({x for _, x, _, _ in found}) == 3
    assert len({y for _, _, y, _ in found}) == 2
    assert "mlp.up_proj" in svg
    assert "mlp.down_proj" in svg


def test_the_largest_error_is_darkest_and_what_is_broken_is_framed():
    """In multiples of the error of rounding."""
    worse = replace(LAYER, name="model.layers.1.mlp.up_proj", error=0.4)
    (kind, _, _, pale), (broken, _, _, dark) = cells(heat_map([LAYER, worse], {worse.name}))
    assert (kind, broken, dark) == ("heat", "broken", 1.0)
    assert 0 < pale < dark


def test_what_is_not_finite_is_darkest():
    """And costs no other cell."""
    broken = replace(LAYER, name="model.layers.1.mlp.up_proj", error=float("nan"))
    assert [shade for *_, shade in cells(heat_map([LAYER, broken], ()))][1] == 1.0


def test_experts_share_a_cell_that_shows_the_worst():
    """There may be hundreds of them."""
    names = [f"model.layers.0.mlp.experts.{n}.up_proj" for n in range(4)]
    layers = [replace(LAYER, name=name, error=0.1 * (1 + n)) for n, name in enumerate(names)]
    other = replace(LAYER, name="model.layers.1.mlp.experts.0.up_proj")
    svg = heat_map([*layers, other], {names[3]})
    assert [kind for kind, *_ in cells(svg)] == ["broken", "heat"]
    assert "mlp.experts.*.up_proj" in svg


def test_names_without_numbers_have_no_map():
    """There is no picture instead of a wrong one."""
    assert heat_map([replace(LAYER, name="head")], ()) == ""
    assert heat_map([], ()) == ""
