"""Two machines and one store: a bucket on moto's server, which speaks S3, and a folder where that is enough."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from s3 import SECRETS, client, environment, free_port, s3_server

GATE = "@pytest.mark.quantize(method='nf4', max_ppl_delta=0.5, max_tokens=600)\ndef test_nf4(): pass\n"
BUCKET = "tenpak"
MADE = re.compile(r"tenpak: (quantizing|measuring|converting)")
FETCHED = re.compile(r"tenpak: fetching (checkpoint|trace|model)")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The endpoint of moto's server, with a log of requests."""
    log = tmp_path_factory.mktemp("s3") / "requests.log"
    with s3_server(log) as endpoint:
        yield endpoint, log


@pytest.fixture
def bucket(server, monkeypatch):
    """An empty bucket, and an environment with the keys to it."""
    endpoint, _ = server
    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)
    s3 = client(endpoint)
    s3.create_bucket(Bucket=BUCKET)
    yield s3
    for key in keys(s3):
        s3.delete_object(Bucket=BUCKET, Key=key)
    s3.delete_bucket(Bucket=BUCKET)


def keys(s3) -> set[str]:
    """All keys, however many pages they take."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return {row["Key"] for page in pages for row in page.get("Contents", [])}


class Suite:
    """A project that runs as several machines, each with a cache folder of its own.

    That of machine ``one`` is the session's: what it has, it need not make to have it pushed.
    """

    def __init__(self, project, store: str) -> None:
        self.project = project
        self.store = store
        project.test(GATE)
        self.before = dict(project.settings)

    def cache(self, machine: str) -> Path:
        """The cache folder of a machine."""
        return self.before["cache_dir"] if machine == "one" else self.project.path / machine

    def run(self, machine: str, *args: str):
        """Run the gate as a machine; return what it printed, and its outcome as the report has it.

        Without a baseline, which would make another question of it.
        """
        shutil.rmtree(self.project.path / "baselines", ignore_errors=True)
        given = {"store": self.store} if self.store else {}
        self.project.ini(**{**self.before, "cache_dir": self.cache(machine), **given})
        report = self.project.path / f"{machine}.json"
        result = self.project.run(f"--tenpak-json={report}", *args)
        [outcome] = json.loads(report.read_text())["outcomes"]
        return result, outcome


def told(outcome) -> dict:
    """What must be equal on every machine."""
    return {name: outcome[name] for name in ("verdict", "figures", "parts")}


def test_the_second_machine_makes_nothing_and_says_the_same(project, bucket):
    """Checkpoint and windows come from the bucket: no process is started, and every figure is equal."""
    suite = Suite(project, f"s3://{BUCKET}/ci")
    first, one = suite.run("one")
    first.assert_outcomes(passed=1)
    second, two = suite.run("two")
    second.assert_outcomes(passed=1)
    assert MADE.findall(second.stdout.str()) == []
    assert len(FETCHED.findall(second.stdout.str())) >= 3
    assert told(one) == told(two)
    assert one["store"] == {"url": f"s3://{BUCKET}/ci", "fetched": {}, "faults": []}
    assert two["store"]["fetched"]["checkpoints"] == 1
    second.stdout.fnmatch_lines(["*from the store s3://tenpak/ci: 1 checkpoint, 2 traces"])
    assert not (project.path / "two" / "jobs").exists()


def test_no_credentials_are_shown_anywhere(project, bucket):
    """Not at the most talkative: logs of every library, all reports, all variables of failures."""
    suite_of_two = f"import logging\nlogging.getLogger('botocore').setLevel(1)\n{GATE}    assert 0\n"
    project.test(suite_of_two.replace(": pass\n", ":\n"), "test_b")
    suite = Suite(project, f"s3://{BUCKET}/ci?sig=hunter2")
    reports = [f"--tenpak-{name}=report.{name}" for name in ("md", "html")]
    loud = [
        "-vv",
        "-rA",
        "-l",
        "--log-level=DEBUG",
        "--log-file=log.txt",
        "--log-file-level=DEBUG",
        "--tb=long",
    ]
    suite.project.ini(**{**suite.before, "cache_dir": suite.cache("one"), "store": suite.store})
    result = project.run("--junitxml=junit.xml", "--tenpak-json=out.json", *reports, *loud)
    result.assert_outcomes(passed=1, failed=1)
    written = [path for path in project.path.rglob("*") if path.is_file() and path.name != "tox.ini"]
    texts = [path.read_bytes().decode(errors="replace") for path in written]
    for text in (result.stdout.str(), result.stderr.str(), *texts):
        assert [name for name in SECRETS.values() if name in text] == []
    assert (
        "hunter2" not in result.stdout.str() + result.stderr.str() + (project.path / "out.json").read_text()
    )


@pytest.mark.slow
def test_a_flipped_byte_in_the_bucket_is_refused_and_made_anew(project, bucket):
    """Of the checkpoint's weights: which entry of which store is said, the verdict is that of an empty cache."""
    suite = Suite(project, f"s3://{BUCKET}")
    _, one = suite.run("one")
    sizes = {
        row["Key"]: row["Size"]
        for row in bucket.list_objects_v2(Bucket=BUCKET, Prefix="checkpoints/")["Contents"]
    }
    weights = max(sizes, key=sizes.__getitem__)
    content = bytearray(bucket.get_object(Bucket=BUCKET, Key=weights)["Body"].read())
    content[len(content) // 2] ^= 1
    bucket.put_object(Bucket=BUCKET, Key=weights, Body=bytes(content))
    result, two = suite.run("two")
    result.assert_outcomes(passed=1)
    assert "quantizing" in MADE.findall(result.stdout.str())
    (fault,) = two["store"]["faults"]
    entry = weights.rpartition("/")[0]
    assert f"the store s3://{BUCKET}: {entry} was refused and is made anew and replaced there" in fault
    result.stdout.fnmatch_lines(["*was refused and is made anew*"])
    assert two["figures"]["perplexity"] == one["figures"]["perplexity"]
    _, three = suite.run("three")
    assert three["store"]["faults"] == []
    assert three["store"]["fetched"]["checkpoints"] == 1


@pytest.mark.slow
def test_an_upload_cut_in_the_middle_leaves_nothing_that_looks_whole(project, bucket, server):
    """kill -9 of the machine that pushes, after some objects: the next one makes the checkpoint itself."""
    suite = Suite(project, f"s3://{BUCKET}")
    suite.store = ""
    suite.run("one")
    cut = """
import os, sys
from pathlib import Path
from pytest_tenpak.machines import shared_store
from pytest_tenpak.store.store import Store
remote = shared_store.open_remote(sys.argv[2])
files = remote._objects._files
put, left = files.put_file, int(sys.argv[3])
def put_some(*args):
    global left
    if not left: os.kill(os.getpid(), 9)
    left -= 1
    put(*args)
files.put_file = put_some
list(shared_store.push_entries(Store(Path(sys.argv[1]), remote=remote), ["checkpoints"]))
"""
    suite.store = f"s3://{BUCKET}"
    command = [sys.executable, "-c", cut, str(suite.cache("one")), suite.store, "3"]
    assert subprocess.run(command, check=False).returncode == -9
    assert len(keys(bucket)) == 3
    assert not [key for key in keys(bucket) if "manifest" in key]
    result, two = suite.run("two")
    result.assert_outcomes(passed=1)
    assert "quantizing" in MADE.findall(result.stdout.str())
    assert two["store"]["faults"] == []
    _, three = suite.run("three")
    assert three["store"]["fetched"]["checkpoints"] == 1


def test_reading_writes_nothing(project, bucket, server):
    """The mode that forks get: no request but reads, from an empty bucket and from a full one."""
    suite = Suite(project, f"s3://{BUCKET}")
    log = server[1]
    start = len(log.read_text())
    suite.run("one", "--tenpak-store-mode=read")[0].assert_outcomes(passed=1)
    assert keys(bucket) == set()
    suite.run("one")
    before = keys(bucket)
    start = len(log.read_text())
    result, two = suite.run("two", "--tenpak-store-mode=read")
    assert MADE.findall(result.stdout.str()) == []
    assert two["store"]["fetched"]["checkpoints"] == 1
    assert keys(bucket) == before
    assert set(re.findall(r'"([A-Z]+) /', log.read_text()[start:])) <= {"GET", "HEAD"}


@pytest.mark.parametrize(
    "trouble",
    [pytest.param("refuses connections", marks=pytest.mark.slow), "no such bucket"],
)
def test_a_store_that_cannot_be_used_is_a_warning(project, bucket, monkeypatch, trouble):
    """The gate is green by the local cache alone, also where the suite makes errors of warnings."""
    store = f"s3://{BUCKET}"
    if trouble == "no such bucket":
        store = "s3://another"
    else:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    result, outcome = Suite(project, store).run("one", "-W", "error")
    result.assert_outcomes(passed=1)
    (fault,) = outcome["store"]["faults"]
    assert fault.startswith(f"the store {store}: ")
    assert "the local cache goes on alone" in fault
    result.stdout.fnmatch_lines(["*the local cache goes on alone*"])


@pytest.mark.slow
def test_entries_are_pushed_listed_and_pulled_by_hand(project, bucket):
    """What a machine without the option made; a second push and pull move nothing."""
    suite = Suite(project, "")  # not on machine one, to whose cache other tests add meanwhile
    _, one = suite.run("first")
    url = f"s3://{BUCKET}/x"

    def tenpak(machine: str, *args: str) -> str:
        suite.project.ini(**{**suite.before, "cache_dir": suite.cache(machine)})
        command = [sys.executable, "-m", "pytest_tenpak", "cache", *args, "--store", url]
        ran = subprocess.run(command, cwd=project.path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    assert " pushed" in tenpak("first", "push")
    assert "\n0 entries pushed" in tenpak("first", "push")
    listing = tenpak("first", "list")
    entries = re.findall(r"^(?:checkpoints|traces|models)/[0-9a-f]{32} ", listing, re.M)
    assert len(entries) >= 3
    checkpoint = next(entry.strip() for entry in entries if entry.startswith("checkpoints"))
    assert "1 entry fetched" in tenpak("two", "pull", checkpoint[:20])
    assert f"{len(entries) - 1} entries fetched" in tenpak("two", "pull")
    result, two = suite.run("two")
    assert MADE.findall(result.stdout.str()) == []
    assert told(one) == told(two)


# ---------------------------------------------------------------- a folder is enough


def test_xdist_and_a_folder_of_a_network_mount(project, tmp_path, distributed_at_length):
    """Workers share the store too; a second machine makes nothing."""
    suite = Suite(project, f"file://{tmp_path}/mount")
    _, one = suite.run("one", *distributed_at_length)
    _, two = suite.run("two", *distributed_at_length)
    assert two["store"]["fetched"]["checkpoints"] == 1
    assert two["store"]["faults"] == []
    assert not (project.path / "two" / "jobs").exists()
    assert told(one)["parts"] == told(two)["parts"]


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ("nosuch://user:hunter2@bucket", "the store's URL cannot be used"),
        ("s3://", "names no bucket or folder"),
        ("gs://bucket", "pip install 'pytest-tenpak[[]store[]]' gcsfs"),
        ("s3:/bucket/prefix", "no folder by its whole path"),
        ("our/folder", "no folder by its whole path"),
        ("file://our/folder", "no folder by its whole path"),
        (" ", "no folder by its whole path"),
        ("memory://ours", "memory of one process"),
    ],
)
def test_a_store_that_cannot_be_opened_ends_the_run_at_once(project, store, words):
    """A mistake of who wrote the option: no URL, an unknown scheme, no bucket, a library not installed.

    With where to correct it, and no folder made for what looked like a URL.
    """
    project.test(GATE)
    result = project.run(f"--tenpak-store={store}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --tenpak-store: *", "*what to do: *"])
    result.stderr.fnmatch_lines([f"*{words}*"])
    assert "hunter2" not in result.stderr.str() + result.stdout.str()
    assert not {"s3:", "our", "file:", " "} & {path.name for path in project.path.iterdir()}


def test_without_the_option_nothing_of_it_is_imported(project, tmp_path: Path):
    """Neither fsspec nor a library behind it, in a run with gates."""
    project.test(GATE)
    project.run().assert_outcomes(passed=1)
    code = """
import sys, pytest
code = pytest.main(["-q", "-p", "no:randomly"])
print(sorted({"fsspec", "s3fs", "boto3", "botocore", "aiohttp"} & {*sys.modules}), int(code))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=project.path, capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines()[-1] == "[] 0"
