"""The proof for a GPU without a network, rehearsed: packed, carried piece by piece, joined, run on a CPU."""

import json
import shutil
import subprocess
import sys

import pytest
from places import ROOT

pytestmark = pytest.mark.slow

PYTHON = ".".join(map(str, sys.version_info[:2]))


def start(*command, folder):
    """Run a command of the kit in a folder, with the libraries that are here."""
    return subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def pieces(tmp_path):
    """A kit without libraries and model, in small pieces, as this Python takes it."""
    options = ["--only-plugin", "--piece", "0.5", "--python-version", PYTHON, "--out", str(tmp_path / "kit")]
    ran = start(str(ROOT / "gpu" / "pack.py"), *options, folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    return sorted((tmp_path / "kit").iterdir())


def test_a_kit_that_was_carried_piece_by_piece_proves_what_it_can(pieces, tmp_path):
    """Each piece is gone when the next one comes, and what runs is what was installed from them."""
    rehearsal, there = ["--device", "cpu", "--quick"], tmp_path / "there"
    there.mkdir()
    assert len(pieces) > 1
    for number, piece in enumerate(pieces):
        shutil.copytree(piece, there / piece.name)
        prove = there / piece.name / "gpu" / "prove.py"
        ran = start(str(prove), "--receive", folder=there)
        assert ran.returncode == 0, ran.stderr
        assert ("all pieces are here" in ran.stdout) == (number == len(pieces) - 1)
        if number < len(pieces) - 1:
            assert start(str(prove), *rehearsal, folder=there).returncode == 3
            shutil.rmtree(there / piece.name)
    steps = ["install", "machine", "model", "doctor", "evaluator", "nf4"]
    ran = start(str(prove), *rehearsal, "--steps", *steps, folder=there)
    page = (there / "gpu-proof" / "out" / "gpu-proof.md").read_text()
    assert ran.returncode == 0, page
    proof = json.loads((there / "gpu-proof" / "out" / "gpu-proof.json").read_text())
    found = {step["name"]: step for step in proof["steps"]}
    assert {name: step["status"] for name, step in found.items()} == dict.fromkeys(steps, "passed")
    assert (there / "gpu-proof" / "site" / "pytest_tenpak" / "__init__.py").is_file()
    assert found["nf4"]["figures"]["status"] == "new"
    rows = {row["name"] for row in found["evaluator"]["figures"]["rows"]}
    assert {"bare forward pass", "pytest-tenpak", "pytest-tenpak, exact KL divergence"} <= rows
    assert "6 of 6 steps passed" in page


def test_a_kit_without_a_gpu_says_so_and_goes_on(pieces, tmp_path):
    """Every step is tried; the one that asks for the GPU fails with torch's words, and the exit code says it."""
    prove = pieces[0] / "gpu" / "prove.py"
    ran = start(str(prove), "--steps", "install", "machine", "doctor", folder=tmp_path)
    proof = json.loads((tmp_path / "gpu-proof" / "out" / "gpu-proof.json").read_text())
    found = {step["name"]: step for step in proof["steps"]}
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert ran.returncode == 1
    assert {name: step["status"] for name, step in found.items()} == {
        "install": "passed",
        "machine": "failed",
        "doctor": "passed",
    }
    assert "CUDA" in found["machine"]["log"]
