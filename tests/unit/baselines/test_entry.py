"""The baseline file: readable, exact, whole at every moment, and never trusted blindly."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import accepted, measured, reference
from places import SUPPORT

from pytest_tenpak.baselines.entry import HISTORY_LENGTH, Baseline, Entry
from pytest_tenpak.errors import BaselineError
from pytest_tenpak.metrics.measurement import Layers, Noise
from pytest_tenpak.store.digest import canonical_json


def written(path: Path, **rest) -> dict:
    Baseline("t.py::test", {"cpu": accepted(**rest)}).write(path)
    return json.loads(path.read_text(encoding="utf-8"))


def test_what_was_written_is_read_back(tmp_path):
    """Every field survives, identities to the last digit."""
    path = tmp_path / "b.json"
    baseline = Baseline("t.py::test", {"cpu": accepted(), "cuda-sm90": accepted(tensor_bytes=400)})
    baseline.write(path)
    again = Baseline.read(path)
    assert again == baseline
    assert again.entries["cpu"].identity["spec"]["options"]["threshold"] == 1e-9


def test_a_file_reads_well_in_a_diff(tmp_path):
    """Keys are sorted, window arrays stand on one line, figures have fixed digits, the file ends in a newline."""
    path = tmp_path / "b.json"
    written(path)
    text = path.read_text(encoding="utf-8")
    assert '"nll": [9.000000, 10.000000, 11.000000],\n' in text
    assert '"perplexity": 12.182494' in text
    assert text.endswith("}\n")
    keys = list(json.loads(text)["entries"]["cpu"])
    assert keys == sorted(keys)


def test_equal_measurements_give_equal_bytes(tmp_path):
    """Two identical runs leave no diff."""
    written(tmp_path / "a.json")
    written(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_missing_file_is_no_baseline(tmp_path):
    """None, not an error: the case is new."""
    assert Baseline.read(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        ("[]", "no known schema_version"),
        ('{"schema_version": 99}', "written by a newer pytest-tenpak"),
        ('{"schema_version": true}', "no known schema_version"),
        ('{"schema_version": 0}', "no known schema_version"),
        ('{"schema_version": 1}', "has a fault in top level"),
        ('{"schema_version": 1, "case": "x", "entries": {"cpu": {}}}', "has a fault in entries.cpu"),
        ('{"schema_version": 2, "case": "x", "entries": {"cpu": {}}}', "has a fault in entries.cpu"),
        ('{"schema_version": 2, "case": "x", "case": "y"}', "duplicate field 'case'"),
        ('{"schema_version": 2, "case": "\\ud800", "entries": {}}', "surrogates not allowed"),
        ('{\n<<<<<<< HEAD\n"schema_version": 2', "it contains a merge conflict"),
        ('{"schema_version": NaN}', "NaN is not a finite number"),
        ('{"schema_version": 1e999}', "out of range"),
        ("[" * 100_000, "is not valid JSON"),
        ("\udcff", "cannot be read"),
    ],
)
def test_a_broken_file_is_named_with_its_fault(tmp_path, text, said):
    """Neither a traceback nor a silent pass: file, fault, and what to do."""
    path = tmp_path / "b.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BaselineError, match=said) as caught:
        Baseline.read(path)
    assert str(path) in str(caught.value)
    assert "what to do:" in str(caught.value)


@pytest.mark.parametrize(
    ("steps", "value", "said"),
    [
        (("figures", "perplexity"), 1.0, "the windows give 12.18"),
        (("figures", "compression"), 9.0, "the ledger gives 4.0"),
        (("windows", "tokens"), [4, 4], "3 NLLs for 2 token counts"),
        (("windows", "nll"), [9.0, "10", 11.0], "windows.nll.1"),
        (("windows", "nll"), [], "windows.nll"),
        (("weights_digest",), "abc", "weights_digest"),
        (("surprise",), 1, "surprise"),
        (("layers", "gain"), [2.0], "1 gains for 0 errors"),
        (("provenance", "device", "device"), "another", "entries.cpu.digest"),
        (("anchor", "figures", "perplexity"), 99.0, "entries.cpu.digest"),
        (("figures", "kld"), 0.0, "entries.cpu.digest"),
    ],
)
def test_a_figure_edited_by_hand_is_found(tmp_path, steps, value, said):
    """A headline that its own windows contradict, or a field that cannot be, is an error naming it."""
    path = tmp_path / "b.json"
    plain = written(path)
    inner = plain["entries"]["cpu"]
    for step in steps[:-1]:
        inner = inner[step]
    inner[steps[-1]] = value
    path.write_text(json.dumps(plain))
    with pytest.raises(BaselineError, match=said):
        Baseline.read(path)


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([[], {}, [[]], 10**400, -1, "sha256:" + "0" * 64, 1e308, 0, 0.0, -0.0]),
    st.recursive(st.integers(), lambda inner: st.lists(inner, max_size=3), max_leaves=5),
)


@pytest.fixture(scope="module")
def rich(tmp_path_factory) -> tuple[Path, str, Baseline]:
    """A baseline in which every field holds something, its file's text, and where it stands."""
    path = tmp_path_factory.mktemp("m") / "b.json"
    layers, noise = Layers((1.0, 0.9), (0.1, 0.2)), Noise(8, 0.001, 0.01, {"threads": 1e-5})
    first = Entry.of(replace(measured(), layers=layers), reference(), noise)
    second = Entry.of(replace(measured(nll=(9.0, 10.0, 11.5)), layers=layers), reference(), noise)
    cuda = accepted(nll=(9.25, 10.5))
    entries = {"cpu": second.replacing(first, "fewer bits", reanchor=True), "cuda-sm90": cuda}
    Baseline("t.py::test", entries).write(path)
    return path, path.read_text(encoding="utf-8"), Baseline.read(path)


