"""The records of blame: shares, the additivity ratio, and when no module is named."""

import json

import pytest

from pytest_tenpak.metrics.blame import Blame, ModuleBlame


def blame(total, **kld):
    """Blame of modules of layer 0, by what their names end in."""
    names = {name: f"model.layers.{n}.mlp.{name}" for n, name in enumerate(kld)}
    return Blame(tuple(ModuleBlame(names[name], value) for name, value in kld.items()), total, 100)


def test_shares_are_of_the_sum_and_the_ratio_is_of_the_total():
    """So that shares add up to 1 whatever the ratio is, which says how far they explain the total."""
    found = blame(0.5, up=0.1, down=0.3)
    assert list(found.shares.values()) == pytest.approx([0.75, 0.25])
    assert list(found.shares) == ["model.layers.1.mlp.down", "model.layers.0.mlp.up"]
    assert found.additivity == pytest.approx(0.8)
    assert found.layer_shares == pytest.approx({1: 0.75, 0: 0.25})


def test_the_module_that_stands_out_is_the_culprit():
    """With three even shares; of two modules, with half of the whole."""
    found = blame(1.0, a=0.9, b=0.02, c=0.02, d=0.02, e=0.02, f=0.02)
    assert found.culprits() == ["model.layers.0.mlp.a"]
    assert found.culprit_layers() == [0]
    assert blame(1.0, up=0.6, down=0.4).culprits() == ["model.layers.0.mlp.up"]
    assert len(blame(3.0, a=1.0, b=1.0, c=1.0, **{f"n{n}": 0.001 for n in range(30)}).culprits(2)) == 2


@pytest.mark.parametrize("total", [0.4, 2.1, 0.0])
def test_no_culprit_is_named_where_shares_do_not_add_up(total):
    """A sum of 0.9 explains neither 0.4 nor 2.1."""
    found = blame(total, a=0.88, b=0.01, c=0.01)
    assert not found.adds_up
    assert found.culprits() == found.culprit_layers() == []


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
