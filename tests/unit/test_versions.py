"""Versions in cache keys: whoever changes code that figures or checkpoints come from decides whether they move."""

import json

import pytest
from code_versions import RECORD, code_of, reached, versions

RECORDED = json.loads(RECORD.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", RECORDED)
def test_changed_code_has_a_decision_about_its_version(name):
    """The digest is the recorded one: with a mended docstring it is, with changed code it is not."""
    version, digest = versions()[name]
    assert {"version": version, "digest": digest} == RECORDED[name], (
        f"the code behind {name} changed. If it can change a checkpoint, a figure, or how one is loaded, raise "
        f"{name} (now {version}): everybody's caches of it are made anew. Else leave it. Then record the decision: "
        "python tests/support/code_versions.py"
    )


def test_recorded_is_what_there_is():
    """A new method has a line, and a removed one leaves none behind."""
    assert RECORDED.keys() == versions().keys()


def test_comments_docstrings_and_layout_are_no_code():
    """Only what Python runs counts."""
    one = '"""Module ö."""\n\n\ndef f(a, b):\n    """Doc ü."""\n    return "# no comment"  # comment ä\n'
    other = 'def f(a,\n      b):\n    """Other\n    words."""\n\n    return "# no comment"\n'
    assert code_of(one) == code_of(other)
    assert code_of(one) != code_of(one.replace("return", "yield"))


def test_an_adapter_is_all_that_it_imports():
    """What a backend's module shares with others counts as its own."""
    modules = reached(["quantizers.grouped", "quantizers.backends.autoawq"])
    assert {"quantizers.backends.archived", "quantizers.calibration", "quantizers.normalize"} <= modules
    assert "quantizers.registry" not in modules
