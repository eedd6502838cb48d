"""How much of two texts was copied: stretches and documents, not the phrases that texts of one kind share."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_tenpak.evaluation import overlap as module
from pytest_tenpak.evaluation.corpus import CALIBRATION, DEFAULT, Corpus, load_corpus
from pytest_tenpak.evaluation.overlap import overlap


def corpus(*documents: str) -> Corpus:
    return Corpus("made up", documents)


OTHER, OWN = (load_corpus(name, Path()).documents[0][:20_000] for name in (CALIBRATION, DEFAULT))


def test_the_packaged_calibration_text_shares_no_passage_with_the_packaged_corpus():
    """So the defaults never flatter a figure."""
    whole = [load_corpus(name, Path()) for name in (CALIBRATION, DEFAULT)]
    assert overlap(*whole) == 0


@pytest.mark.parametrize(
    ("calibration", "share"),
    [
        (OWN, 1.0),
        (OWN.upper().replace(" ", "\n"), 1.0),
        (OTHER + OWN, 1.0),
        (OTHER + OWN[:2000], 0.1),
        (OTHER, 0.0),
        ("To be", 1.0),
        ("Not a word of it.", 0.0),
    ],
    ids=["same", "other case and spaces", "hidden in more", "a tenth", "another", "a short copy", "short"],
)
def test_overlap_is_the_larger_share_of_either_text(calibration, share):
    """A corpus inside a long calibration text flatters as much as the whole of it; quoting little does not."""
    assert overlap(corpus(calibration), corpus(OWN)) == pytest.approx(share, abs=0.02)
    assert overlap(corpus(OWN), corpus(calibration)) == pytest.approx(share, abs=0.02)


OPENING = (
    "Once upon a time there was a little girl named Lily, who loved to play outside in the big green park. "
)


def test_stock_phrases_are_no_copies():
    """Stories of one kind begin alike: a twentieth of the text, in stretches of a hundred characters."""
    one = [OPENING + OWN[start : start + 2000] for start in range(0, 18_000, 2000)]
    other = [OPENING + OTHER[start : start + 2000] for start in range(0, 18_000, 2000)]
    assert overlap(corpus(*one), corpus(*other)) == 0


def test_a_whole_document_is_a_copy_however_short():
    """Questions of a benchmark, for example; headlines of a few words are not."""
    one = [OWN[start : start + 100] for start in range(0, 2000, 100)]
    other = [OTHER[start : start + 100] for start in range(0, 2000, 100)]
    copied = [*other[:10], *one[10:]]
    assert overlap(corpus(*one), corpus(*copied)) == pytest.approx(0.5, abs=0.03)
    headlines = ["= = References = ="] * 50
    assert overlap(corpus(*one, *headlines), corpus(*other, *headlines)) < 0.35


def test_a_copy_that_is_cut_otherwise_is_found():
    """Lines as documents on one side, one document on the other."""
    lines = OWN.splitlines()
    assert overlap(corpus(*lines), corpus(OTHER + OWN)) == pytest.approx(1.0, abs=0.02)


# ------------------------------------------------------------ the definition, character by character


def as_defined(documents, others) -> float:
    """The share of ``documents`` that is copied: every passage is looked for at every place."""
    plain, theirs = ([" ".join(one.lower().split()) for one in side] for side in (documents, others))
    plain, theirs = [one for one in plain if one], [one for one in theirs if one]
    text, other = " ".join(plain), " ".join(theirs)
    if len(text) < 64:
        return float(bool(text) and text in other)
    copied, begin, start = [False] * len(text), 0, 0
    while start < len(text):
        if len(text) - start < 64 or text[start : start + 64] not in other:
            stop = start if len(text) - start >= 64 else len(text)
            if stop - begin >= 256:
                copied[begin:stop] = [True] * (stop - begin)
            begin = start + 64
        start += 64
    if len(text) % 64 == 0 and len(text) - begin >= 256:
        copied[begin:] = [True] * (len(text) - begin)
    start = 0
    for one in plain:
        if len(one) >= 64 and one in theirs:
            copied[start : start + len(one)] = [True] * len(one)
        start += len(one) + 1
    return sum(copied) / len(copied)


#: Stretches of two texts, of one character, of two, and of characters that change their length in lower case.
pieces = st.one_of(
    *(
        st.tuples(st.integers(0, 900), st.integers(1, 900)).map(
            lambda span, text=text: text[span[0] :][: span[1]]
        )
        for text in (OWN, OTHER, "ab" * 1000, "x" * 1000, "ΑΣ Σ ß İ é\u2028😀" * 100)
    )
)
texts = st.lists(st.lists(pieces, max_size=4).map("".join), min_size=1, max_size=4)


@settings(deadline=None, max_examples=50)
@given(texts, texts, st.sampled_from([64, 128, 1 << 18]), st.sampled_from([1, 50, 1 << 20]))
@pytest.mark.parametrize("base", [module._BASE, 0, 1], ids=["hashes", "by the last character", "by the sum"])
def test_the_share_is_that_of_the_definition(base, one, other, block, piece):
    """In whatever blocks the texts are hashed, and where hashes of other passages are the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BASE", base)
        patch.setattr(module, "_BLOCK", block)
        patch.setattr(module, "_PIECE", piece)
        expected = max(as_defined(one, other), as_defined(other, one))
        assert overlap(corpus(*one), corpus(*other)) == expected
