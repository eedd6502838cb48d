"""Options and specs: validated once, frozen, and named by what they say."""

import pytest

from pytest_tenpak.errors import SpecError, TenpakError, error_from_dict
from pytest_tenpak.spec import Option, QuantizeSpec

OPTIONS = (
    Option("bits", int, 4, "width", choices=(2, 3, 4, 8)),
    Option("damp", float, 0.01, "damping", above=0, maximum=1),
    Option("sym", bool, True, "symmetric"),
    Option("skip", tuple, (), "modules"),
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bits", 5),
        ("bits", 4.0),
        ("bits", True),
        ("bits", "4"),
        ("damp", 0),
        ("damp", 1.5),
        ("damp", float("nan")),
        ("damp", "x"),
        ("sym", 1),
        ("skip", "lm_head"),
        ("skip", [1]),
        ("sym", None),
    ],
)
def test_a_value_outside_what_is_declared_is_refused(name, value):
    """The error names the argument, what was given, and what is accepted."""
    with pytest.raises(SpecError) as caught:
        QuantizeSpec.build("m", OPTIONS, {name: value})
    assert f"{name}={value!r} is not accepted" in str(caught.value)
    assert "given:" in str(caught.value)
    assert "accepted:" in str(caught.value)


def test_an_unknown_option_names_the_nearest():
    """A typing error is answered with the option that was meant."""
    with pytest.raises(SpecError, match="did you mean 'bits'"):
        QuantizeSpec.build("m", OPTIONS, {"bit": 4})


def test_defaults_are_part_of_the_spec_and_its_fingerprint():
    """Writing a default out changes nothing; changing any value changes the fingerprint."""
    plain = QuantizeSpec.build("m", OPTIONS, {})
    assert plain == QuantizeSpec.build("m", OPTIONS, {"bits": 4, "damp": 0.01})
    assert plain.fingerprint == QuantizeSpec.build("m", OPTIONS, {"skip": []}).fingerprint
    assert plain.fingerprint != QuantizeSpec.build("m", OPTIONS, {"bits": 8}).fingerprint
    assert plain.fingerprint != QuantizeSpec.build("n", OPTIONS, {}).fingerprint


def test_a_spec_is_frozen_and_survives_the_trip_to_a_worker():
    """Nobody can adjust a spec, and the plain form gives the same spec back."""
    spec = QuantizeSpec.build("m", OPTIONS, {"skip": ["a", "b"], "damp": 1})
    assert QuantizeSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(TypeError):
        spec.options["bits"] = 8


def test_an_error_survives_the_trip_from_a_worker():
    """Kind, text and remedy arrive as they were raised."""
    error = SpecError("wrong", given=3, accepted="4", remedy="say 4", who="test_x")
    again = error_from_dict(error.to_dict())
    assert type(again) is SpecError
    assert str(again) == str(error)
    assert str(TenpakError("p").asked_by("a").asked_by("b")) == "a: p"
