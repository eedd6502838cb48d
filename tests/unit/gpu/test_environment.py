"""The environment of every step of the proof."""

from pathlib import Path

from prove import environment
from steps import Setup


def test_bytecode_is_kept_whatever_the_machine_says(monkeypatch, tmp_path):
    """Else each process compiles torch and transformers anew, and gates are stopped at their limits."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    found = environment(Setup("python", Path("files"), tmp_path, tmp_path / "out"))
    assert "PYTHONDONTWRITEBYTECODE" not in found
    assert Path(found["PYTHONPYCACHEPREFIX"]).parent == tmp_path
