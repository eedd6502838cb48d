"""The shell steps of the action and the workflows, run with real commands in temporary workspaces.

What is outside is not tested: ``gh`` only writes down its arguments, ``origin`` is a bare repository in a
temporary folder, and the steps that install packages are left out, since tests ask no index for anything.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from actions import ACTION, WORKFLOWS, Runner, named, read
from projects import LEAN

from pytest_tenpak.reports.markdown import COMMENT_MARKER

SECRET = "never-shown"


@pytest.fixture
def runner(tmp_path_factory, pytester):
    """A runner whose workspace is that of the fixture ``project``, and whose python is this one."""
    temp = tmp_path_factory.mktemp("runner")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(temp),
        "PYTEST_ADDOPTS": " ".join(LEAN),
    }
    return Runner(pytester.path, temp, environment)


@pytest.fixture
def act(runner):
    """Run the action's gates with these inputs; gives the step's process and outputs."""
    step = named(ACTION, "Run the gates")
    defaults = {name: given["default"] for name, given in read(ACTION)["inputs"].items()}

    def run(**inputs):
        given = {f"inputs.{name}": value for name, value in {**defaults, **inputs}.items()}
        return runner.run(step, given), runner.outputs

    return run


GATES = """
@pytest.mark.quantize(method="nf4")
@pytest.mark.quantize(method="fp16")
def test_it(): pass
"""


def titles(workspace, folder="tenpak-report"):
    outcomes = json.loads((workspace / folder / "outcomes.json").read_text(encoding="utf-8"))["outcomes"]
    return {outcome["case"]["nodeid"] if "case" in outcome else outcome["nodeid"] for outcome in outcomes}


def test_the_action_goes_red_without_a_baseline_green_with_one_and_red_again(act, project, runner):
    """What the job's code, outputs, summary and reports say is what the gates said, each time anew."""
    project.test(GATES)
    ran, outputs = act(methods="fp16")
    assert (ran.returncode, outputs["outcome"]) == (1, "failed")
    assert project.baselines == []

    ran, outputs = act(methods="nf4", update="new", report="elsewhere")
    assert (ran.returncode, outputs["outcome"]) == (0, "passed"), ran.stdout
    assert outputs == {"outcome": "passed", "report": "elsewhere", "json": "elsewhere/outcomes.json"}
    assert project.baselines == ["test_gate/test_it--nf4.json"]
    assert "nf4" in runner.written("GITHUB_STEP_SUMMARY")

    ran, outputs = act(tests="test_gate.py::test_it[nf4]\n")
    assert (ran.returncode, outputs["outcome"]) == (0, "passed"), ran.stdout
    assert titles(project.path) == {"test_gate.py::test_it[nf4]"}
    reports = sorted(path.name for path in (project.path / "tenpak-report").iterdir())
    assert reports == ["comment.md", "outcomes.json", "report.html", "report.md"]

    project.test(GATES.replace('"nf4"', '"nf4", min_compression=9'))
    ran, outputs = act(methods="nf4")
    assert (ran.returncode, outputs["outcome"]) == (1, "failed")
    assert (project.path / "tenpak-report" / "report.md").stat().st_size


@pytest.mark.parametrize("body", ["def test_plain(): pass\n", "def test_wrong(: pass\n", ""])
def test_the_action_is_red_where_no_gate_ran(act, project, runner, body):
    """Plain tests that pass, a file that cannot be read, nothing at all: no answer is no pass, and is told."""
    (project.path / "test_gate.py").write_text(body, encoding="utf-8")
    ran, outputs = act()
    assert ran.returncode != 0
    assert outputs["outcome"] == "failed"
    assert "::error::no gate ran" in ran.stdout
    assert "No gate ran" in runner.written("GITHUB_STEP_SUMMARY")


SHOW = """
def pytest_report_header(config):
    return [repr(config.getoption("tenpak_accept")), repr(config.getoption("tenpak_update")), repr(config.args)]
"""
HOSTILE = """it's "fine"; touch hacked $(touch hacked) `touch hacked` && touch hacked #"""


def test_inputs_are_no_commands(act, project):
    """Quotes, semicolons and substitutions arrive at pytest as they are, each input as one argument."""
    (project.path / "conftest.py").write_text(SHOW, encoding="utf-8")
    ran, _ = act(reason=HOSTILE, update="failing", tests=HOSTILE, arguments="-v\n--tenpak-max-tokens=64\n")
    assert f"{HOSTILE!r}\n'failing'\n" in ran.stdout
    assert f"file or directory not found: {HOSTILE}" in ran.stderr
    for name in ("methods", "report", "update"):
        act(**{name: HOSTILE, "tests": "."})
    assert not (project.path / "hacked").exists()


