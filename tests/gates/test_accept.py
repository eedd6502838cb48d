"""`tenpak accept`: what another machine measured becomes the baseline here, under the same rule as in a run."""

import json
import shutil
from dataclasses import replace

import pytest
from commanding import Suite, suite  # noqa: F401
from made_up import IDENTITY, accepted, case, outcome, summary, unmeasured
from places import DATA

from pytest_tenpak.baselines.entry import Baseline
from pytest_tenpak.metrics.measurement import Layers
from pytest_tenpak.reports.run_document import render

NODEID = "test_a.py::test_a"
#: The entry that the made-up outcomes are compared with.
BEFORE = replace(accepted(), layers=Layers((1.0, 0.99), (0.1, 0.2)))


def document(suite, *outcomes):  # noqa: F811
    """A run's document in the suite's folder."""
    (suite.path / "run.json").write_text(render(summary(*outcomes)))
    return "run.json"


def entry_of(suite, name="test_a/test_a", device_class="cpu"):  # noqa: F811
    baseline = Baseline.read(suite.folder / f"{name}.json")
    return baseline and baseline.entries.get(device_class)


def test_a_regression_is_accepted_with_a_reason(suite):  # noqa: F811
    """Written as a run would have written it: history, anchor, reason."""
    suite.write("test_a/test_a", BEFORE)
    file = document(suite, outcome(factor=1.05))
    out = suite.tenpak("accept", file)
    assert out == f'{NODEID}: refused: not updated: the new figures are worse, which needs --reason "text"\n'
    assert suite.code == 1
    assert entry_of(suite) == BEFORE
    out = suite.tenpak("accept", file, "--reason", "new kernel", "--reanchor")
    assert out == f"{NODEID}: written: baseline updated, accepted as worse: new kernel\n"
    assert suite.code == 0
    new = entry_of(suite)
    assert new.figures.perplexity == pytest.approx(1.05 * BEFORE.figures.perplexity)
    assert (new.history[0].figures, new.history[0].reason) == (BEFORE.figures, "new kernel")
    assert new.anchor.reason == "new kernel"


def test_what_was_new_in_ci_is_created(suite):  # noqa: F811
    """The run refused to write it there; here it may be reviewed and committed."""
    out = suite.tenpak("accept", document(suite, outcome(entry=None)))
    assert out == f"{NODEID}: written: baseline created: review and commit it\n"
    assert entry_of(suite).figures.perplexity == BEFORE.figures.perplexity
    assert Baseline.read(suite.folder / "test_a/test_a.json").case == NODEID
    suite.write("test_a/test_a", BEFORE, device_class="cuda-sm90")
    assert suite.tenpak("accept", "run.json").endswith("it passes against the baseline here\n")
    assert entry_of(suite, device_class="cuda-sm90") == BEFORE


def test_it_is_decided_again_beside_the_baseline_that_is_here(suite):  # noqa: F811
    """A regression in CI may be what the tree has accepted meanwhile, and the other way round."""
    suite.write("test_a/test_a", BEFORE)
    file = document(suite, outcome(factor=1.012))
    suite.tenpak("accept", file, "--reason", "new kernel")
    once = entry_of(suite)
    assert suite.tenpak("accept", file, "--reason", "again").endswith("it passes against the baseline here\n")
    assert (suite.code, entry_of(suite)) == (0, once)
    passed = document(suite, outcome())
    assert "kept: improved: --update=improved takes it" in suite.tenpak("accept", passed)
    assert "written: baseline updated" in suite.tenpak("accept", passed, "--update", "improved")
    assert entry_of(suite).figures.perplexity == BEFORE.figures.perplexity


def test_update_modes_take_what_they_say(suite):  # noqa: F811
    """new: only new ones; failing is not all."""
    suite.write("test_a/test_a", BEFORE)
    file = document(suite, outcome(factor=1.05))
    out = suite.tenpak("accept", file, "--update", "new", "--reason", "x")
    assert (suite.code, "kept: regressed, which --update=new does not take" in out) == (0, True)
    file = document(suite, outcome("b.py::b", entry=None, name="b"))
    out = suite.tenpak("accept", file, "--update", "improved")
    assert (suite.code, "kept: new, which --update=improved does not take" in out) == (0, True)
    assert entry_of(suite, "b") is None


def test_what_accepting_does_not_clear_is_refused(suite):  # noqa: F811
    """Broken limits, failed measurements, and tests that failed by themselves; a skip is none of them."""
    file = document(
        suite,
        outcome("a.py::limit", factor=9.0, name="limit"),
        replace(outcome("b.py::own", entry=None, name="own"), body_passed=False),
        unmeasured("c.py::crash", name="crash"),
        unmeasured("d.py::skip", skipped=True, name="skip"),
        outcome("e.py::fine", entry=None, name="fine"),
    )
    lines = suite.tenpak("accept", file, "--update", "all", "--reason", "x").splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "refused: max_ppl_delta fails, and updating the baseline does not clear that",
        "refused: the test's own body failed: fix that first",
        "refused: it could not be measured",
        "kept: it was skipped",
        "written: baseline created: review and commit it",
    ]
    assert suite.code == 1
    assert [path.name for path in suite.folder.rglob("*.json")] == ["fine.json"]


