"""The content-addressed store: made once, never half, found again only for the same question."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from hashlib import sha256

import pytest

from pytest_tenpak.execution.order import Order
from pytest_tenpak.store import eviction
from pytest_tenpak.store.eviction import LOG_SECONDS
from pytest_tenpak.store.layout import MANIFEST, owner
from pytest_tenpak.store.locks import hold, try_hold
from pytest_tenpak.store.store import Store

#: Seconds, longer than a tick of the clock that files get their times from.
TICK = 0.06


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "cache")


def make_one(folder):
    (folder / "weights").write_bytes(b"12345")
    return {"seconds": 1}


def rewrite_unseen(file, content):
    """Give a file other bytes, as many as before, and its old modification time, as archives and stores do."""
    before = file.stat()
    assert before.st_size == len(content)
    time.sleep(TICK)
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_has_says_whether_an_entry_is_there(tmp_path):
    """Before it is made, and after; another identity is another entry."""
    store = Store(tmp_path)
    assert not store.has("models", {"a": 1})
    store.directory("models", {"a": 1}, lambda folder: {})
    assert store.has("models", {"a": 1})
    assert not store.has("models", {"a": 2})


def test_a_directory_is_made_once_for_the_same_identity(store):
    """The second call finds it; another identity makes another."""
    first = store.directory("kind", {"a": 1}, make_one)
    again = store.directory("kind", {"a": 1}, lambda folder: pytest.fail("made twice"))
    assert first.fresh
    assert not again.fresh
    assert again.path == first.path
    assert again.facts == {"seconds": 1}
    assert store.directory("kind", {"a": 2}, make_one).path != first.path


@pytest.mark.parametrize("harm", ["shorten", "change", "remove", "manifest"])
def test_an_entry_that_is_no_longer_whole_is_made_again(store, harm):
    """A file cut short, another byte in it with size and time kept, a file gone, no manifest: it is not used."""
    path = store.directory("kind", {"a": 1}, make_one).path
    if harm == "shorten":
        (path / "weights").write_bytes(b"123")
    elif harm == "change":
        rewrite_unseen(path / "weights", b"12x45")
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
from pytest_tenpak.store.store import Store
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
    runs = [start(store, log, 0.3) for _ in range(3)]
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


def digest_count(store):
    return len(eviction.entries(store.root, "digests"))


def test_a_file_digest_follows_the_file(tmp_path):
    """Remembered from run to run while the file stands still; taken again though size and times are as before."""
    file, root = tmp_path / "weights", tmp_path / "cache"
    file.write_bytes(b"one")
    time.sleep(TICK)
    first = Store(root).file_digest(file)
    assert first == sha256(b"one").hexdigest()
    assert Store(root).file_digest(file) == first
    assert digest_count(Store(root)) == 1
    rewrite_unseen(file, b"two")
    assert Store(root).file_digest(file) == sha256(b"two").hexdigest()


def test_another_file_in_the_place_of_one_is_another(tmp_path):
    """An archive or a store puts a file of equal size and times there: inode and change time tell them apart."""
    file, other, root = tmp_path / "weights", tmp_path / "other", tmp_path / "cache"
    for path, content in ((file, b"one"), (other, b"two")):
        path.write_bytes(content)
        os.utime(path, ns=(1, 1))
    time.sleep(TICK)
    assert Store(root).file_digest(file) == sha256(b"one").hexdigest()
    other.replace(file)
    assert Store(root).file_digest(file) == sha256(b"two").hexdigest()


def test_what_was_written_this_moment_is_not_remembered(tmp_path):
    """A second change within one tick of the clock would not show."""
    file = tmp_path / "weights"
    store = Store(tmp_path / "cache")
    file.write_bytes(b"one")
    assert store.file_digest(file) == sha256(b"one").hexdigest()
    assert digest_count(store) == 0


def test_where_the_file_system_promises_nothing_files_are_read_again(tmp_path, monkeypatch):
    """A network's file system may show times from a cache of its own."""
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    time.sleep(TICK)
    store = Store(tmp_path / "cache")
    monkeypatch.setattr("pytest_tenpak.store.file_digests._file_system", lambda folder: "nfs4")
    assert store.file_digest(file) == sha256(b"one").hexdigest()
    assert digest_count(store) == 0


