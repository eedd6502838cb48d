"""What ``make test`` tests is what users install."""

from importlib import metadata
from pathlib import Path

import pytest
from places import ROOT

import pytest_tenpak


def test_the_installed_wheel_is_tested():
    """Not the source tree, unless it was installed as editable on purpose."""
    direct = metadata.distribution("pytest-tenpak").read_text("direct_url.json") or ""
    if '"editable"' in direct:
        pytest.skip("editable install")
    assert not Path(pytest_tenpak.__file__).is_relative_to(ROOT / "pytest_tenpak")
    files = {str(file) for file in metadata.distribution("pytest-tenpak").files}
    assert {
        "pytest_tenpak/py.typed",
        "pytest_tenpak/baselines/schemas/baseline-2.json",
        "pytest_tenpak/evaluation/corpora/shakespeare.txt",
        "pytest_tenpak/reports/html/templates/report.html.j2",
    } <= files
