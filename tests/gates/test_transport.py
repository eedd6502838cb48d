"""Jobs on machines that share no file system with pytest: what they need travels through a store."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from projects import LEAN, ONE_THREAD
from s3 import SECRETS, client, environment, free_port, s3_server, wait_for_port

BUCKET = "tenpak"
GATES = """
    @pytest.mark.quantize(method="int4", group_size=32, max_tokens=640)
    def test_int4(quantized): pass

    @pytest.mark.quantize(method="copied", max_tokens=640)
    def test_asks(quantized):
        assert isinstance(quantized.generate("To be", max_new_tokens=2), str)

    @pytest.mark.quantize(method="broken", max_tokens=640)
    def test_broken(quantized): pass
"""

METHODS = """
import shutil
from pytest_tenpak import Quantizer

class Copied(Quantizer):
    method = "copied"
    def quantize(self, job):
        for path in job.model.iterdir():
            shutil.copy(path, job.out)

class Broken(Quantizer):
    method = "broken"
    def quantize(self, job):
        raise ValueError(f"no config.json of mine in {job.model}")

def pytest_tenpak_register_quantizers(register):
    register(Copied)
    register(Broken)
"""

#: Runs a command where the folders that come first, up to "--", are empty.
HIDING = """#!/bin/sh
hidden=""
while [ "$1" != "--" ]; do hidden="$hidden $1"; shift; done
shift
exec unshare --mount sh -c 'for folder in '"$hidden"'; do mount -t tmpfs tmpfs "$folder" || exit; done
    cd / && exec "$@"' sh "$@"
"""


@pytest.fixture(scope="module")
def hide(tmp_path_factory):
    """The words of a command line that hides folders from the command after ``--``."""
    script = tmp_path_factory.mktemp("hiding") / "hiding"
    script.write_text(HIDING)
    script.chmod(0o755)
    empty = tmp_path_factory.mktemp("empty")
    if subprocess.run([script, empty, "--", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting in a namespace is not permitted")
    return str(script)


@pytest.fixture
def s3(tmp_path, monkeypatch):
    """An empty bucket, and an environment with the keys to it."""
    with s3_server(tmp_path / "requests.log") as endpoint:
        for name, value in environment(endpoint).items():
            monkeypatch.setenv(name, value)
        bucket = client(endpoint)
        bucket.create_bucket(Bucket=BUCKET)
        yield bucket


def keys(s3) -> set[str]:
    return {row["Key"] for row in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])}


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


@pytest.mark.slow
def test_a_ray_cluster_that_sees_no_file_of_the_driver(
    project, cluster_utils, hide, s3, tmp_path, monkeypatch
):
    """The driver is a client, with cache, model and suite where no node looks; its gates pass all the same."""
    monkeypatch.setenv("TENPAK_CACHE_DIR", str(tmp_path / "node"))
    own = tmp_path / "own"
    own.mkdir()
    project.test(GATES)
    project.pytester.makeconftest(METHODS)
    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    port = free_port()
    head = {**node, "include_dashboard": False, "ray_client_server_port": port}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    try:
        wait_for_port(port)
        run = " ".join(
            (
                f"cp -r {project.settings['model']} {own}/model && cp -r {project.path} {own}/suite",
                f"&& cd {own}/suite && exec {sys.executable} -m pytest {' '.join(LEAN)} -k 'int4 or asks'",
                f"-o tenpak_model={own}/model -o tenpak_cache_dir={own}/cache --tenpak-executor=ray",
                f"--tenpak-ray-address=ray://127.0.0.1:{port} --tenpak-transport=store",
                f"--tenpak-store=s3://{BUCKET}/gates",
            )
        )
        ran = subprocess.run(
            [hide, str(own), "--", "sh", "-c", run],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **ONE_THREAD},
        )
    finally:
        cluster.shutdown()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout
    assert not [key for key in keys(s3) if "/jobs/" in key]


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