def test_rehash_reads_what_is_remembered(tmp_path):
    """Whoever does not trust the disk asks for it, once."""
    file, root = tmp_path / "weights", tmp_path / "cache"
    file.write_bytes(b"one")
    time.sleep(TICK)
    Store(root).file_digest(file)
    [remembered] = eviction.entries(root, "digests")
    remembered.write_text(json.dumps({"sha256": "wrong"}))
    assert Store(root).file_digest(file) == "wrong"
    for store in (Store(root, rehash=True), Store(root)):
        assert store.file_digest(file) == sha256(b"one").hexdigest()


def test_a_blob_of_the_hub_is_read_whatever_its_name_says(store, tmp_path):
    """The hub's cache names its files by their SHA-256; a damaged one keeps its name."""
    blob = tmp_path / "blobs" / ("e" * 64)
    blob.parent.mkdir()
    blob.write_text("not what it says")
    (tmp_path / "model.safetensors").symlink_to(blob)
    assert store.file_digest(tmp_path / "model.safetensors") == sha256(b"not what it says").hexdigest()


def test_the_manifest_says_what_the_entry_is_the_answer_to(store):
    """Identity, facts and files stand in it for whoever looks into the cache."""
    path = store.directory("kind", {"a": 1}, make_one).path
    manifest = json.loads((path / MANIFEST).read_text())
    assert manifest == {
        "identity": {"a": 1},
        "facts": {"seconds": 1},
        "files": {"weights": sha256(b"12345").hexdigest()},
    }


# ---------------------------------------------------------------- the limit

MEGABYTE = 10**6


def make_megabyte(folder):
    (folder / "weights").write_bytes(bytes(MEGABYTE))
    return {}


def fill(root, count):
    """Entries 0, 1, … of a megabyte, used in that order and by nobody any more."""
    paths = []
    for n in range(count):
        paths.append(Store(root).directory("checkpoints", {"n": n}, make_megabyte).path)
        os.utime(paths[-1] / MANIFEST, (1000 + n, 1000 + n))
    return paths


def test_the_entries_used_longest_ago_go_first(tmp_path):
    """Finding an entry counts as use; what is removed leaves neither lock files nor half of itself."""
    root = tmp_path / "cache"
    paths = fill(root, 3)
    assert not Store(root).directory("checkpoints", {"n": 0}, make_megabyte).fresh
    new = Store(root, int(2.5 * MEGABYTE)).directory("models", {}, make_megabyte).path
    assert [path.exists() for path in paths] == [True, False, False]
    assert sorted(path.name for path in (root / "checkpoints").iterdir()) == [paths[0].name]
    locks = {path.stem for path in (root / "locks").iterdir()}
    assert {name for name in locks if not name.startswith("digests-")} == {
        "tidy",
        f"checkpoints-{paths[0].name}",
        f"models-{new.name}",
    }


def test_an_entry_just_made_stays_though_it_is_larger_than_the_limit(tmp_path):
    """And so does every other that this process was given; another process may remove them later."""
    root = tmp_path / "cache"
    store = Store(root, MEGABYTE // 2)
    first = store.directory("checkpoints", {"n": 0}, make_megabyte).path
    second = store.directory("checkpoints", {"n": 1}, make_megabyte).path
    assert first.exists()
    assert second.exists()
    del store
    third = Store(root, MEGABYTE // 2).directory("checkpoints", {"n": 2}, make_megabyte).path
    assert [path.exists() for path in (first, second, third)] == [False, False, True]


def test_no_limit_removes_nothing(tmp_path):
    """0 is no limit."""
    paths = fill(tmp_path, 3)
    assert all(path.exists() for path in paths)


USER = """
import sys, time
from pathlib import Path
from pytest_tenpak.store.store import Store
store = Store(Path(sys.argv[1]))
print(store.directory("checkpoints", {"n": 0}, None).path, flush=True)
time.sleep(600)
"""


def test_an_entry_that_another_living_process_uses_stays(tmp_path):
    """However old it is; once that process is gone, even by kill -9, the entry may go."""
    root = tmp_path / "cache"
    paths = fill(root, 2)
    user = subprocess.Popen([sys.executable, "-c", USER, str(root)], stdout=subprocess.PIPE, text=True)
    assert user.stdout.readline().strip() == str(paths[0])
    os.utime(paths[0] / MANIFEST, (1, 1))
    Store(root, MEGABYTE).directory("checkpoints", {"n": 2}, make_megabyte)
    assert [path.exists() for path in paths] == [True, False]
    user.kill()
    user.communicate()
    Store(root, MEGABYTE).directory("checkpoints", {"n": 3}, make_megabyte)
    assert not paths[0].exists()


CROWD = """
import random, sys
from pathlib import Path
from pytest_tenpak.store.store import Store
def make(folder):
    (folder / "weights").write_bytes(bytes(10**6))
    return {}
draw = random.Random(int(sys.argv[2]))
for _ in range(25):
    store = Store(Path(sys.argv[1]), 2_500_000)
    used = [store.directory("checkpoints", {"n": draw.randrange(6)}, make).path for _ in range(2)]
    assert all((path / "weights").stat().st_size == 10**6 for path in used)
"""


def test_runs_at_once_evict_nothing_from_under_each_other(tmp_path):
    """Three runs that use and evict the same few entries: each always has whole what it was given."""
    command = [sys.executable, "-c", CROWD, str(tmp_path)]
    runs = [subprocess.Popen([*command, str(n)], stderr=subprocess.PIPE, text=True) for n in range(3)]
    for run in runs:
        assert run.communicate(timeout=120)[1] == ""
    Store(tmp_path, 2_500_000).directory("checkpoints", {"n": "last"}, make_megabyte)
    assert eviction.sizes(tmp_path)["checkpoints"] < 2_500_000
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".")]


