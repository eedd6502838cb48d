"""Jobs on machines that share no file system with pytest: what they need travels through a store."""

import json
import re
import shutil
from pathlib import Path

import pytest
from elsewhere import BUCKET, GATES, METHODS, keys
from s3 import SECRETS


def outcomes(path: Path) -> dict:
    """The outcomes of a JSON report, by the gates' ids."""
    return {one["case"]["nodeid"]: one for one in json.loads(path.read_text())["outcomes"]}


def same(ours: dict, theirs: dict) -> None:
    """Figure by figure, and check by check."""
    assert ours.keys() == theirs.keys()
    for nodeid, one in ours.items():
        assert one["verdict"] == theirs[nodeid]["verdict"]
        for left, right in zip(one["parts"], theirs[nodeid]["parts"], strict=True):
            assert left["measurement"]["windows"] == right["measurement"]["windows"]


@pytest.mark.slow
def test_machines_that_share_nothing_with_pytest_do_its_jobs(project, hide, s3, tmp_path, monkeypatch):
    """Model, texts and the conftest's method get there and checkpoints come back; outcomes are those of here.

    What a job says of its files names them as they are called here. No message stays, no key is shown, and a
    machine with an empty cache finds everything in the store.
    """
    node = tmp_path / "node"
    monkeypatch.setenv("TENPAK_CACHE_DIR", str(node))
    cache = tmp_path / "cache"
    cache.mkdir()
    project.pytester.makeconftest(METHODS)
    project.test(GATES)
    project.ini(**{**project.settings, "cache_dir": cache, "store": f"s3://{BUCKET}/gates"})
    folders = f"{cache} {project.path} {Path(project.settings['model']).parent}"
    remote = (
        "--tenpak-executor=command",
        f"--tenpak-command={hide} {folders} -- {{argv}}",
        "--tenpak-transport=store",
        "--tenpak-jobs=2",
    )
    result = project.run(*remote, "--tenpak-json=remote.json", "--tenpak-baseline-dir=remote")
    result.assert_outcomes(passed=2, failed=1)
    printed = result.stdout.str() + result.stderr.str()
    assert f"no config.json of mine in {project.settings['model']}" in printed
    assert not any(secret in printed for secret in SECRETS.values())
    assert not [key for key in keys(s3) if "/jobs/" in key]
    assert not list((cache / "jobs").iterdir())
    (log,) = (node / "jobs").iterdir()  # of the job that failed, as its error says
    assert str(log) in printed

    local = project.run(
        "--tenpak-store=",
        f"--tenpak-cache-dir={tmp_path / 'other'}",
        "--tenpak-json=local.json",
        "--tenpak-baseline-dir=local",
    )
    local.assert_outcomes(passed=2, failed=1)
    theirs, ours = (outcomes(project.path / f"{name}.json") for name in ("remote", "local"))
    for found in (theirs, ours):
        found.pop(next(nodeid for nodeid in found if "broken" in nodeid))
    same(ours, theirs)

    again = project.run(f"--tenpak-cache-dir={tmp_path / 'third'}", "-k", "int4 or asks", "-rA")
    again.assert_outcomes(passed=2)
    assert not re.search(r"tenpak: (quantizing|measuring)", again.stdout.str() + again.stderr.str())


@pytest.mark.slow
def test_a_model_of_the_hub_is_each_machines_own(project, hide, tmp_path, monkeypatch):
    """Where machines share the cache and not the hub's: the same commit, and the same figures."""
    commit = "0123456789" * 4
    for owner in ("here", "there"):
        repository = tmp_path / owner / "hub" / "models--tenpak--tiny"
        shutil.copytree(project.model, repository / "snapshots" / commit)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "here"))
    project.ini(**{**project.settings, "model": "tenpak/tiny", "cache_dir": tmp_path / "cache"})
    project.test("@pytest.mark.quantize(method='int4', max_tokens=640)\ndef test_it(quantized): pass")

    def run(owner, *arguments):
        command = f"{hide} {tmp_path / 'here'} -- env HF_HOME={tmp_path / owner} {{argv}}"
        return project.run("--tenpak-executor=command", f"--tenpak-command={command}", *arguments)

    run("there", "--tenpak-json=remote.json", "--tenpak-baseline-dir=remote").assert_outcomes(passed=1)
    nobody = run("nowhere", f"--tenpak-cache-dir={tmp_path / 'second'}")
    nobody.assert_outcomes(failed=1)
    nobody.stdout.fnmatch_lines([f"*there is no model 'tenpak/tiny@{commit}', neither*", "*on *"])
    local = f"--tenpak-cache-dir={tmp_path / 'third'}", "--tenpak-json=local.json"
    project.run(*local, "--tenpak-baseline-dir=local").assert_outcomes(passed=1)
    same(*(outcomes(project.path / f"{name}.json") for name in ("local", "remote")))


def test_a_machine_without_keys_to_the_store_is_an_error_and_no_endless_wait(project, s3, tmp_path):
    """What it says names the machine and the store."""
    project.test("@pytest.mark.quantize(method='int4', max_tokens=640)\ndef test_it(quantized): pass")
    project.ini(**{**project.settings, "cache_dir": tmp_path / "cache", "store": f"s3://{BUCKET}/gates"})
    unset = " ".join(f"-u {name}" for name in SECRETS)
    result = project.run(
        "--tenpak-executor=command",
        f"--tenpak-command=env {unset} AWS_EC2_METADATA_DISABLED=true HOME=/nowhere {{argv}}",
        "--tenpak-transport=store",
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "*before the job had begun: on *, the store through which jobs travel cannot be read: "
            f"s3://{BUCKET}/gates: no credentials were found*"
        ]
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--tenpak-transport=store",), "*--tenpak-transport has no effect without --tenpak-executor*"),
        (("--tenpak-executor=ray", "--tenpak-transport=store"), "*given: *without a store*"),
        (
            (
                "--tenpak-executor=ray",
                "--tenpak-transport=store",
                "--tenpak-store=file:///tmp",
                "--tenpak-store-mode=read",
            ),
            "*given: *with --tenpak-store-mode=read*",
        ),
        (
            ("--tenpak-executor=ray", "--tenpak-transport=store", "--tenpak-store=s3://me:hunter2@b/c"),
            "*store whose URL has a password*",
        ),
        (("--tenpak-executor=ray", "--tenpak-transport=pigeon"), "*pigeon*"),
    ],
)
def test_a_transport_that_cannot_be_is_a_usage_error(project, arguments, line):
    """Before anything else, and without the password that a URL had."""
    project.test(GATES)
    result = project.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([line])
    assert "hunter2" not in result.stderr.str() + result.stdout.str()
