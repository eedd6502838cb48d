"""Heat maps: a cell for each layer and module, darker where there is more error, or more to blame."""

import re
from dataclasses import replace

from pytest_tenpak.metrics.audit import NEAREST, LayerAudit
from pytest_tenpak.metrics.blame import Blame, ModuleBlame
from pytest_tenpak.reports.html.heat import audit_cells, blame_cells, heat_map

LAYER = LayerAudit("model.layers.0.mlp.up_proj", 0.1, 0.99, 0.1, 0.99, 0.0, NEAREST)


def cells(svg):
    """Class, place and shade of every cell."""
    found = re.findall(r"<rect class=(\w+) x=([\d.]+) y=(\d+) .*?fill-opacity=([\d.]+)", svg)
    return [(kind, float(x), int(y), float(shade)) for kind, x, y, shade in found]


def audited(layers, broken):
    """The map of an audit."""
    return heat_map(audit_cells(layers, broken))


def test_each_layer_has_its_place():
    """Decoder layers side by side, modules one below the other, by name."""
    names = [f"model.layers.{n}.mlp.{m}_proj" for n in range(3) for m in ("up", "down")]
    svg = audited([replace(LAYER, name=name) for name in names], ())
    found = cells(svg)
    assert len(found) == 6
    assert len({x for _, x, _, _ in found}) == 3
    assert len({y for _, _, y, _ in found}) == 2
    assert "mlp.up_proj" in svg
    assert "mlp.down_proj" in svg


def test_the_largest_error_is_darkest_and_what_is_broken_is_framed():
    """In multiples of the error of rounding."""
    worse = replace(LAYER, name="model.layers.1.mlp.up_proj", error=0.4)
    (kind, _, _, pale), (broken, _, _, dark) = cells(audited([LAYER, worse], {worse.name}))
    assert (kind, broken, dark) == ("heat", "broken", 1.0)
    assert 0 < pale < dark


def test_what_is_not_finite_is_darkest():
    """And costs no other cell."""
    broken = replace(LAYER, name="model.layers.1.mlp.up_proj", error=float("nan"))
    assert [shade for *_, shade in cells(audited([LAYER, broken], ()))][1] == 1.0


def test_experts_share_a_cell_that_shows_the_worst():
    """There may be hundreds of them."""
    names = [f"model.layers.0.mlp.experts.{n}.up_proj" for n in range(4)]
    layers = [replace(LAYER, name=name, error=0.1 * (1 + n)) for n, name in enumerate(names)]
    other = replace(LAYER, name="model.layers.1.mlp.experts.0.up_proj")
    svg = audited([*layers, other], {names[3]})
    assert [kind for kind, *_ in cells(svg)] == ["broken", "heat"]
    assert "mlp.experts.*.up_proj" in svg


def test_names_without_numbers_have_no_map():
    """There is no picture instead of a wrong one."""
    assert audited([replace(LAYER, name="head")], ()) == ""
    assert audited([], ()) == ""


def test_blame_is_darkest_at_the_largest_share_in_the_order_of_layers():
    """Whatever order it was found in; the culprit is framed, and what is in no layer is not on the map."""
    klds = {f"model.layers.{n}.mlp.{m}_proj": 0.01 for n in (10, 2, 0) for m in ("up", "down")}
    klds["model.layers.2.mlp.down_proj"] = 1.0
    klds["lm_head"] = 0.001
    modules = tuple(ModuleBlame(name, kld) for name, kld in klds.items())
    svg = heat_map(blame_cells(Blame(modules, total=1.0, tokens=64)))
    found = cells(svg)
    assert [kind for kind, *_ in found].count("broken") == 1
    assert len(found) == 6
    (dark,) = (cell for cell in found if cell[0] == "broken")
    assert dark[3] == 1.0
    assert sorted({x for _, x, _, _ in found}).index(dark[1]) == 1
    whole = Blame((ModuleBlame("model.layers.1", 0.5), ModuleBlame("model.layers.0.mlp", 0.5)), total=1.0)
    assert "whole layer" in heat_map(blame_cells(whole))


def test_blame_without_shares_has_no_map():
    """Neither where nothing was swapped, nor where nothing diverges."""
    assert heat_map(blame_cells(Blame(note="why"))) == ""
    assert heat_map(blame_cells(Blame((ModuleBlame("model.layers.0", 0.0),)))) == ""