def test_a_growing_folder_is_found_again_and_goes_when_it_is_unused(tmp_path):
    """What was added is there the next time; over the limit it goes like any entry, but not while it is used."""
    mine = Store(tmp_path, MEGABYTE)
    folder = mine.growing("traces", {"n": 1})
    assert list(folder.iterdir()) == [folder / MANIFEST]
    (folder / "block").write_bytes(bytes(MEGABYTE))
    assert Store(tmp_path).growing("traces", {"n": 1}) == folder
    assert Store(tmp_path).growing("traces", {"n": 2}) != folder
    mine.tidy()
    assert (folder / "block").exists()
    del mine
    gc.collect()
    os.utime(folder / MANIFEST, (1, 1))
    Store(tmp_path, MEGABYTE).tidy()
    assert not folder.exists()


def test_what_is_abandoned_is_swept_and_what_is_not_ours_is_left(tmp_path):
    """Half-built folders without a builder and logs of last week go, whichever entry was being made."""
    old, recent = tmp_path / "jobs" / f"quantize-{'a' * 12}", tmp_path / "jobs" / f"quantize-{'b' * 12}"
    abandoned = tmp_path / "checkpoints" / f".{'c' * 32}.{'d' * 8}"
    building = tmp_path / "checkpoints" / f".{'e' * 32}.{'f' * 8}"
    theirs = tmp_path / "checkpoints" / "theirs"
    for folder in (old, recent, abandoned, building, theirs):
        folder.mkdir(parents=True)
        (folder / "log.txt").write_text("said")
    (theirs / MANIFEST).write_text("{}")
    long_ago = time.time() - LOG_SECONDS - 60
    os.utime(old / "log.txt", (long_ago, long_ago))
    with hold(tmp_path / "locks" / f"checkpoints-{'e' * 32}.lock"):
        Store(tmp_path, 1).directory("models", {}, make_one)
    kept = [folder.exists() for folder in (old, recent, abandoned, building, theirs)]
    assert kept == [False, True, False, True, True]


def test_sizes_by_kind(store):
    """Bytes on disk, for whoever wonders where the room went."""
    assert eviction.sizes(store.root) == {}
    store.directory("checkpoints", {}, make_megabyte)
    store.document("measurements", {}, lambda: {"nll": 1})
    sizes = eviction.sizes(store.root)
    assert list(sizes) == ["checkpoints", "measurements"]
    assert MEGABYTE < sizes["checkpoints"] < 1.01 * MEGABYTE
    assert sizes["measurements"] == len('{"nll": 1}')


def test_a_cache_that_cannot_be_touched_is_still_read(store, monkeypatch):
    """An entry is found though its time of use cannot be written down."""
    path = store.directory("kind", {}, make_one).path

    def refuse(*args):
        raise PermissionError("read-only")

    monkeypatch.setattr("pytest_tenpak.store.store.os.utime", refuse)
    assert store.directory("kind", {}, make_one).path == path


