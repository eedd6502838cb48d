"""Texts in the cache: what a job names is what it gets."""

from hypothesis import given
from hypothesis import strategies as st

from pytest_tenpak.evaluation.kept_texts import read_documents, save_documents


@given(documents=st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_documents_come_back_as_they_were(tmp_path_factory, documents):
    """To the character: line ends, byte order marks, empty ones."""
    folder = tmp_path_factory.mktemp("texts")
    assert save_documents(documents, folder) == {"documents": len(documents)}
    assert read_documents(folder) == documents
