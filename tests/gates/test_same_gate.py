"""One gate, one answer: neither repetitions nor tests of equal ids get the answer of another question."""

import pytest
from made_up import better, rewrite

TEST = """
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.quantize(method="fp16")
def test_it(n):
    pass
"""
REPEATED = {"repeat": ("--count=2",), "flakefinder": ("--flake-finder", "--flake-runs=2", "-n", "2")}


@pytest.mark.parametrize("plugin", ["repeat", pytest.param("flakefinder", marks=pytest.mark.slow)])
def test_a_repeated_gate_is_compared_with_its_own_baseline(project, plugin):
    """pytest-repeat and pytest-flakefinder: one measurement and one baseline, and a worse recipe is red each time."""
    project.others = {plugin}
    project.test(TEST)
    first = project.run(*REPEATED[plugin], "--tenpak-update=all")
    first.assert_outcomes(passed=4)
    first.stdout.fnmatch_lines(["2 gates expected, 2 ran"])
    assert project.baselines == ["test_gate/test_it--1.json", "test_gate/test_it--2.json"]
    plain = project.run()
    plain.assert_outcomes(passed=2)
    path = project.path / "baselines" / "test_gate" / "test_it--2.json"
    rewrite(path, lambda entry: better(entry, 1.3))
    project.run().assert_outcomes(passed=1, failed=1)
    again = project.run(*REPEATED[plugin])
    again.assert_outcomes(passed=2, failed=2)
    again.stdout.fnmatch_lines(["test_gate.py::test_it[[]2[]] * regressed*"])
    assert "unused" not in again.stdout.str()


@pytest.mark.slow
def test_a_repetition_updates_a_baseline_once(project):
    """Its history has one replaced entry, however often the test ran."""
    project.others = {"repeat"}
    project.test("@pytest.mark.quantize(method='fp16')\ndef test_it(): pass\n")
    project.run().assert_outcomes(passed=1)
    path = project.path / "baselines" / "test_gate" / "test_it.json"
    rewrite(path, lambda entry: better(entry, 1.3))
    project.run("--count=3", "--tenpak-update=failing", "--tenpak-accept=why").assert_outcomes(passed=3)
    assert path.read_text().count('"reason": "why"') == 1


@pytest.fixture
def site(tmp_path):
    """A folder outside the rootdir, with two packages whose tests have one id; the limit of one cannot be met."""
    for name, limit in (("pkg_a", 100.0), ("pkg_b", -0.9)):
        folder = tmp_path / name / "tests"
        folder.mkdir(parents=True)
        for package in (folder, folder.parent):
            (package / "__init__.py").touch()
        (folder / "test_gate.py").write_text(
            "import pytest\n"
            f"@pytest.mark.quantize(method='fp16', max_ppl_delta={limit})\n"
            "def test_gate(): pass\n"
        )
    return tmp_path


@pytest.mark.parametrize("way", ["--pyargs", "paths"])
def test_two_gates_of_one_id_are_a_usage_error(project, site, monkeypatch, distributed_at_length, way):
    """The second would be handed the first one's answer, and its own limit would never be looked at."""
    monkeypatch.setenv("PYTHONPATH", str(site))
    tests = [str(site / name / "tests" / "test_gate.py") for name in ("pkg_a", "pkg_b")]
    if way == "--pyargs":
        tests = ["pkg_a.tests", "pkg_b.tests"]
    options = [
        *distributed_at_length,
        f"--rootdir={project.path}",
        "-c",
        "tox.ini",
        *(["--pyargs"] if way == "--pyargs" else []),
    ]
    result = project.run(*options, *tests)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "*test_gate*: two gates have the same id, and would share one baseline",
            "*given: *pkg_a* and *pkg_b*",
        ]
    )
    project.run(*options, tests[1]).assert_outcomes(failed=1)


def test_the_same_file_given_twice_is_one_gate(project):
    """Not two of one id."""
    project.test("@pytest.mark.quantize(method='fp16')\ndef test_it(): pass\n")
    project.run("test_gate.py", "test_gate.py::test_it").assert_outcomes(passed=1)


@pytest.mark.parametrize("kind", ["link", "pointer"])
def test_a_baseline_that_was_not_fetched_is_not_written_over(project, kind):
    """A link to nowhere, or what git-lfs leaves until it pulls: an error, and the file stays."""
    project.test("@pytest.mark.quantize(method='fp16')\ndef test_it(): pass\n")
    path = project.path / "baselines" / "test_gate" / "test_it.json"
    path.parent.mkdir(parents=True)
    if kind == "link":
        path.symlink_to("elsewhere.json")
        said = "*is a link to a file that does not exist*"
    else:
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        said = "*is a pointer of git-lfs, not the file itself*"
    for args in ((), ("--tenpak-update=all", "--tenpak-accept=why")):
        result = project.run(*args)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines([said])
    assert path.is_symlink() == (kind == "link")
    assert not (path.parent / "elsewhere.json").exists()
    if kind == "pointer":
        assert path.read_text().startswith("version ")
