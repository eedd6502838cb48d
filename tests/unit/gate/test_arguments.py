"""Arguments of the marker that may have several forms: what each means, and what is refused."""

import pytest

from pytest_tenpak.errors import SpecError
from pytest_tenpak.gate.arguments import ARGUMENTS


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (None, {}),
        (1.2, {"prefill": 1.2, "decode": 1.2}),
        (2, {"prefill": 2.0, "decode": 2.0}),
        ({"decode": 1.5, "prefill": 0.8}, {"prefill": 0.8, "decode": 1.5}),
        ({"decode": 1}, {"decode": 1.0}),
    ],
)
def test_a_speedup_is_for_both_phases_or_by_phase(given, read):
    """A number is for both; without one nothing is timed."""
    assert ARGUMENTS["min_speedup"].value(given) == read


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (0, "min_speedup=0 is not accepted"),
        (-1.0, "a number above 0"),
        (True, "True (bool)"),
        ("1.2", "'1.2' (str)"),
        (float("inf"), "min_speedup=inf"),
        (float("nan"), "min_speedup=nan"),
        ({"decoding": 1.0}, "did you mean 'decode'?"),
        ({"decode": True}, "'decode': True"),
        ({"prefill": 1.0, "decode": 0}, "'decode': 0"),
        ({}, "a mapping from prefill, decode"),
    ],
)
def test_a_speedup_that_is_none_is_refused(given, said):
    """With what was given, what is accepted, and the nearest phase."""
    with pytest.raises(SpecError) as raised:
        ARGUMENTS["min_speedup"].value(given)
    assert said in str(raised.value)
    assert "did you mean 'decode'" not in str(raised.value) or "decoding" in str(given)


@pytest.mark.parametrize("given", [0, -0.5, True, "half", float("inf"), {"decode": 0.5}])
def test_a_memory_ratio_is_a_number_above_0(given):
    """Nothing else is accepted."""
    with pytest.raises(SpecError, match="max_memory_ratio=.* is not accepted"):
        ARGUMENTS["max_memory_ratio"].value(given)
    assert ARGUMENTS["max_memory_ratio"].value(0.6) == 0.6
    assert ARGUMENTS["max_memory_ratio"].value(None) is None