def test_a_lock_file_that_was_removed_meanwhile_guards_nothing(tmp_path):
    """Whoever waited for it locks the new file: two holders at once cannot be."""
    path = tmp_path / "lock"
    first = hold(path)
    assert try_hold(path) is None
    path.unlink()
    first.close()
    with hold(path):
        assert try_hold(path) is None
    with hold(path, shared=True), hold(path, shared=True):
        assert try_hold(path) is None


def test_clear_removes_a_kind_and_says_how_much(store):
    """Directories, documents and what was half-built; what is not ours, and other kinds, stay."""
    [path] = fill(store.root, 1)
    half_built = path.parent / f".{path.name}.{'0' * 8}"
    half_built.mkdir()
    (path.parent / "mine.txt").write_text("a user's own")
    store.document("weights", {}, lambda: {"a": 1})
    assert len(eviction.entries(store.root, "checkpoints")) == 2
    freed, kept = eviction.clear(store.root, "checkpoints")
    assert MEGABYTE < freed < 1.01 * MEGABYTE
    assert kept == 0
    assert [left.name for left in path.parent.iterdir()] == ["mine.txt"]
    assert eviction.clear(store.root, "weights") == (len('{"a": 1}'), 0)
    assert eviction.clear(store.root, "locks") == eviction.clear(store.root, "nothing") == (0, 0)


def test_clear_leaves_what_a_living_process_uses(tmp_path):
    """Its entries, and the logs of jobs that it started; once it is gone they may go."""
    root = tmp_path / "cache"
    paths = fill(root, 2)
    user = subprocess.Popen([sys.executable, "-c", USER, str(root)], stdout=subprocess.PIPE, text=True)
    user.stdout.readline()
    job = root / "jobs" / ("measure-" + "0" * 12)
    job.mkdir(parents=True)
    (job / "job.json").write_text(json.dumps({"parent": user.pid}))
    store = Store(root)
    assert eviction.clear(store.root, "checkpoints")[1] == eviction.clear(store.root, "jobs")[1] == 1
    assert [path.exists() for path in (*paths, job)] == [True, False, True]
    user.kill()
    user.communicate()
    assert eviction.clear(store.root, "checkpoints")[1] == eviction.clear(store.root, "jobs")[1] == 0
    assert not paths[0].exists()
    assert not job.exists()


@pytest.mark.parametrize(("kind", "file"), [("stays", "owner.json"), ("order-quantize", "order.json")])
def test_what_a_killed_run_gave_to_its_workers_goes_and_that_of_others_stays(tmp_path, kind, file):
    """Of processes that stay, and orders to other machines: nobody would ever remove them, or too soon."""
    root = tmp_path / "cache"
    folders = [root / "jobs" / f"{kind}-{digit * 12}" for digit in "0123"]
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    mine = owner()
    owners = [mine, {**mine, "parent": gone.pid}, {**mine, "parent": gone.pid, "host": "another"}, None]
    an_hour_ago = time.time() - 3600
    for folder, one in zip(folders, owners, strict=True):
        folder.mkdir(parents=True)
        if one is not None:
            (folder / file).write_text(json.dumps(one))
        os.utime(folder, (an_hour_ago, an_hour_ago))
    assert eviction.clear(root, "jobs")[1] == 2
    assert [folder.exists() for folder in folders] == [True, False, True, False]
    folders[1].mkdir()
    (folders[1] / file).write_text(json.dumps(owners[1]))
    Store(root, 1).tidy()
    assert [folder.exists() for folder in folders] == [True, False, True, False]


def test_the_folders_of_jobs_are_known_to_whoever_clears_the_cache(tmp_path):
    """An order has a name that is recognized, and says whose it is."""
    folder = Order("quantize", {}, tmp_path).write()
    assert eviction.entries(tmp_path, "jobs") == [folder]
    os.utime(folder, (0, 0))
    assert eviction.clear(tmp_path, "jobs") == (0, 1)


def test_clear_leaves_a_document_that_is_being_made(store):
    """Whoever holds its lock is about to read or to write it."""
    store.document("weights", {}, lambda: {"a": 1})
    [path] = eviction.entries(store.root, "weights")
    with hold(store.root / "locks" / f"weights-{path.stem}.lock"):
        assert eviction.clear(store.root, "weights") == (0, 1)
    assert eviction.clear(store.root, "weights") == (len('{"a": 1}'), 0)
