"""Loading a quantizer's class again, in another process."""

import pytest

from pytest_tenpak.errors import SpecError
from pytest_tenpak.quantizers.locate import Place, relocate


def test_a_file_that_imports_what_is_not_there_is_an_error(tmp_path):
    """With the file, what it lacks, and what to do: on other machines a conftest's neighbours are missing."""
    file = tmp_path / "conftest.py"
    file.write_text("import a_neighbour_of_the_conftest\n")
    with pytest.raises(SpecError, match="cannot import the file that registers the method") as raised:
        relocate(Place("conftest", str(file), "Ours"))
    assert f"{file}: No module named 'a_neighbour_of_the_conftest'" in str(raised.value)
    assert "install there what it imports" in str(raised.value)
