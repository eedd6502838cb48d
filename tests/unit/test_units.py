"""Amounts of bytes: written by people, read without guessing."""

import pytest

from pytest_tenpak.errors import SpecError
from pytest_tenpak.units import in_gib, parse_bytes


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("1234", 1234),
        ("50GB", 50 * 10**9),
        ("48 GiB", 48 * 2**30),
        ("1.5kb", 1500),
        (" 2tIb ", 2 * 2**40),
        ("7B", 7),
        ("3MB", 3 * 10**6),
        ("3mib", 3 * 2**20),
    ],
)
def test_amounts(text, amount):
    """Decimal units in thousands, binary ones in 1024s, either case."""
    assert parse_bytes(text) == amount


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "50G", "50 gigs", "1,5GB", "inf", "nan", "5 0GB"])
def test_what_is_no_amount(text):
    """Refused with the units that there are."""
    with pytest.raises(SpecError, match="is not a number of bytes") as caught:
        parse_bytes(text)
    assert "KiB" in str(caught.value)


def test_amounts_are_shown_in_gib():
    """Two digits, whatever the size."""
    assert in_gib(3 << 29) == "1.50 GiB"
