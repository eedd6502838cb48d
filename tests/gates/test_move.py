"""`tenpak move`: a baseline follows its test, whole, and is never lost on the way."""

import json

import pytest
from collected import Suite
from made_up import accepted

from pytest_tenpak.baselines import move as moving
from pytest_tenpak.baselines.entry import Baseline
from pytest_tenpak.baselines.move import move
from pytest_tenpak.cli import main as cli
from pytest_tenpak.errors import BaselineError

OLD, NEW = "test_a.py::test_old", "test_b.py::TestMany::test_new[nf4-a=1]"


@pytest.fixture
def suite(pytester) -> Suite:
    """A folder with one baseline, whose figures were replaced once."""
    suite = Suite(pytester)
    entry = accepted().replacing(accepted(nll=(8.5, 9.5, 10.5)), "smaller kernels")
    Baseline(OLD, {"cpu": entry}).write(suite.path / "baselines/test_a/test_old.json")
    return suite


@pytest.fixture
def tenpak(suite, capsys):
    """The command, in this process: nothing is collected, and nothing of the suite imported."""

    def run(*args):
        code = cli.main(args)
        return code, *capsys.readouterr()

    return run


def read(suite: Suite, name: str) -> dict:
    return json.loads((suite.path / f"baselines/{name}.json").read_text())


@pytest.mark.parametrize(
    "old",
    [
        OLD,
        "test_a/test_old",
        "test_a/test_old.json",
        "baselines/test_a/test_old.json",
        "./baselines/test_a/test_old",
    ],
)
def test_every_way_to_name_it(suite, tenpak, old):
    """A test's id, a name, a path, with and without .json; all that it held is kept."""
    before = read(suite, "test_a/test_old")
    code, told, _ = tenpak("move", old, NEW)
    name = "test_b/TestMany.test_new--nf4-a=1"
    assert (code, told) == (0, f"moved baselines/test_a/test_old.json → baselines/{name}.json\n")
    assert suite.baselines == ["test_b", f"{name}.json"]
    assert read(suite, name) == {**before, "case": NEW}
    assert before["entries"]["cpu"]["history"][0]["reason"] == "smaller kernels"


def test_a_path_may_start_where_the_user_is(suite, tenpak, monkeypatch):
    """Below the rootdir, and with the folder's whole path."""
    folder = suite.path / "baselines/test_a"
    monkeypatch.chdir(folder)
    assert tenpak("move", "test_old.json", "test_new.json")[0] == 0
    assert suite.baselines == ["test_a", "test_a/test_new.json"]
    monkeypatch.chdir(suite.path)
    assert tenpak("move", f"{folder}/test_new.json", "mine/own")[0] == 0
    assert suite.baselines == ["mine", "mine/own.json"]


def test_a_name_keeps_the_case(suite, tenpak):
    """Only a test's id says which test it is."""
    assert tenpak("move", OLD, "mine")[0] == 0
    assert read(suite, "mine")["case"] == OLD


def test_further_texts_come_along(suite, tenpak):
    """``@TEXT`` files of it, and of no other with a longer name."""
    for name in ("test_a/test_old@two", "test_a/test_older@two"):
        suite.accept(OLD, name=name)
    assert tenpak("move", OLD, "test_a.py::test_new")[0] == 0
    assert [name for name in suite.baselines if name.endswith(".json")] == [
        "test_a/test_new.json",
        "test_a/test_new@two.json",
        "test_a/test_older@two.json",
    ]
    assert read(suite, "test_a/test_new@two")["case"] == "test_a.py::test_new"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("test_a/test_odl", NEW, ["there is no baseline 'test_a/test_odl'", "accepted:   test_a/test_old"]),
        (OLD, "test_a/test_old.json", ["cannot be moved to itself"]),
        (OLD, "taken", ["the baseline ", "already exists", "remove one of the two"]),
        (OLD, "../out", ["'../out' is not the name of a baseline", "accepted:"]),
        (OLD, "/out", ["'/out' is not the name of a baseline"]),
        (OLD, "baselines", ["'baselines' is not the name of a baseline"]),
        (OLD, ".hidden", ["'.hidden' is not the name of a baseline"]),
        (OLD, "file/new", ["cannot be moved to 'file/new'"]),
        ("broken", NEW, ["is not valid JSON"]),
    ],
)
def test_what_is_refused(suite, tenpak, old, new, said):
    """With what was given and what to do; nothing is touched."""
    Baseline("test_c.py::test_c", {}).write(suite.path / "baselines/taken.json")
    (suite.path / "baselines/broken.json").write_text("{")
    (suite.path / "baselines/file").write_text("")
    before = suite.baselines
    code, _, told = tenpak("move", old, new)
    assert code == 4
    assert all(text in told for text in said), told
    assert suite.baselines == before


def test_killed_at_any_moment_it_leaves_the_old_or_the_new_and_says_so(tmp_path, monkeypatch):
    """Stopped before each write and each removal, every text has a whole file, and the error says what to do."""

    class Killed(BaseException):
        pass

    for steps in range(4):
        folder = tmp_path / str(steps)
        for name in ("old", "old@two"):
            Baseline(OLD, {"cpu": accepted()}).write(folder / f"{name}.json")
        left = iter(range(steps))

        def counted(function, left=left):
            def step(*args):
                if next(left, None) is None:
                    raise Killed
                return function(*args)

            return step

        with monkeypatch.context() as patched:
            patched.setattr(Baseline, "write", counted(Baseline.write))
            patched.setattr(moving, "remove", counted(moving.remove))
            with pytest.raises(Killed):
                move(folder, "old", "new", NEW)
        names = {path.stem for path in folder.iterdir()}
        assert {"old", "new"} & names
        assert {"old@two", "new@two"} & names
        assert all(Baseline.read(path) for path in folder.iterdir())
        assert "old" in names
        if steps:
            with pytest.raises(BaselineError, match="already") as refused:
                move(folder, "old", "new", NEW)
            assert "interrupted" in str(refused.value)
