"""The steps of the proof: what each runs, how long it may take, and where its figures are."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from running import Step

HERE = Path(__file__).resolve().parent
#: Seconds that each step is entitled to. Together with joining the pieces they stay below eight minutes.
LIMITS = {
    "install": 45,
    "machine": 10,
    "model": 45,
    "doctor": 10,
    "evaluator": 60,
    "nf4": 35,
    "int8": 25,
    "int4": 30,
    "gptq": 45,
    "awq": 70,
    "again": 15,
    "spread": 20,
    "tests": 60,
}
GATES = ("nf4", "int8", "int4", "gptq", "awq")


@dataclass(frozen=True)
class Setup:
    """Where things are: joined ``files``, the ``site`` that they are installed into, ``work``, ``out``.

    ``quick`` runs every step on shapes so small that a CPU can.
    """

    python: str
    files: Path
    work: Path
    out: Path
    device: str = "cuda"
    quick: bool = False

    @property
    def site(self) -> Path:
        """The folder that packages are installed into."""
        return self.work / "site"

    @property
    def model(self) -> Path:
        """The directory of the model that is gated."""
        return self.work / "model"

    @property
    def cache(self) -> Path:
        """The gates' own cache, empty at first."""
        return self.work / "cache"


def make_steps(setup: Setup) -> list[Step]:
    """Return all steps in order: what matters most first, in case the machine is taken away."""
    return [
        _script(
            setup, "install", "packages from the kit, without a network", "install.py", *_packages(setup)
        ),
        _script(setup, "machine", "GPU, driver and versions", "machine.py", setup.device),
        _script(setup, "model", "the demo's model as safetensors", "model.py", *_source(setup)),
        _module(
            setup, "doctor", "tenpak doctor", "pytest_tenpak", "doctor", f"--tenpak-device={setup.device}"
        ),
        _script(setup, "evaluator", "speed and memory of the evaluator", "passes.py", *_measured(setup)),
        *(_gate(setup, name) for name in GATES),
        _again(setup),
        _script(setup, "spread", "the same measurement in two processes", "spread.py", *_measured(setup)),
        _tests(setup),
    ]


def _step(setup: Setup, name: str, what: str, *command: str, **more: Any) -> Step:
    figures = more.pop("figures", partial(_document, setup.out / f"{name}.json"))
    return Step(name, what, LIMITS[name], (setup.python, *command), setup.work, figures)


def _script(setup: Setup, name: str, what: str, script: str, *arguments: str) -> Step:
    """A step that runs a script of this folder, which writes its figures to ``NAME.json``."""
    out = ("--out", str(setup.out / f"{name}.json"))
    return _step(setup, name, what, str(HERE / script), *out, *arguments)


def _module(setup: Setup, name: str, what: str, *arguments: str) -> Step:
    return _step(setup, name, what, "-m", *arguments, figures=dict)


def _document(path: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return figures


def _packages(setup: Setup) -> list[str]:
    files = sorted(path for path in setup.files.iterdir() if path.name.endswith((".whl", ".tar.gz")))
    return [str(setup.site), *map(str, files)]


def _source(setup: Setup) -> list[str]:
    return [
        str(setup.model),
        *(["--quick", str(setup.work / "suite" / "tests" / "support")] if setup.quick else []),
    ]


def _measured(setup: Setup) -> list[str]:
    return [str(setup.model), "--device", setup.device, *(["--quick"] if setup.quick else [])]


def _pytest(setup: Setup, *arguments: str) -> list[str]:
    sizes = {"context": 64, "max_tokens": 2048} if setup.quick else {"context": 512, "max_tokens": 32768}
    settings = [word for name, value in sizes.items() for word in ("-o", f"tenpak_{name}={value}")]
    gates = setup.work / "gates"
    options = [f"--tenpak-device={setup.device}", f"--tenpak-model={setup.model}", "-q", "-c", "pytest.ini"]
    return ["-m", "pytest", f"--rootdir={gates}", *options, *settings, *arguments]


def _gate(setup: Setup, name: str) -> Step:
    out = setup.out / f"{name}.json"
    command = _pytest(setup, f"test_gates.py::test_{name}", f"--tenpak-json={out}")
    step = _step(setup, name, f"a gate of {name.upper()}", *command, figures=partial(_outcome, out))
    return Step(step.name, step.what, step.seconds, step.command, setup.work / "gates", step.figures)


def _outcome(path: Path) -> dict[str, Any]:
    """Read the figures of the one gate in a JSON report."""
    (outcome,) = _document(path)["outcomes"]
    made, figures = outcome["quantizing"], outcome["figures"] or {}
    return {
        "status": outcome["verdict"]["status"],
        "device_class": outcome["device_class"],
        "quantizing_seconds": made.get("seconds"),
        "peak_cuda_bytes": made.get("peak_cuda_bytes"),
        **figures.pop("compression", {}),
        **figures,
    }


def _again(setup: Setup) -> Step:
    """The gates that passed, again: nothing may be quantized or measured."""
    out = setup.out / "again.json"
    script = [str(HERE / "again.py"), "--out", str(out), "--gates", *GATES, "--", str(setup.cache)]
    step = _step(setup, "again", "the same gates again, from the cache", *script, *_pytest(setup))
    return Step(step.name, step.what, step.seconds, step.command, setup.work / "gates", step.figures)


def _tests(setup: Setup) -> Step:
    """The tests that are marked ``gpu``, but for those that compile; without a GPU they are skipped."""
    out = setup.out / "tests.xml"
    chosen = ["-m", "gpu", "-k", "not compiled"]
    command = ["-m", "pytest", *chosen, "-q", "-p", "no:randomly", f"--junitxml={out}"]
    step = _step(
        setup, "tests", "pytest -m gpu", *command, "tests/gates/test_gpu.py", figures=partial(_junit, out)
    )
    return Step(step.name, step.what, step.seconds, step.command, setup.work / "suite", step.figures)


def _junit(path: Path) -> dict[str, Any]:
    suite = next(ElementTree.parse(path).iter("testsuite"))
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    return {**counts, "passed": counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]}


def prepare(setup: Setup) -> None:
    """Make the folders that steps run in: copies, since gates write baselines beside their tests."""
    setup.out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(HERE / "gates", setup.work / "gates", dirs_exist_ok=True)
    shutil.unpack_archive(setup.files / "suite.zip", setup.work / "suite")