def test_an_option_among_the_tests_is_refused(act, project):
    """Whoever may name tests may not switch the gates off by it."""
    project.test(GATES)
    ran, _ = act(tests="--tenpak-unavailable=skip\n.")
    assert ran.returncode == 1
    assert "::error::tests: --tenpak-unavailable=skip is an option" in ran.stdout
    assert not (project.path / "tenpak-report").exists()


def test_the_hub_is_asked_for_nothing_that_is_cached(runner):
    """The step that follows an exact hit, and only that, sends the later ones offline."""
    step = named(WORKFLOWS["gate"], "Ask the hub for nothing that the cache has", "gates")
    assert step["if"] == "steps.hub.outputs.cache-hit == 'true'"
    assert runner.run(step, {}).returncode == 0
    assert runner.written("GITHUB_ENV") == "HF_HUB_OFFLINE=1\n"


@pytest.mark.slow
def test_shards_are_merged_into_one_verdict(act, project, runner):
    """Green where every job and every gate was; red through a gate, and red through a job that left nothing."""
    project.test(GATES)
    for method in ("nf4", "fp16"):
        act(methods=method, update="new", report=f"shards/gate-{method}")
    merge = named(WORKFLOWS["gate"], "Merge the reports", "verdict")

    ran = runner.run(merge, {"needs.gates.result": "success"})
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert titles(project.path, "report") == {"test_gate.py::test_it[nf4]", "test_gate.py::test_it[fp16]"}
    assert "nf4" in (project.path / "report" / "comment.md").read_text(encoding="utf-8")

    ran = runner.run(merge, {"needs.gates.result": "failure"})
    assert ran.returncode == 1
    assert "::error::the jobs of the matrix ended with: failure" in ran.stdout

    project.test(GATES.replace('"nf4"', '"nf4", min_compression=9'))
    act(methods="nf4", report="shards/gate-nf4")
    assert runner.run(merge, {"needs.gates.result": "success"}).returncode == 1
    assert (project.path / "report" / "report.html").is_file()


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        ("", ["pr", "comment", "12", "--body-file", "report/comment.md"]),
        (
            r"34\n56\n",
            [
                *("api", "--method", "PATCH", "repos/owner/name/issues/comments/56"),
                "--field",
                "body=@report/comment.md",
            ],
        ),
    ],
    ids=["first", "again"],
)
def test_the_comment_is_the_merged_reports(runner, known, asked):
    """One comment, which later runs rewrite: the one with its marker, not whatever the bot wrote last."""
    arguments = runner.record("gh", known)
    step = named(WORKFLOWS["gate"], "Comment on the pull request", "comment")
    names = {
        "github.token": SECRET,
        "github.repository": "owner/name",
        "github.event.pull_request.number": "12",
    }
    assert runner.run(step, names).returncode == 0
    told = arguments.read_text().splitlines()
    assert told[:3] == ["api", "--paginate", "repos/owner/name/issues/12/comments"]
    assert COMMENT_MARKER in told[4]
    assert told[5:] == asked


def git(*arguments, cwd):
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.invalid", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def clone(runner):
    """The workspace as a clone whose origin is a bare repository; gives that one's path."""
    workspace, origin = runner.workspace, runner.temp / "origin.git"
    git("init", "--quiet", "--bare", str(origin), cwd=runner.temp)
    git("init", "--quiet", "--initial-branch=main", cwd=workspace)
    git("remote", "add", "origin", str(origin), cwd=workspace)
    (workspace / "baselines").mkdir()
    (workspace / "baselines" / "old.json").write_text("1\n")
    git("add", "--all", cwd=workspace)
    git("commit", "--quiet", "--message=one", cwd=workspace)
    git("push", "--quiet", "origin", "main", cwd=workspace)
    return origin


@pytest.fixture
def propose(runner):
    """Run the step that opens a pull request for what stands in the runner's ``proposal`` folder."""
    step = named(WORKFLOWS["update-baselines"], "Open a pull request", "pull-request")
    names = {
        "github.token": SECRET,
        "github.ref_name": "main",
        "runner.temp": str(runner.temp),
        "inputs.ref": "",
        "inputs.update": "failing",
    }

    def run(reason="", commit=None):
        measured = commit or git("rev-parse", "HEAD", cwd=runner.workspace).strip()
        return runner.run(step, {**names, "inputs.reason": reason, "needs.measure.outputs.commit": measured})

    return run


