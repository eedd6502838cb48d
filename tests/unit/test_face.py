"""What others may import of the package: held by name, complete, and free of cost."""

import re
import subprocess
import sys

import pytest
from places import ROOT

import pytest_tenpak

#: What plugins, conftests and reporters rely on. A name that goes, or changes its meaning, breaks their suites.
PUBLIC = {
    *{"Quantizer", "Job", "Option", "QuantizeSpec", "Backend", "Model", "load_pretrained", "draw_samples"},
    *{"Summary", "Outcome", "Case", "Part", "Measurement", "Windows", "Ledger", "Past"},
    *{"Executor", "Needs", "Standing", "State", "Submission"},
    *{"Verdict", "Check", "Status", "TenpakError", "SpecError", "UnavailableError"},
}
DOCUMENTS = [
    path
    for folder in ("README.md", "docs", "demo", "examples")
    for path in ([ROOT / folder] if (ROOT / folder).is_file() else sorted((ROOT / folder).rglob("*")))
    if path.suffix in (".md", ".py")
]


def test_the_exported_names_are_these():
    """No more, no fewer."""
    assert set(pytest_tenpak.__all__) == PUBLIC
    assert len(pytest_tenpak.__all__) == len(PUBLIC)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_exported_name_is_there(name):
    """Under its own name, listed by dir(), and the same at each look."""
    value = getattr(pytest_tenpak, name)
    assert value.__name__ == name
    assert getattr(pytest_tenpak, name) is value
    assert name in dir(pytest_tenpak)


def test_what_is_not_exported_is_an_attribute_error():
    """With the words that Python itself has for it."""
    with pytest.raises(AttributeError, match="module 'pytest_tenpak' has no attribute 'Quantiser'"):
        pytest_tenpak.Quantiser  # noqa: B018


def test_importing_the_package_brings_nothing_else():
    """Neither numpy nor torch, nor a single module of its own."""
    code = (
        "import sys; before = set(sys.modules); import pytest_tenpak; "
        "print(*sorted({name for name in set(sys.modules) - before if not name.startswith('_')}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = {name for name in ran.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}
    assert ours == {"pytest_tenpak"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_and_demos_import_from_the_face(path):
    """Nobody is shown a way into the rooms behind it."""
    for module, names in re.findall(r"from pytest_tenpak(\S*) import ([\w, ]+)", path.read_text("utf-8")):
        assert module == ""
        assert {name.strip() for name in names.split(",")} <= PUBLIC


def test_the_way_in_of_before_still_leads_to_the_same_classes():
    """Conftests import the base class of quantizers from the package of quantizers."""
    from pytest_tenpak import quantizers

    assert quantizers.Quantizer is pytest_tenpak.Quantizer
    assert quantizers.Job is pytest_tenpak.Job
    with pytest.raises(AttributeError, match="no attribute 'Registry'"):
        quantizers.Registry  # noqa: B018
