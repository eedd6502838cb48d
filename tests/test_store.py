"""The content-addressed store: made once, never half, found again only for the same question."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from pytest_tenpak.checkpoint import MANIFEST, Store


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "cache")


def make_one(folder):
    (folder / "weights").write_bytes(b"12345")
    return {"seconds": 1}


def test_a_directory_is_made_once_for_the_same_identity(store):
    """The second call finds it; another identity makes another."""
    first = store.directory("kind", {"a": 1}, make_one)
    again = store.directory("kind", {"a": 1}, lambda folder: pytest.fail("made twice"))
    assert first.fresh
    assert not again.fresh
    assert again.path == first.path
    assert again.facts == {"seconds": 1}
    assert store.directory("kind", {"a": 2}, make_one).path != first.path


@pytest.mark.parametrize("harm", ["shorten", "remove", "manifest"])
def test_an_entry_that_is_no_longer_whole_is_made_again(store, harm):
    """A file cut short, a file gone, or no manifest: it is not used."""
    path = store.directory("kind", {"a": 1}, make_one).path
    if harm == "shorten":
        (path / "weights").write_bytes(b"123")
    else:
        (path / ("weights" if harm == "remove" else MANIFEST)).unlink()
    again = store.directory("kind", {"a": 1}, make_one)
    assert again.fresh
    assert (again.path / "weights").read_bytes() == b"12345"


def test_a_failed_build_leaves_nothing(store):
    """What was begun is removed, and the next run starts anew."""

    def fail(folder):
        make_one(folder)
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError):
        store.directory("kind", {"a": 1}, fail)
    assert list((store.root / "kind").iterdir()) == []


SLOW_MAKER = """
import sys, time
from pathlib import Path
from pytest_tenpak.checkpoint import Store
def make(folder):
    (folder / "weights").write_bytes(b"12")
    with open(sys.argv[2], "a") as log: log.write("made\\n")
    time.sleep(float(sys.argv[3]))
    (folder / "weights").write_bytes(b"12345")
    return {"seconds": 1}
print(Store(Path(sys.argv[1])).directory("kind", {"a": 1}, make).path)
"""


def start(store, log, seconds):
    command = [sys.executable, "-c", SLOW_MAKER, str(store.root), str(log), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_runs_at_once_make_one(store, tmp_path):
    """The second waits for the first and uses what it made."""
    log = tmp_path / "log"
    runs = [start(store, log, 0.5) for _ in range(3)]
    paths = {run.communicate()[0] for run in runs}
    assert len(paths) == 1
    assert log.read_text() == "made\n"


def test_a_build_killed_halfway_never_looks_whole(store, tmp_path):
    """kill -9 while it is made: the next run makes it again, and clears away what was left behind."""
    log = tmp_path / "log"
    run = start(store, log, 60)
    while not log.exists():
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    again = store.directory("kind", {"a": 1}, make_one)
    assert again.fresh
    assert [path.name for path in (store.root / "kind").iterdir()] == [again.path.name]


def test_a_document_is_kept_and_a_torn_one_is_made_again(store):
    """JSON in, JSON out; garbage on disk is replaced."""
    assert store.document("kind", {"a": 1}, lambda: {"n": 1}) == {"n": 1}
    assert store.document("kind", {"a": 1}, lambda: {"n": 2}) == {"n": 1}
    next((store.root / "kind").glob("*.json")).write_text('{"n":')
    assert store.document("kind", {"a": 1}, lambda: {"n": 3}) == {"n": 3}


def test_a_file_digest_follows_the_file(store, tmp_path):
    """Remembered while size and time stand still, taken again when the file changes."""
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    first = store.file_digest(file)
    assert store.file_digest(file) == first
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert store.file_digest(file) != first


def test_hub_blobs_are_named_by_their_digest_already(store, tmp_path):
    """A file of the hub's cache is not read again."""
    blob = tmp_path / "blobs" / ("e" * 64)
    blob.parent.mkdir()
    blob.write_text("not what it says")
    (tmp_path / "model.safetensors").symlink_to(blob)
    assert store.file_digest(tmp_path / "model.safetensors") == "e" * 64


def test_the_manifest_says_what_the_entry_is_the_answer_to(store):
    """Identity, facts and files stand in it for whoever looks into the cache."""
    path = store.directory("kind", {"a": 1}, make_one).path
    manifest = json.loads((path / MANIFEST).read_text())
    assert manifest == {"identity": {"a": 1}, "facts": {"seconds": 1}, "files": {"weights": 5}}
