"""Arguments of the marker that may have several forms: what each means, and what is refused."""

import json

import numpy as np
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


HUGE = 10**400


@pytest.mark.parametrize("name", ["min_speedup", "max_memory_ratio", "min_compression", "max_kld", "memory"])
@pytest.mark.parametrize("value", [HUGE, -HUGE])
def test_a_number_that_no_float_can_be_is_refused(name, value):
    """By the argument's own error: Python's whole numbers have any length."""
    with pytest.raises(SpecError, match=f"{name}=-?10000"):
        ARGUMENTS[name].value(value)
    with pytest.raises(SpecError, match="is not accepted"):
        ARGUMENTS["resources"].value({"disk": value})


def test_numbers_of_numpy_are_numbers():
    """A threshold that was worked out is given as it is, and kept as Python's."""
    for name, given, read in [
        ("min_speedup", np.float32(1.5), {"prefill": 1.5, "decode": 1.5}),
        ("min_speedup", {"decode": np.int64(2)}, {"decode": 2.0}),
        ("min_compression", np.float32(2.5), {"whole_vs_16bit": 2.5}),
        ("max_memory_ratio", np.float32(0.5), 0.5),
        ("max_tokens", np.int64(640), 640),
    ]:
        found = ARGUMENTS[name].value(given)
        assert found == read
        assert json.dumps(found)
    for given in (np.float32("nan"), np.bool_(True)):
        with pytest.raises(SpecError):
            ARGUMENTS["max_memory_ratio"].value(given)


def test_a_limit_by_denominators_has_at_least_one():
    """An empty mapping bounds nothing, which nobody means."""
    with pytest.raises(SpecError, match="min_compression={} is not accepted"):
        ARGUMENTS["min_compression"].value({})
