"""Identities compared: what differs is said, also which part of a text was used."""

import pytest
from made_up import IDENTITY

from pytest_tenpak.baselines.identity import PART, identity_changes

ONE, OTHER = "sha256:" + "c" * 64, "sha256:" + "d" * 64


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ((ONE, 524_288), (OTHER, 2_097_152), ["524,288", "2,097,152"]),
        ((ONE, None), (OTHER, 524_288), ["(whole) →", "(its first 524,288 characters)"]),
        ((ONE, 524_288), (OTHER, None), ["(its first 524,288 characters) →", "(whole)"]),
    ],
)
def test_parts_that_differ_are_named(before, after, said):
    """One line for the corpus, with both digests and what they are of."""
    old, new = ({**IDENTITY, "corpus": corpus, PART: part} for corpus, part in (before, after))
    (line,) = identity_changes(old, new)
    assert line.startswith("corpus: sha256:cccccccccccc… (")
    assert "sha256:dddddddddddd… (" in line
    assert all(word in line for word in said)


def test_the_same_text_is_the_same_wherever_it_is_the_beginning_of_a_longer_one():
    """A file of exactly the part that was used compares with it."""
    assert identity_changes({**IDENTITY, PART: 524_288}, IDENTITY) == []
    assert identity_changes(IDENTITY, {**IDENTITY, PART: 524_288}) == []
