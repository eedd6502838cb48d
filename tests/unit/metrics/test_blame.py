"""The records of blame: shares, the additivity ratio, and when no module is named."""

import json

import pytest

from pytest_tenpak.metrics.blame import Blame, ModuleBlame, adds_up


def blame(total, **kld):
    """Blame of one module for each decoder layer, by what their names end in."""
    modules = [ModuleBlame(f"model.layers.{n}.mlp.{name}", kld[name]) for n, name in enumerate(kld)]
    layers = [ModuleBlame(f"model.layers.{n}", kld[name]) for n, name in enumerate(kld)]
    return Blame(tuple(modules), tuple(layers), total, 100)


def test_shares_are_of_the_sum_and_the_ratio_is_of_the_total():
    """So that shares add up to 1 whatever the ratio is, which says how far they explain the total."""
    found = blame(0.5, up=0.1, down=0.3)
    assert list(found.shares.values()) == pytest.approx([0.75, 0.25])
    assert list(found.shares) == ["model.layers.1.mlp.down", "model.layers.0.mlp.up"]
    assert found.additivity == found.layer_additivity == pytest.approx(0.8)
    assert found.layer_shares == pytest.approx({1: 0.75, 0: 0.25})


def test_the_module_that_stands_out_is_the_culprit():
    """With three even shares and a quarter of the whole; of few modules, with three quarters of it."""
    found = blame(1.0, a=0.9, b=0.02, c=0.02, d=0.02, e=0.02, f=0.02)
    assert found.culprits() == ["model.layers.0.mlp.a"]
    assert found.culprit_layers() == [0]
    assert blame(1.0, up=0.8, down=0.2).culprits() == ["model.layers.0.mlp.up"]
    assert blame(1.0, up=0.6, down=0.4).culprits() == []
    assert blame(1.0, a=0.2, **{f"n{n}": 0.004 for n in range(200)}).culprits() == []
    assert len(blame(3.0, a=1.0, b=1.0, c=1.0, **{f"n{n}": 0.001 for n in range(30)}).culprits(2)) == 2


@pytest.mark.parametrize("total", [0.4, 2.1, 0.0])
def test_no_culprit_is_named_where_shares_do_not_add_up(total):
    """A sum of 0.9 explains neither 0.4 nor 2.1."""
    found = blame(total, a=0.88, b=0.01, c=0.01)
    assert not adds_up(found.additivity)
    assert found.culprits() == found.culprit_layers() == []


def test_a_layer_is_to_blame_for_what_its_modules_do_together():
    """Errors that belong together hurt more than one by one; the largest module of another layer is innocent."""
    modules = tuple(ModuleBlame(f"model.layers.0.{n}", 0.05) for n in range(4))
    modules += tuple(ModuleBlame(f"model.layers.1.{n}", kld) for n, kld in enumerate((0.2, 0.1, 0.02, 0.02)))
    rest = ModuleBlame("model.norm", 0.01)
    layers = ModuleBlame("model.layers.0", 0.85), ModuleBlame("model.layers.1", 0.2)
    found = Blame((*modules, rest), layers, 1.0, 100)
    assert found.additivity == pytest.approx(0.55)
    assert found.layer_additivity == pytest.approx(1.06)
    assert found.culprit_layers() == [0]
    assert found.culprits() == []
    assert found.layer_shares == pytest.approx({0: 0.85 / 1.06, 1: 0.2 / 1.06})


def test_no_culprit_is_named_where_all_are_alike():
    """Damage that is everywhere is in no module."""
    assert blame(1.0, a=0.3, b=0.3, c=0.2, d=0.2).culprits() == []
    assert Blame(note="nothing differs").culprits() == []


def test_blame_survives_json():
    """And says there what it derived."""
    found = blame(1.0, a=0.9, b=0.1)
    plain = json.loads(json.dumps(found.to_dict()))
    assert Blame.from_dict(plain) == found
    assert plain["additivity"] == 1.0
    assert plain["culprits"] == ["model.layers.0.mlp.a"]
    assert ModuleBlame("lm_head", 0.1).layer is None
