"""The JSON document of a run: what its schema promises, and what is refused when it is read."""

import json
import math
from dataclasses import replace
from importlib import metadata

import jsonschema
import pytest
from made_up import HOSTILE, outcome, summary, unmeasured

from pytest_tenpak.baselines.entry import Figures
from pytest_tenpak.baselines.history import Past
from pytest_tenpak.errors import ReportError
from pytest_tenpak.metrics.intervals import Rule
from pytest_tenpak.metrics.measurement import Layers, Noise, Robust
from pytest_tenpak.metrics.speed import Memory, PhaseSpeed, Speed
from pytest_tenpak.reports.run_document import document, read_document, render
from pytest_tenpak.store.strict_json import published_schema


def full():
    """A run with something in every field."""
    first = outcome()
    part = replace(first.parts[0], noise=Noise(3, 0.01, 0.02, {"threads": 0.001}))
    phase = PhaseSpeed("decode", 32, (0.5, 0.6), (0.25, 0.3))
    timed = Speed((phase,), 64, "Linear4bit", "float32", "x86_64", 1)
    past = Past("abc123", "2026-01-31", "cpu", Figures(10.0, 9.0, None, 4.0))
    return summary(
        replace(first, parts=(part,), speed=timed, memory=Memory(400, 100, "resident", "float32")),
        replace(outcome("test_a.py::test_b", 1.2), shard="gpu"),
        outcome("test_a.py::test_c", entry=None),
        unmeasured("test_a.py::test_d", skipped=True),
        expected=("test_a.py::test_a", "test_a.py::test_z"),
        written=("baselines/a.json",),
        unused=("baselines/old.json",),
        problems=("the disk is full",),
        trends={"test_a/test_a": (past,)},
        rule=Rule(0.01, True),
    )


def valid(plain) -> bool:
    return jsonschema.Draft202012Validator(published_schema("pytest_tenpak.reports", "run-1")).is_valid(plain)


def test_the_schema_is_one():
    """Draft 2020-12, with an id of its own."""
    jsonschema.Draft202012Validator.check_schema(published_schema("pytest_tenpak.reports", "run-1"))
    assert published_schema("pytest_tenpak.reports", "run-1")["$id"] == "urn:pytest-tenpak:run-1"


def test_a_document_is_valid_and_reads_back_as_the_run(tmp_path):
    """Version and rule are in it; every field comes back."""
    run = full()
    plain = json.loads(render(run))
    jsonschema.Draft202012Validator(published_schema("pytest_tenpak.reports", "run-1")).validate(plain)
    assert plain["tenpak"] == metadata.version("pytest-tenpak")
    assert plain["rule"] == {"alpha": 0.01, "fixed": True}
    assert (plain["ran"], plain["missing"]) == (3, ["test_a.py::test_z"])
    path = tmp_path / "run.json"
    path.write_text(render(run))
    assert read_document(path) == run


