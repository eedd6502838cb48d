"""The steps of the action and the workflows, run as a runner of GitHub Actions runs them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from places import ROOT

WORKFLOWS = {path.stem: path for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))}
ACTION = ROOT / "action.yml"

EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}", re.DOTALL)


def read(path: Path) -> dict[str, Any]:
    """A workflow or the action. YAML 1.1 reads the key ``on`` as true; here it is ``on`` again."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in document.items()}


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every step that there is, with where it stands."""
    for step in read(ACTION)["runs"]["steps"]:
        yield "action", step
    for name, path in WORKFLOWS.items():
        for job, body in read(path)["jobs"].items():
            for step in body["steps"]:
                yield f"{name}.{job}", step


def named(path: Path, name: str, job: str | None = None) -> dict[str, Any]:
    """The step of that name, in the action or in a job."""
    document = read(path)
    body = document["runs"] if job is None else document["jobs"][job]
    return next(step for step in body["steps"] if step.get("name") == name)


def expand(text: object, contexts: Mapping[str, str]) -> str:
    """A value with its expressions filled in: a name, or the first of several that is not empty."""

    def value(match: re.Match[str]) -> str:
        return next(filter(None, (contexts[name.strip()] for name in match[1].split("||"))), "")

    return EXPRESSION.sub(value, str(text))


@dataclass
class Runner:
    """A workspace, the files that a step writes to, and commands of this test's own before all others."""

    workspace: Path
    temp: Path
    environment: Mapping[str, str]
    commands: Path = field(init=False)

    def __post_init__(self) -> None:
        self.commands = self.temp / "commands"
        self.commands.mkdir()

    def run(self, step: Mapping[str, Any], contexts: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a step's shell text; what it gets of the contexts comes through its ``env`` alone."""
        script = self.temp / "step.sh"
        script.write_text(step["run"], encoding="utf-8")
        own = {name: expand(value, contexts) for name, value in step.get("env", {}).items()}
        files = {f"GITHUB_{name}": str(self.temp / name) for name in ("OUTPUT", "ENV", "STEP_SUMMARY")}
        for path in files.values():
            Path(path).write_text("", encoding="utf-8")
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=self.workspace,
            env={
                **self.environment,
                "PATH": f"{self.commands}{os.pathsep}{self.environment['PATH']}",
                "CI": "true",
                "GITHUB_ACTIONS": "true",
                "GITHUB_WORKSPACE": str(self.workspace),
                "GITHUB_ACTION_PATH": str(ROOT),
                "GITHUB_SERVER_URL": "https://github.com",
                "GITHUB_REPOSITORY": "owner/name",
                "GITHUB_RUN_ID": "7",
                "GITHUB_RUN_ATTEMPT": "1",
                "RUNNER_TEMP": str(self.temp),
                **files,
                **own,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def written(self, name: str) -> str:
        """What the last step wrote to one of GITHUB_OUTPUT, GITHUB_ENV and GITHUB_STEP_SUMMARY."""
        return (self.temp / name.removeprefix("GITHUB_")).read_text(encoding="utf-8")

    @property
    def outputs(self) -> dict[str, str]:
        """The outputs of the last step."""
        return dict(line.split("=", 1) for line in self.written("GITHUB_OUTPUT").splitlines())

    def record(self, command: str, answer: str = "") -> Path:
        """Put a command on PATH that adds its arguments, one a line, to the file returned, and prints ``answer``."""
        kept = self.temp / f"{command}.arguments"
        script = self.commands / command
        script.write_text(
            f"#!/bin/sh\nprintf '%s\\n' \"$@\" >>'{kept}'\nprintf '{answer}'\n", encoding="utf-8"
        )
        script.chmod(0o755)
        return kept


def gate_condition(event: Mapping[str, Any]) -> bool:
    """The ``if`` of gate.yml's GPU jobs for an event, evaluated as GitHub does: what is not there is empty."""
    names = {
        "github.event_name": event["name"],
        "github.repository": "owner/name",
        "github.event.action": event.get("action", ""),
        "github.event.label.name": event.get("label", ""),
        "github.event.pull_request.labels.*.name": event.get("labels", []),
        "github.event.pull_request.head.repo.full_name": event.get("head", ""),
    }
    text = read(WORKFLOWS["gate"])["jobs"]["gates"]["if"]
    text = re.sub(r"contains\((.+?), (.+?)\)", r"(\2 in \1)", text)
    text = re.sub(r"github(?:\.[\w*]+)+", lambda match: repr(names[match[0]]), text)
    return bool(eval(text.replace("&&", " and ").replace("||", " or "), {"__builtins__": {}}))
