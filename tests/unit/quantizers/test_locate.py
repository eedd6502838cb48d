"""Loading a quantizer's class again, in another process."""

import shutil
import sys

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


def test_a_file_of_a_package_that_is_there_is_imported_with_it(tmp_path, monkeypatch):
    """Though another machine sent the file alone, since the package is installed there for editing."""
    package = tmp_path / "package_of_methods"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "bits.py").write_text("BITS = 3\n")
    ours = package / "ours.py"
    ours.write_text(
        "from pytest_tenpak import Quantizer\nfrom .bits import BITS\nclass Ours(Quantizer):\n"
        "    method = f'ours{BITS}'\n    def quantize(self, job): pass\n"
    )
    sent = tmp_path / "sent" / "ours.py"
    sent.parent.mkdir()
    shutil.copy(ours, sent)
    monkeypatch.syspath_prepend(tmp_path)
    place = Place("package_of_methods.ours", str(sent), "Ours")
    try:
        assert relocate(place).method == "ours3"
        sent.write_text(f"{sent.read_text()}# another version\n")
        with pytest.raises(SpecError, match="cannot import the file") as raised:
            relocate(place)
        assert "relative import" in str(raised.value)
    finally:
        for name in ("package_of_methods", "package_of_methods.bits", "package_of_methods.ours"):
            sys.modules.pop(name, None)