def cut_short(**rest):
    """An outcome of a run that stopped after two of its three windows."""
    whole = outcome(**rest)
    part = whole.parts[0]
    ours, theirs = (replace(m, windows=m.windows.prefix(2)) for m in (part.measurement, part.reference))
    return replace(whole, parts=(replace(part, measurement=ours, reference=theirs),))


@pytest.mark.parametrize("there", [True, False], ids=["shorter than the baseline", "shorter than its budget"])
def test_a_run_that_stopped_early_is_refused_unless_that_is_wanted(suite, there):  # noqa: F811
    """A baseline holds the whole budget; the message says how to get that."""
    if there:
        suite.write("test_a/test_a", BEFORE)
    file = document(suite, cut_short(factor=1.012))
    out = suite.tenpak("accept", file, "--reason", "x")
    assert "refused: " in out
    assert "--tenpak-update=failing (in CI too) or --tenpak-fixed" in out
    assert "accept fewer with --fewer-windows" in out
    assert suite.code == 1
    assert "written" in suite.tenpak("accept", file, "--reason", "x", "--fewer-windows")
    assert len(entry_of(suite).tokens) == 2


def test_the_drift_limit_holds_here_too(suite):  # noqa: F811
    """Small steps accepted from CI add up as those of a run do."""
    suite.write("test_a/test_a", BEFORE)
    file = document(suite, outcome(factor=1.05))
    out = suite.tenpak("accept", file, "--reason", "x")
    assert "the drift since its anchor is past the drift limit, which needs --reanchor too" in out
    assert suite.code == 1


def test_another_identity_is_replaced(suite):  # noqa: F811
    """The recipe changed, the run said invalid; the anchor is its own."""
    old = replace(BEFORE, identity={**IDENTITY, "dtype": "float16"})
    suite.write("test_a/test_a", old)
    out = suite.tenpak("accept", document(suite, outcome()))
    assert "written: baseline replaced: its identity changed" in out
    assert entry_of(suite).identity["dtype"] == "float32"


def test_an_update_migrates_a_version_1_file(suite):  # noqa: F811
    """It is read as it is; what is written is version 2, with the figures that it replaced as they were."""
    old = DATA / "baseline-1.json"
    target = suite.folder / "test_a" / "test_a.json"
    target.parent.mkdir(parents=True)
    shutil.copy(old, target)
    before = json.loads(old.read_text(encoding="utf-8"))["entries"]["cpu"]["figures"]
    suite.tenpak("accept", document(suite, outcome()), "--reason", "another model")
    plain = json.loads(target.read_text(encoding="utf-8"))
    assert plain["schema_version"] == 2
    assert plain["entries"]["cpu"]["history"][0]["figures"] == {**before, "divergence": None}
    assert suite.tenpak("check") == "1 baseline, 0 faults\n"


def test_only_what_is_named_is_accepted(suite):  # noqa: F811
    """By the test's id; one that is not in the document is a usage error with the nearest."""
    file = document(suite, outcome("a.py::a", entry=None, name="a"), outcome("b.py::b", entry=None, name="b"))
    assert suite.tenpak("accept", file, "--only", "b.py::b").startswith("b.py::b: written")
    assert [path.name for path in suite.folder.rglob("*.json")] == ["b.json"]
    suite.tenpak("accept", file, "--only", "b.py::c")
    assert (suite.code, "did you mean" in suite.errors) == (4, True)


def test_shards_that_differ_about_one_entry_are_refused(suite):  # noqa: F811
    """Merged reports may hold two answers for the same device class: neither is picked."""
    one, other = (replace(outcome(factor=f, entry=None), shard=s) for f, s in ((1.0, "x"), (1.2, "y")))
    out = suite.tenpak("accept", document(suite, one, other))
    assert out.count("refused: the report has several outcomes of it") == 2
    assert suite.code == 1
    assert not suite.folder.exists()
    elsewhere = replace(other, device_class="cuda-sm90")
    assert suite.tenpak("accept", document(suite, one, elsewhere)).count("written") == 2


def test_no_document_writes_outside_the_folder(suite):  # noqa: F811
    """A name with '..' is refused."""
    asked = case(name="../../evil")
    told = replace(outcome(entry=None), case=asked)
    told = replace(told, parts=(replace(told.parts[0], name="../../evil"),))
    suite.tenpak("accept", document(suite, told))
    assert (suite.code, "is not below" in suite.errors) == (4, True)
    assert not list(suite.path.parent.rglob("evil.json"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--reason", " "), "accepting needs a reason"),
        (("--reanchor",), "--reanchor needs a reason"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(suite, arguments, said):  # noqa: F811
    """Said before anything is read."""
    suite.tenpak("accept", "none.json", *arguments)
    assert (suite.code, said in suite.errors) == (4, True)


def test_a_file_that_is_no_document_is_named(suite):  # noqa: F811
    """Missing, or something else."""
    suite.tenpak("accept", "none.json")
    assert (suite.code, "the report none.json cannot be read" in suite.errors) == (4, True)
