"""The walk-through of docs/baselines.md, followed as it is written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commanding import GIT
from places import ROOT
from projects import CPU, LEAN

DOCUMENT = ROOT / "docs" / "baselines.md"
#: The device class in what the document shows.
SHOWN_CPU = "cpu-avx512_bf16"
FIGURE = re.compile(r"(\b[0-9a-f]{9}\b|[-+]?\d[\d,.]*)")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def pattern_of(line: str) -> re.Pattern[str]:
    """A line that the document shows, its figures, commits and widths being others; more may stand beside it."""
    line = line.replace(SHOWN_CPU, CPU)
    words = ("-+" if set(word) == {"-"} else _pattern_of_word(word) for word in line.split())
    return re.compile(r"\s+".join(words))


def _pattern_of_word(word: str) -> str:
    pieces = FIGURE.split(word)
    return "".join(r"[-+0-9a-f,.]+" if FIGURE.fullmatch(piece) else re.escape(piece) for piece in pieces)


def follow(commands: str, folder: Path, environment: dict[str, str]) -> None:
    """Run the commands of a block; each prints, in this order, the lines that the document shows."""
    for step in re.split(r"^\$ ", commands, flags=re.MULTILINE)[1:]:
        command, *shown = step.rstrip("\n").split("\n")
        ran = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
        printed = iter(ran.stdout.splitlines())
        for line in shown:
            wanted = pattern_of(line)
            assert any(wanted.search(row) for row in printed), (
                f"{command}: no {line!r} in\n{ran.stdout}{ran.stderr}"
            )


@pytest.mark.slow
def test_the_walk_through_does_what_it_says(project):
    """Every file and command, copied from the document; every line of output that it shows appears."""
    text = DOCUMENT.read_text(encoding="utf-8")
    walk = text[text.index("## A walk-through") : text.index("## Updating")]
    settings = (project.path / "tox.ini").read_text(encoding="utf-8")
    (project.path / "tox.ini").unlink()
    environment = {
        **os.environ,
        **GIT,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    environment |= {"PYTEST_ADDOPTS": " ".join(LEAN), "GIT_CEILING_DIRECTORIES": str(project.path.parent)}
    kinds = []
    for kind, body in BLOCK.findall(walk):
        kinds.append(kind)
        if kind == "console":
            follow(body, project.path, environment)
        elif kind == "ini":
            # The reader's own model, and the settings that every project of these tests has.
            rest = "".join(line for line in settings.splitlines(True)[1:] if "tenpak_model" not in line)
            body = body.replace("path/to/model", str(project.model)) + rest
            (project.path / "pytest.ini").write_text(body)
        else:
            name = re.match(r'"""(\S+)"""\n', body)[1]
            (project.path / name).write_text(body)
    assert kinds.count("console") == 5
    assert kinds.count("python") == 2


def test_every_command_of_the_document_exists():
    """What it says `tenpak` can do, it can."""
    from pytest_tenpak.cli.main import COMMANDS

    named = set(re.findall(r"`tenpak (\w+)", DOCUMENT.read_text(encoding="utf-8")))
    assert named <= set(COMMANDS)
    assert {"show", "diff", "history", "accept", "check", "cache"} <= named
