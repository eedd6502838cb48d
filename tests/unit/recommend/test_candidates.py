"""The recipes that are tried: whatever is registered, with the sizes that the model allows, cheapest first."""

from types import SimpleNamespace

import pytest

from pytest_tenpak.quantizers.base import Quantizer
from pytest_tenpak.quantizers.presets import PRESETS
from pytest_tenpak.quantizers.registry import Registry
from pytest_tenpak.recommend.candidates import Cost, Question, recipe_name, recipes
from pytest_tenpak.spec import Option, QuantizeSpec


class Plain(Quantizer):
    """A method of somebody else, with nothing to vary."""

    method = "plain"

    def quantize(self, job): ...


class Shared(Quantizer):
    """One with groups, by a number; its calibration is costly, its search more so."""

    method = "shared"
    calibrates = True
    options = (Option("group_size", int, 64, "weights that share a scale", minimum=1),)

    def quantize(self, job): ...


class Searching(Shared):
    """One that searches scales, too; its groups are a name."""

    method = "searching"
    moves_scales = True
    options = (Option("group_size", str, "row", "what shares a scale"),)


def model(*widths: int) -> SimpleNamespace:
    """A model whose layers have these input widths."""
    return SimpleNamespace(widths={f"layer{n}": width for n, width in enumerate(widths)})


def named(registry: Registry, *widths: int, methods=()) -> list[str]:
    """The names of the recipes."""
    return [recipe_name(given) for given in recipes(registry, model(*widths), methods)]


def test_every_registered_method_is_tried_and_every_preset():
    """Ours and those of others, each as it is, without a list of them in the search."""
    registry = Registry()
    registry.register(Plain)
    found = named(registry, 1024)
    assert {*registry, *PRESETS} <= {*found}


@pytest.mark.parametrize(
    ("widths", "sizes"),
    [((1024, 4096), ["128"]), ((576, 1536), ["32"]), ((80,), []), ((96,), ["32"])],
)
def test_groups_are_those_that_divide_the_widths(widths, sizes):
    """The largest two of 128, 64 and 32 that do, the default not twice; none where none does."""
    registry = Registry((Shared,))
    found = [one for one in named(registry, *widths) if one.startswith("shared")]
    assert found == ["shared", *(f"shared, group_size={size}" for size in sizes)]


def test_an_option_of_another_kind_is_left_alone():
    """A group that is no number takes no number."""
    assert [one for one in named(Registry((Searching,)), 1024) if "searching" in one] == ["searching"]


def test_methods_restrict_the_recipes():
    """A method goes with its presets, a preset alone."""
    presets = [name for name, (method, _) in PRESETS.items() if method == "gptq"]
    found = named(Registry(), 1024, methods={"gptq", "bnb-int8"})
    assert {one.partition(",")[0] for one in found} == {"gptq", "bnb-int8", *presets}


def test_costs_follow_from_what_a_method_declares():
    """Rounding before calibrating before searching."""
    spec = QuantizeSpec("any", {})
    assert [Cost.of(one(), spec) for one in (Plain, Shared, Searching)] == sorted(Cost)


def test_a_recipe_is_a_case_with_the_bounds():
    """So that what is measured is what the marker says, and a wrong bound is refused as a marker's is."""
    question = Question({"model": "m", "max_ppl_delta": 0.05, "min_compression": 2.0}, {"context": 64})
    case = question.case({"method": "fp16"}, Registry())
    assert (case.limits.max_ppl_delta, case.limits.min_compression) == (0.05, {"whole_vs_16bit": 2.0})
    assert (case.model, case.context, case.spec.method) == ("m", 64, "fp16")
