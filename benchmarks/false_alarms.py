"""How often gates fail where nothing got worse: real runs of the plugin, as tables in Markdown.

Baselines are recorded once. Then the same gates are quantized and measured again and again, each run with
an empty cache and in another way: threads, batches, xdist, order, runs that were stopped and resumed, CPUs
with fewer instructions. Two models: a Llama of 0.4 million weights that is trained on the spot, and
SmolLM2-135M-Instruct. A gate that is anything but ``passed`` is a false alarm. ``make false-alarms``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import subject
from tabulate import tabulate

from pytest_tenpak.evaluation.corpus import load_corpus
from pytest_tenpak.machines.cpu_class import cpu_class

SUPPORT = Path(__file__).resolve().parents[1] / "tests" / "support"

BITSANDBYTES = """
import pytest

@pytest.mark.quantize(method="nf4")
def test_nf4(): pass

@pytest.mark.quantize(method="int8")
def test_int8(): pass
"""
#: GPTQ gives other weights with other numbers of threads, so its baseline is recorded as docs/statistics.md
#: says: with calibrated noise, and a tolerance above it.
GPTQ = """
import pytest

@pytest.mark.quantize(method="gptq", group_size=64, samples=8, sample_length=128, ppl_tolerance=0.03)
def test_gptq(): pass
"""
DOUBLE = """
@pytest.mark.quantize(method="nf4", double_quant=True)
def test_nf4_double(): pass
"""


@dataclass(frozen=True)
class Variation:
    """One way to run gates.

    ``stop`` ends a first run somewhere in its middle, and the run that counts goes on with its cache: by a
    signal, or by a budget that is a quarter of the whole. ``entries`` names the set of baselines: ``own`` has
    entries of this machine's class, ``avx2`` of that class alone, ``both`` of both.
    """

    title: str
    variables: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    shuffled: bool = False
    stop: str = ""
    entries: str = "own"


AVX512 = {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
BASIC = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
#: Classes of CPUs that this machine's libraries can be held to.
CLASSES = {"cpu-avx512": AVX512, "cpu-avx2": AVX2, "cpu-x86-64": BASIC}
RECORD = "--tenpak-update=new"
ONE, TWO, THREE = ({"OMP_NUM_THREADS": str(count)} for count in (1, 2, 3))

VARIATIONS = (
    Variation("as recorded"),
    Variation("as AVX2", AVX2),
    Variation("1 thread", ONE),
    Variation("batches of 1 window", arguments=("--tenpak-batch-size=1",)),
    Variation("xdist, 2 workers", arguments=("-n", "2")),
    Variation("killed (SIGKILL), resumed", stop="SIGKILL"),
    Variation("as basic x86-64", BASIC),
    Variation("as AVX2, recorded there too", AVX2, entries="both"),
    Variation("2 threads", TWO),
    Variation("batches of 3 windows", arguments=("--tenpak-batch-size=3",)),
    Variation("shuffled", shuffled=True),
    Variation("interrupted (SIGINT), resumed", stop="SIGINT"),
    Variation("as AVX-512 without bfloat16", AVX512),
    Variation("recorded as AVX2 only", entries="avx2"),
    Variation("3 threads", THREE),
    Variation("batches of 32 windows", arguments=("--tenpak-batch-size=32",)),
    Variation("another hash seed", {"PYTHONHASHSEED": "12345"}),
    Variation("a quarter of the budget, then all", stop="budget"),
    Variation("decided at the end of the budget", arguments=("--tenpak-fixed",)),
    Variation("as AVX-512, recorded as AVX2 only", AVX512, entries="avx2"),
    Variation("xdist, 1 thread, batches of 5, shuffled", ONE, ("-n", "2", "--tenpak-batch-size=5"), True),
    Variation("killed with xdist, shuffled, resumed", {}, ("-n", "2"), True, "SIGKILL"),
    Variation("as AVX2, 1 thread, batches of 1", {**AVX2, **ONE}, ("--tenpak-batch-size=1",)),
    Variation("killed as AVX2 at 2 threads, resumed", {**AVX2, **TWO}, (), True, "SIGKILL"),
)


@dataclass(frozen=True)
class Subject:
    """A model with its gates.

    ``settings`` of the ini file, ``variations`` to run, in a circle, ``recording``: arguments of runs that
    record baselines, ``variables`` of the environment where a variation has none, and how many runs there may
    be ``at_once``.
    """

    title: str
    gates: str
    settings: Mapping[str, object]
    variations: tuple[Variation, ...] = VARIATIONS
    recording: tuple[str, ...] = (RECORD,)
    variables: Mapping[str, str] = field(default_factory=dict)
    at_once: int = 1

    @property
    def tokens(self) -> int:
        """The whole budget."""
        return int(str(self.settings["max_tokens"]))

    @property
    def tests(self) -> list[str]:
        """The ids of the gates, in the order of the file."""
        names = (line[4:].partition("(")[0] for line in self.gates.splitlines() if line.startswith("def "))
        return [f"test_gates.py::{name}" for name in names]

    def write(self, folder: Path) -> Path:
        """Write the project, without baselines."""
        folder.mkdir()
        rows = "".join(f"tenpak_{name} = {value}\n" for name, value in self.settings.items())
        (folder / "pytest.ini").write_text(f"[pytest]\n{rows}", encoding="utf-8")
        (folder / "test_gates.py").write_text(self.gates, encoding="utf-8")
        return folder


@dataclass(frozen=True)
class Gate:
    """What became of one gate in one run."""

    test: str
    status: str
    perplexity: float = 0.0
    layers: float = 0.0
    other_weights: bool = False
    compared: str = ""


class Project:
    """A suite of gates with its baselines. Every run has a copy of it, and a cache, of its own.

    What was recorded and run is kept in ``place``, and not run again after the program was stopped.
    """

    def __init__(self, made: Subject, place: Path) -> None:
        self.subject, self.place = made, place
        place.mkdir(exist_ok=True)
        self.seconds = self.record("own", {})

    def prepare(self, wanted: Collection[str]) -> None:
        """Record the other sets of baselines that are wanted."""
        if "avx2" in wanted:
            self.record("avx2", AVX2)
        if "both" in wanted:
            if not self.baselines("both").exists():
                shutil.copytree(self.baselines("own"), self.baselines("both"))
            self.record("both", AVX2)

    def baselines(self, entries: str) -> Path:
        """The folder of a set of baselines."""
        return self.place / f"baselines-{entries}"

    def record(self, entries: str, switches: Mapping[str, str]) -> float:
        """Write entries of the class that the switches make of this machine; seconds that it took."""
        recorded = self.place / f"baselines-{entries}.json"
        if not recorded.is_file():
            folder, started = self.copy(f"record-{entries}"), time.monotonic()
            place = f"--tenpak-baseline-dir={self.baselines(entries)}"
            if self.start(folder, switches, place, *self.subject.recording).wait():
                sys.exit((folder / "output.txt").read_text(encoding="utf-8")[-8000:])
            shutil.rmtree(folder)
            recorded.write_text(json.dumps(time.monotonic() - started), encoding="utf-8")
        seconds: float = json.loads(recorded.read_text(encoding="utf-8"))
        return seconds

    def copy(self, name: str) -> Path:
        """The project in a folder of its own."""
        folder = self.place / name
        shutil.rmtree(folder, ignore_errors=True)
        self.subject.write(folder)
        return folder

    def start(self, folder: Path, variables: Mapping[str, str], *arguments: str) -> subprocess.Popen[bytes]:
        """Start pytest in a copy, whose cache and output stay in its folder."""
        command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider"]
        with (folder / "output.txt").open("ab") as output:
            return subprocess.Popen(
                [*command, f"--tenpak-cache-dir={folder / 'cache'}", *arguments],
                cwd=folder,
                env={**os.environ, "CI": "true", **self.subject.variables, **variables},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def run(self, variation: Variation, number: int) -> list[Gate]:
        """Run all gates once, from an empty cache, and read what became of each."""
        kept = self.place / f"run-{number}.json"
        if kept.is_file():
            return [Gate(**gate) for gate in json.loads(kept.read_text(encoding="utf-8"))]
        draw = random.Random(number)
        tests = self.subject.tests
        if variation.shuffled:
            draw.shuffle(tests)
        folder = self.copy(f"run-{number}")
        baselines = f"--tenpak-baseline-dir={self.baselines(variation.entries)}"
        arguments = [*tests, baselines, *variation.arguments]
        if variation.stop:
            self.stop_early(folder, variation, arguments, draw)
        report = folder / "run.json"
        code = self.start(folder, variation.variables, *arguments, f"--tenpak-json={report}").wait()
        found = read(report)
        missing = [test for test in tests if test not in {gate.test for gate in found}]
        found += [Gate(test, f"no outcome, exit code {code}") for test in missing]
        if code == 0 and all(gate.status == "passed" for gate in found):
            shutil.rmtree(folder)
        kept.write_text(json.dumps([asdict(gate) for gate in found]), encoding="utf-8")
        return found

    def stop_early(
        self, folder: Path, variation: Variation, arguments: list[str], draw: random.Random
    ) -> None:
        """Leave a cache that holds a part of the run."""
        if variation.stop == "budget":
            quarter = f"--tenpak-max-tokens={self.subject.tokens // 4}"
            self.start(folder, variation.variables, *arguments, quarter).wait()
            return
        patience = draw.uniform(0.2, 0.8) * self.seconds
        while not self.stopped(folder, variation, arguments, patience):
            shutil.rmtree(folder / "cache")
            patience /= 2

    def stopped(self, folder: Path, variation: Variation, arguments: list[str], patience: float) -> bool:
        """Start a run and send it a signal; whether that came before its end."""
        running = self.start(folder, variation.variables, *arguments)
        try:
            running.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.Signals[variation.stop])
        return running.wait() != 0


def read(report: Path) -> list[Gate]:
    """The gates of a run, as ``--tenpak-json`` wrote them; none where it wrote nothing."""
    if not report.is_file():
        return []
    return [gate_of(outcome) for outcome in json.loads(report.read_text(encoding="utf-8"))["outcomes"]]


def gate_of(outcome: Mapping[str, Any]) -> Gate:
    """One gate; an update is not asked for, so that whatever is not ``passed`` is no pass."""
    checks = {check["name"]: check for check in outcome["verdict"]["checks"]}
    moves = [checks[name]["difference"] if name in checks else None for name in ("ppl_tolerance", "layers")]
    own, entries = outcome["device_class"], {part["entry_device"] for part in outcome["parts"]}
    return Gate(
        outcome["case"]["nodeid"],
        outcome["verdict"]["status"],
        *(abs(move or 0.0) for move in moves),
        any(part["other_weights"] for part in outcome["parts"]),
        f"{own} with {'its own' if entries == {own} else ', '.join(sorted(entries))}",
    )


HEADERS = (
    *("variation", "runs", "gates", "false alarms", "perplexity moved", "layers moved", "other weights"),
    "class, compared with the entry of",
)


def row(title: str, runs: list[list[Gate]]) -> list[object]:
    """One line of the table: the largest movements from the baseline, of all gates."""
    gates = [gate for run in runs for gate in run]
    return [
        title,
        len(runs),
        len(gates),
        sum(gate.status != "passed" for gate in gates),
        f"{max(gate.perplexity for gate in gates):.4%}",
        f"{max(gate.layers for gate in gates):.4%}",
        sum(gate.other_weights for gate in gates),
        "; ".join(sorted({gate.compared for gate in gates} - {""})),
    ]


def alarms(made: Subject, place: Path, wanted: int) -> int:
    """Run the gates of a model ``wanted`` times, print the table and every false alarm; give their number."""
    project = Project(made, place)
    variations = list(islice(cycle(made.variations), wanted))
    project.prepare({variation.entries for variation in variations})
    with ThreadPoolExecutor(made.at_once) as pool:
        answers = list(pool.map(project.run, variations, range(wanted)))
    rows: dict[str, list[list[Gate]]] = {}
    for number, (variation, gates) in enumerate(zip(variations, answers, strict=True)):
        rows.setdefault(variation.title, []).append(gates)
        for gate in gates:
            if gate.status != "passed":
                print(f"{variation.title}: {gate}, in {place / f'run-{number}'}", file=sys.stderr)
    table = [row(title, runs) for title, runs in rows.items()]
    table.append([*row("all", answers)[:-1], ""])
    print(f"\n**{made.title}**\n")
    print(tabulate(table, HEADERS, tablefmt="github", disable_numparse=True), flush=True)
    return sum(gate.status != "passed" for gates in answers for gate in gates)


def train(place: Path) -> dict[str, object]:
    """Train a small model on the packaged corpus, once; settings to gate it with."""
    text = place / "text.txt"
    settings = {"model": place / "model", "corpus": text, "context": 64, "max_tokens": 110 * 63}
    if text.is_file():
        return settings
    code = f"import tiny, pathlib; tiny.save_trained_llama(pathlib.Path({str(place / 'model')!r}), steps=300)"
    command, variables = [sys.executable, "-c", code], {**os.environ, **ONE}
    subprocess.run(command, cwd=SUPPORT, env=variables, stderr=subprocess.DEVNULL, check=True)
    text.write_text(load_corpus("shakespeare", Path()).documents[0][-7080:], encoding="utf-8")
    return settings


def subjects(place: Path, small: int, gptq: int, large: int) -> Iterator[tuple[Subject, Path, int]]:
    """The models that are wanted, each with its folder and how many runs."""
    title, cores = "A Llama of 0.4 million weights, 110 windows of 64 tokens", os.cpu_count() or 1
    settings = train(place) if small or gptq else {}
    if small:
        made = Subject(title, BITSANDBYTES + DOUBLE, settings, variables=ONE, at_once=cores)
        yield made, place / "small", small
    if gptq:
        calibrating = (RECORD, "--tenpak-calibrate-noise=4")
        made = Subject(f"{title}, GPTQ", GPTQ, settings, VARIATIONS[::2], calibrating, ONE, cores)
        yield made, place / "gptq", gptq
    if large:
        # INT8 is slow where a CPU is emulated, so no baselines are recorded there.
        variations = [variation for variation in VARIATIONS if variation.entries == "own"]
        settings = {"model": subject.find(subject.SMOLLM2), "context": 256, "max_tokens": 8 * 255}
        title = "SmolLM2-135M-Instruct, 8 windows of 256 tokens"
        made = Subject(title, BITSANDBYTES, settings, tuple(variations[1::2]), (RECORD,), ONE, cores)
        yield made, place / "large", large


def main() -> None:
    """Print what ran where, and a table for each model; exit with 1 after a false alarm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    counts = {"nargs": 3, "metavar": ("SMALL", "GPTQ", "LARGE"), "default": (61, 12, 4)}
    parser.add_argument("--runs", type=int, help="of pytest, for each table: %(default)s", **counts)
    parser.add_argument(
        "--keep", type=Path, help="a folder for the runs; a program that was stopped goes on there"
    )
    given = parser.parse_args()
    subject.quiet()
    libraries = ("torch", "transformers", "bitsandbytes", "gptqmodel", "pytest", "pytest-xdist")
    print(f"{cpu_class()}, {os.cpu_count()} cores, Python {'.'.join(map(str, sys.version_info[:3]))}", end="")
    print("".join(f", {name} {version(name)}" for name in libraries), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        place = given.keep or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        found = [alarms(*wanted) for wanted in subjects(place, *given.runs)]
    sys.exit(any(found))


if __name__ == "__main__":
    main()
