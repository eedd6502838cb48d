"""Blame in words: what is named, what is not, and how far the figures go."""

from dataclasses import replace

from made_up import outcome

from pytest_tenpak.metrics.blame import Blame, ModuleBlame
from pytest_tenpak.reports.blame import blame_lines, blame_sentence

WORST = "model.layers.3.mlp.down_proj"


def blame(total, worst, rest=0.01, layer=None):
    """One module of each of ten decoder layers, the one of layer 3 the worst."""
    modules = [ModuleBlame(f"model.layers.{n}.mlp.down_proj", worst if n == 3 else rest) for n in range(10)]
    layers = [ModuleBlame(f"model.layers.{n}", (layer or worst) if n == 3 else rest) for n in range(10)]
    return Blame(tuple(modules), tuple(layers), total, 510)


def test_what_stands_out_is_named_with_its_share_and_five_modules_are_listed():
    """And the line below says what the shares are of."""
    lines = blame_lines(replace(outcome(), blame=blame(1.0, 0.91)))
    assert lines[0] == f"to blame: decoder layer 3 (91% of the divergence); {WORST} (91%)"
    assert lines[1] == f"   91.0%  {WORST}, 0.91 nats per token"
    assert len(lines) == 7
    assert "10 parts" in lines[-1]
    assert "510 tokens" in lines[-1]
    assert "1.00 times (1.00 times for whole layers)" in lines[-1]


def test_where_the_modules_do_not_add_up_none_is_named_or_listed():
    """But the layer is, where layers add up: its modules hurt together."""
    found = blame(1.0, 0.1, layer=0.9)
    assert blame_sentence(found) == "to blame: decoder layer 3 (91% of the divergence)"
    lines = blame_lines(replace(outcome(), blame=found))
    assert not any("down_proj" in line for line in lines)
    assert blame_sentence(blame(10.0, 0.1)).startswith("no module is to blame: one by one they do not add up")


def test_where_none_stands_out_none_is_named():
    """What is everywhere is no fault of a module."""
    assert blame_sentence(blame(0.1, 0.01)) == (
        "no module is to blame: the divergence is spread, and none stands out"
    )


def test_why_there_is_no_blame_is_said_and_nothing_where_none_was_looked_for():
    """One line, as it was noted."""
    assert blame_lines(replace(outcome(), blame=Blame(note="no module is blamed: why"))) == [
        "no module is blamed: why"
    ]
    assert blame_lines(outcome()) == []
    noted = replace(blame(1.0, 0.91), note="attention and MLP are swapped whole")
    assert blame_lines(replace(outcome(), blame=noted))[-1] == "blame: attention and MLP are swapped whole"