def test_new_baselines_become_a_pull_request(runner, clone, propose):
    """A branch with the JSON files below baselines and nothing else of what was uploaded, the table as its text."""
    arguments = runner.record("gh")
    proposal = runner.temp / "proposal"
    (proposal / "baselines" / "a folder").mkdir(parents=True)
    (proposal / ".github" / "workflows").mkdir(parents=True)
    (proposal / "baselines" / "old.json").write_text("2\n")
    (proposal / "baselines" / "a folder" / "new.json").write_text("3\n")
    (proposal / "baselines" / "conftest.py").write_text("raise SystemExit\n")
    (proposal / "baselines" / "link.json").symlink_to("/etc/passwd")
    (proposal / ".github" / "workflows" / "ci.yml").write_text("on: push\n")
    (proposal / "diff.md").write_text("| gate |\n" + "x" * 100_000)

    ran = propose(HOSTILE)
    assert ran.returncode == 0, ran.stderr
    branch = "update-baselines-7-1"
    assert git("diff", "--name-only", "main", branch, cwd=clone).splitlines() == (
        ["baselines/a folder/new.json", "baselines/old.json"]
    )
    assert HOSTILE in git("log", "-1", "--format=%B", branch, cwd=clone)
    assert arguments.read_text().splitlines() == [
        *("auth", "setup-git"),
        *("pr", "create", "--base", "main", "--head", branch, "--title", "Update baselines (failing)"),
        *("--body-file", str(runner.temp / "body.md")),
    ]
    body = (runner.temp / "body.md").read_text(encoding="utf-8")
    assert f"\nReason: {HOSTILE}\n\n| gate |\n" in body
    assert "https://github.com/owner/name/actions/runs/7" in body
    assert len(body) < 65_536
    assert not (runner.workspace / "hacked").exists()
    assert SECRET not in ran.stdout + ran.stderr + body


def test_a_link_in_the_branch_leads_nothing_out_of_the_folder(runner, clone, propose):
    """Else a baseline named like it would be written to where it points, such as git's own configuration."""
    arguments = runner.record("gh")
    (runner.workspace / "baselines" / "a.json").symlink_to("../.git/config")
    before = (runner.workspace / ".git" / "config").read_text()
    (runner.temp / "proposal" / "baselines").mkdir(parents=True)
    (runner.temp / "proposal" / "baselines" / "a.json").write_text("[core]\n\tfsmonitor = touch hacked\n")
    assert propose().returncode == 1
    assert (runner.workspace / ".git" / "config").read_text() == before
    assert not arguments.exists()


def test_a_branch_that_moved_on_is_not_what_was_measured(runner, clone, propose):
    """And the machine that measured does not choose which commit the pull request starts from."""
    arguments = runner.record("gh")
    (runner.temp / "proposal" / "baselines").mkdir(parents=True)
    (runner.temp / "proposal" / "baselines" / "old.json").write_text("2\n")
    assert propose(commit="0" * 40).returncode == 1
    assert not arguments.exists()


def test_nothing_new_opens_no_pull_request(runner, clone, propose):
    """And is no failure: every baseline stands."""
    arguments = runner.record("gh")
    (runner.temp / "proposal" / "baselines").mkdir(parents=True)
    (runner.temp / "proposal" / "baselines" / "old.json").write_text("1\n")
    ran = propose()
    assert ran.returncode == 0
    assert "::notice::no baseline changed" in ran.stdout
    assert not arguments.exists()
    assert git("branch", "--format=%(refname:short)", cwd=clone).split() == ["main"]


def test_what_was_measured_is_laid_out_for_the_pull_request(act, project, runner, clone):
    """The baselines that the run wrote, their difference as a table, and the commit that was measured."""
    project.test(GATES)
    ran, _ = act(methods="nf4", update="new")
    assert ran.returncode == 0, ran.stdout
    step = named(WORKFLOWS["update-baselines"], "Lay out what is proposed", "measure")
    ran = runner.run(step, {})
    assert ran.returncode == 0, ran.stderr
    assert runner.outputs["commit"] == git("rev-parse", "HEAD", cwd=project.path).strip()
    assert (project.path / "proposal" / "baselines" / "test_gate" / "test_it--nf4.json").is_file()
    assert "test_it--nf4" in (project.path / "proposal" / "diff.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("tag", "built", "code"),
    [
        ("v1.2.0", "1.2.0", 0),
        ("1.2.0", "1.2.0", 0),
        ("v1.2.1", "1.2.0", 1),
        ("v1.2.0rc1", "1.2.0", 1),
        ("v1.2", "1.2.0", 1),
    ],
)
def test_a_release_is_of_the_version_that_its_tag_names(runner, tag, built, code):
    """Anything else ends before it is tested, let alone published."""
    (runner.workspace / "dist").mkdir()
    for name in (f"pytest_tenpak-{built}.tar.gz", f"pytest_tenpak-{built}-py3-none-any.whl"):
        (runner.workspace / "dist" / name).touch()
    step = named(WORKFLOWS["release"], "Hold the version against the tag", "build")
    ran = runner.run(step, {"github.event.release.tag_name": tag})
    assert ran.returncode == code
    assert ("::error::the tag" in ran.stdout) == bool(code)