def places(plain, path=()):
    """The path of every node below ``plain``, at any depth."""
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def change_structure(data, text: str) -> str:
    """The text with one node replaced, deleted, added, renamed or doubled."""
    plain = json.loads(text)
    *above, key = data.draw(st.sampled_from(list(places(plain))))
    place = plain
    for step in above:
        place = place[step]
    kind = data.draw(st.sampled_from(["replace", "delete", "add", "rename", "double", "swap"]))
    if kind == "replace":
        place[key] = data.draw(junk)
    elif kind == "delete":
        del place[key]
    elif kind == "swap":
        other = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        place[key], place[other] = place[other], place[key]
    elif isinstance(place, list):
        place.insert(key, data.draw(junk) if kind == "add" else place[key])
    else:
        name = data.draw(st.text(max_size=5) | st.sampled_from([*place, "digest", "cuda-sm80"]))
        place[name] = data.draw(junk) if kind == "add" else place[key]
        if kind == "rename" and name != key:
            del place[key]
    return json.dumps(plain)


def change_bytes(data, text: str) -> bytes:
    """The text with some bytes flipped, cut out, put in, or doubled."""
    raw = bytearray(text.encode())
    start = data.draw(st.integers(0, len(raw) - 1))
    end = min(len(raw), start + data.draw(st.integers(1, 40)))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "double"]))
    if kind == "flip":
        raw[start] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del raw[start:end]
    else:
        raw[start:start] = (
            raw[start:end] if kind == "double" else data.draw(st.binary(min_size=1, max_size=8))
        )
    return bytes(raw)


def judge(content: bytes, path: Path, baseline: Baseline) -> None:
    """Refused with file and field, or read as what was written: an entry more or another is never read."""
    path.write_bytes(content)
    try:
        again = Baseline.read(path)
    except BaselineError as error:
        assert str(path) in str(error)
        if "is not valid JSON" not in str(error) and "cannot be read" not in str(error):
            json.loads(content)
            assert re.search(r"has a fault in (top level|[\w.-]+)|schema_version", str(error))
    else:
        for name, entry in again.entries.items():
            assert entry == baseline.entries[name]
            assert canonical_json(entry.to_dict()) == canonical_json(baseline.entries[name].to_dict())


def mutate(rich, data) -> None:
    path, text, baseline = rich
    if data.draw(st.booleans()):
        content = change_structure(data, text).encode("utf-8", "surrogatepass")
    else:
        content = change_bytes(data, text)
    judge(content, path, baseline)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_mutation_is_a_traceback(rich, data):
    """Whatever is changed anywhere in a file, it is refused with file and field, or means the same as before.

    An entry that is gone as a whole is none: the gate then says ``new``.
    """
    mutate(rich, data)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(data=st.data())
def test_none_of_ten_thousand_mutations_is_a_traceback(rich, data):
    """The same, 10,000 times."""
    mutate(rich, data)


def test_a_successor_keeps_anchor_and_a_bounded_history():
    """The first accepted figures stay; replaced ones are kept newest first, with their reasons."""
    entry = accepted()
    for step in range(HISTORY_LENGTH + 3):
        entry = accepted(nll=(9.0, 10.0, 11.0 + step)).replacing(entry, f"reason {step}")
    assert entry.anchor.figures == accepted().figures
    # Each window has 4 tokens, and the last one's NLL is what rose.
    assert entry.anchor.drift == pytest.approx((HISTORY_LENGTH + 2) / 12, abs=1e-5)
    assert len(entry.history) == HISTORY_LENGTH
    assert entry.history[0].reason == f"reason {HISTORY_LENGTH + 2}"


def test_another_identity_anchors_itself():
    """Figures that answer another question are not held to the old anchor."""
    other = Entry.of(replace(measured(nll=(1.0, 1.0, 1.0)), identity={"model": "other"}), reference())
    assert other.replacing(accepted(), "new model").anchor.figures == other.figures


@pytest.mark.slow
def test_kill_leaves_the_old_file_or_the_new_one(tmp_path):
    """60 × kill -9 while baselines are written over and over: each is whole when read."""
    path = tmp_path / "b.json"
    script = (
        f"import sys; sys.path.insert(0, {str(SUPPORT)!r})\n"
        "from pathlib import Path\nfrom made_up import accepted\nfrom pytest_tenpak.baselines.entry import Baseline\n"
        f"path = Path({str(path)!r})\n"
        "for i in range(10**6):\n"
        "    Baseline('t', {'cpu': accepted(nll=[float(i % 7)] * 2000)}).write(path)\n"
        "    if i == 0: print('ready', flush=True)\n"
    )
    for round_number in range(60):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.001 * (round_number % 30))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert len(Baseline.read(path).entries["cpu"].nll) == 2000