@pytest.mark.parametrize("nodeid", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_are_kept_as_they_are(tmp_path, nodeid):
    """In ASCII, so that no reader meets a control character; whole, so that nothing is lost."""
    run = summary(outcome(nodeid), unmeasured("test_b.py::b", f"crash in {nodeid}"))
    text = render(run)
    assert all(char == "\n" or " " <= char <= "~" for char in text)
    path = tmp_path / "run.json"
    path.write_text(text)
    assert read_document(path) == run


def test_figures_that_are_not_finite_are_null(tmp_path):
    """A case whose figures are no numbers is written all the same, and read."""
    bad = outcome()
    ours = bad.parts[0].measurement
    nan = replace(ours, robust=Robust(math.nan, 1.0, 0.5), layers=Layers((math.inf, 1.0), (0.1, math.nan)))
    path = tmp_path / "run.json"
    path.write_text(render(summary(replace(bad, parts=(replace(bad.parts[0], measurement=nan),)))))
    read = read_document(path).outcomes[0].parts[0].measurement
    assert read.robust is None
    assert read.layers.nonfinite == [0, 1]


#: Objects whose fields are the writer's choice.
FREE = {"identity", "options", "quantizing", "runtime", "min_compression", "compression", "versions"}
FREE |= {"device", "trends"}


def objects(plain, path=()):
    """Every object of a document that has fields, where the schema fixes them, by its path."""
    if plain and isinstance(plain, dict) and path[-1:] not in {(name,) for name in FREE}:
        yield path, plain
    rows = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, value in rows:
        if key not in FREE - {"trends"}:
            yield from objects(value, (*path, key))


def faults(plain, keyword):
    """Every fault that a keyword of the schema finds, by its path: also within alternatives."""
    schema = jsonschema.Draft202012Validator(published_schema("pytest_tenpak.reports", "run-1"))
    found = list(schema.iter_errors(plain))
    for fault in found:
        found += fault.context
    return {tuple(fault.absolute_path): fault for fault in found if fault.validator == keyword}


def test_no_field_may_be_missing():
    """Whatever field is left out, the schema refuses the document. Objects of one depth are emptied at once."""
    whole = document(replace(full(), outcomes=full().outcomes[:1]))
    fields = {path: set(fields) for path, fields in objects(whole)}
    assert sum(map(len, fields.values())) > 200
    for depth in {len(path) for path in fields}:
        changed = json.loads(json.dumps(whole))
        emptied = [path for path in fields if len(path) == depth]
        for path, one in list(objects(changed)):
            if path in emptied:
                one.clear()
        found = faults(changed, "required")
        for path in emptied:
            assert fields[path] <= set(found[path].validator_value), path


def test_no_field_may_be_added():
    """An unknown field in any object is a fault of that object."""
    changed = document(full())
    places = dict(objects(changed))
    for one in places.values():
        one["unknown"] = 1
    assert places.keys() <= faults(changed, "additionalProperties").keys()


def written(tmp_path, change) -> str:
    """A document with a change, or the text that stands in its place."""
    plain = document(full())
    text = change(plain)
    path = tmp_path / "run.json"
    path.write_bytes(text if isinstance(text, bytes) else json.dumps(plain).encode())
    with pytest.raises(ReportError) as caught:
        read_document(path)
    return str(caught.value)


def put(*path):
    """A change that puts the last of ``path`` where the rest of it leads."""

    def change(plain):
        for step in path[:-2]:
            plain = plain[step]
        plain[path[-2]] = path[-1]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _: b"", "is not valid JSON"),
        (lambda _: b"{", "is not valid JSON"),
        (lambda _: b"[" * 100_000, "is not valid JSON"),
        (lambda _: b"\xff\xfe", "cannot be read"),
        (lambda _: b"[]", "has no schema version that is known"),
        (lambda _: b'{"schema_version": NaN}', "NaN is not a finite number"),
        (lambda _: b'{"schema_version": 1, "schema_version": 1}', "duplicate field 'schema_version'"),
        (put("rule", "alpha", math.nan), "NaN is not a finite number"),
        (put("schema_version", 2), "was written by a newer pytest-tenpak"),
        (put("schema_version", 0), "has no schema version that is known"),
        (put("schema_version", True), "has no schema version that is known"),
        (put("outcomes", 0, "case", {}), "has a fault in outcomes.0.case"),
        (put("outcomes", 0, "verdict", "status", "fine"), "has a fault in outcomes.0.verdict.status"),
        (put("outcomes", 0, "verdict", "status", "error"), "about the status of test_a.py::test_a"),
        (put("outcomes", 0, "parts", 0, "figures", "perplexity", 3.0), "about the perplexity of test_a"),
        (put("outcomes", 0, "parts", 0, "figures", None), "about the perplexity of test_a"),
        (put("outcomes", 0, "parts", 0, "measurement", "windows", "nll", [1.0]), "contradicts itself"),
        (put("outcomes", 0, "parts", 0, "measurement", "windows", "nll", [1e299] * 3), "contradicts itself"),
        (put("expected", ["a", "a"]), "has a fault in expected"),
    ],
)
def test_what_is_no_whole_report_is_refused(tmp_path, change, said):
    """An error that names the file, the field and the way out; never a traceback."""
    told = written(tmp_path, change)
    assert said in told
    assert str(tmp_path / "run.json") in told
    assert "what to do: " in told


def test_a_file_that_is_not_there(tmp_path):
    """Or that is a folder."""
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(ReportError, match="cannot be read"):
            read_document(path)
