"""The store that machines share: whole or not there, checked on the way in, never a reason to fail."""

import json
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from hashlib import sha256
from pathlib import Path

import fsspec
import pytest

from pytest_tenpak.store import objects
from pytest_tenpak.store.asking import ask, redacted
from pytest_tenpak.store.digest import fingerprint
from pytest_tenpak.store.layout import MANIFEST
from pytest_tenpak.store.objects import Objects
from pytest_tenpak.store.remote import Remote
from pytest_tenpak.store.store import Store
from pytest_tenpak.store.use import counting

IDENTITY = {"a": 1}
KEY = fingerprint(IDENTITY)[:32]


def make_one(folder):
    (folder / "sub").mkdir()
    (folder / "weights").write_bytes(b"12345")
    (folder / "sub" / "config.json").write_text("{}")
    (folder / "empty").write_bytes(b"")
    return {"seconds": 1}


def make_none(folder=None):
    pytest.fail("made, although the store has it")


class Machines:
    """Machines with a cache folder each, and one folder that they share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.shared = root / "shared"
        self.bucket = self.shared / "checkpoints" / KEY

    def machine(self, name: str, **how: bool) -> Store:
        tier = Remote(Objects(fsspec.filesystem("file"), str(self.shared), False), "file:///shared", **how)
        return Store(self.root / name, remote=tier)

    @property
    def manifest(self) -> Path:
        return self.bucket / "manifest-0000000.json"


@pytest.fixture
def machines(tmp_path) -> Machines:
    return Machines(tmp_path)


def state(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_second_machine_makes_nothing(machines):
    """It gets files, folders and facts as they were made, and they are whole by its own cache's rules too."""
    first = machines.machine("one").directory("checkpoints", IDENTITY, make_one)
    second = machines.machine("two")
    fetched = second.directory("checkpoints", IDENTITY, make_none)
    assert not fetched.fresh
    assert fetched.facts == {"seconds": 1}
    assert state(fetched.path) == state(first.path)
    assert second.remote.fetched == {"checkpoints": 1}
    assert Store(machines.root / "two").directory("checkpoints", IDENTITY, make_none).facts == {"seconds": 1}


def test_documents_are_shared_but_what_is_of_one_machine_is_not(machines):
    """A document is made once for all machines; digests by inode, and what a probe found, by each."""
    one, two = machines.machine("one"), machines.machine("two")
    assert one.document("audits", IDENTITY, lambda: {"n": 1}) == {"n": 1}
    assert two.document("audits", IDENTITY, make_none) == {"n": 1}
    for kind in ("digests", "devices"):
        one.document(kind, IDENTITY, lambda: {"n": 1})
        assert two.document(kind, IDENTITY, lambda: {"n": 2}) == {"n": 2}
    assert sorted(path.name for path in machines.shared.iterdir()) == ["audits"]


def test_what_the_local_cache_already_has_is_pushed_too(machines):
    """A push that was killed, or a store that was named later: the next run makes up for it."""
    Store(machines.root / "one").directory("checkpoints", IDENTITY, make_one)
    machines.machine("one").directory("checkpoints", IDENTITY, make_none)
    machines.machine("two").directory("checkpoints", IDENTITY, make_none)


def test_what_is_damaged_here_is_not_pushed(machines):
    """By hand, where nothing asks first whether the entry is as it was made: others would get it as whole."""
    path = Store(machines.root / "one").directory("checkpoints", IDENTITY, make_one).path
    (path / "weights").write_bytes(b"1234")
    assert not machines.machine("one").push(path)
    assert not machines.shared.exists()


def test_a_document_with_numbers_that_json_lacks_stays_local(machines):
    """Nothing is wrong with it, and nothing is said."""
    one = machines.machine("one")
    assert one.document("audits", IDENTITY, lambda: {"n": float("inf")}) == {"n": float("inf")}
    assert not machines.shared.exists()
    assert one.remote.faults == []


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize(
    "harm", ["flip", "shorten", "lengthen", "remove", "manifest", "half manifest", "moved"]
)
def test_what_is_damaged_is_refused_made_anew_and_replaced(machines, harm):
    """A byte flipped, lost or added, a file gone, a changed manifest, that of another key; then all is well."""
    machines.machine("one").directory("checkpoints", IDENTITY, make_one)
    data = machines.bucket / sha256(b"12345").hexdigest()
    if harm in ("flip", "shorten", "lengthen"):
        data.write_bytes({"flip": b"12x45", "shorten": b"1234", "lengthen": b"123456"}[harm])
    elif harm == "remove":
        data.unlink()
    elif harm == "moved":
        plain = {"a": 2}
        machines.machine("one").directory("checkpoints", plain, make_one)
        other = machines.bucket.with_name(fingerprint(plain)[:32]) / machines.manifest.name
        machines.manifest.write_bytes(other.read_bytes())
    else:
        text = machines.manifest.read_text()
        changed = text.replace('"seconds": 1', '"seconds": 2') if harm == "manifest" else text[:40]
        assert changed != text
        machines.manifest.write_text(changed)
    two = machines.machine("two")
    again = two.directory("checkpoints", IDENTITY, make_one)
    assert again.fresh
    assert (again.path / "weights").read_bytes() == b"12345"
    (fault,) = two.remote.faults
    assert f"file:///shared: checkpoints/{KEY} was refused and is made anew and replaced there" in fault
    assert ("weights" in fault) == (harm in ("flip", "shorten", "lengthen", "remove"))
    three = machines.machine("three")
    three.directory("checkpoints", IDENTITY, make_none)
    assert three.remote.faults == []


def rewritten(machines, name):
    """The manifest with a file of another name, its digest made to fit."""
    plain = json.loads(machines.manifest.read_text())
    del plain["digest"]
    plain["files"] = {name: plain["files"]["weights"]}
    machines.manifest.write_text(json.dumps({**plain, "digest": fingerprint(plain)}))


@pytest.mark.parametrize(
    "name",
    [
        "../x", "a/../../x", "/tmp/x", "a//b", "./a", "", ".", "C:\\x", "a\\b", "a\nb", "tenpak-manifest.json", "x" * 300
    ],
)  # fmt: skip
def test_a_name_that_leads_out_of_the_folder_is_refused(machines, name):
    """A bucket is input: a manifest that is otherwise right writes nothing outside its entry, or oddly."""
    machines.machine("one").directory("checkpoints", IDENTITY, make_one)
    rewritten(machines, name)
    before = {str(path) for path in machines.root.rglob("x*")}
    two = machines.machine("two")
    assert two.directory("checkpoints", IDENTITY, make_one).fresh
    assert "its manifest is damaged" in two.remote.faults[0]
    assert {str(path) for path in machines.root.rglob("x*")} == before


# ---------------------------------------------------------------- interruptions and races

PUSHER = """
import os, sys, time
from pathlib import Path
import fsspec
from pytest_tenpak.store.objects import Objects
from pytest_tenpak.store.remote import Remote
from pytest_tenpak.store.store import Store
from pytest_tenpak.store.use import counting
files = fsspec.filesystem("file")
class Slow:
    "Says what it begins, and waits, so that it can be killed there."
    def __getattr__(self, name): return getattr(files, name)
    def put_file(self, here, there):
        print("put", flush=True); sys.stdin.readline()
        files.put_file(here, there)
    def mv(self, here, there):
        print("moving", flush=True); sys.stdin.readline()
        files.mv(here, there)
def make(folder):
    for name in "abc": (folder / name).write_text(name + sys.argv[3])
    return {"by": sys.argv[3]}
found = Store(Path(sys.argv[1]), remote=Remote(Objects(Slow(), sys.argv[2], False), "store")).directory("checkpoints", {"a": 1}, make)
print("done", flush=True)
"""


def pusher(machines, name):
    command = [sys.executable, "-c", PUSHER, str(machines.root / name), str(machines.shared), name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def step(run) -> str:
    said = run.stdout.readline().strip()
    if said != "done":
        run.stdin.write("\n")
        run.stdin.flush()
    return said


@pytest.mark.parametrize("steps", range(8))
def test_an_upload_killed_at_any_step_never_looks_whole(machines, steps):
    """kill -9 before each file, each renaming and the manifest: the next machine makes it, and that is whole."""
    run = pusher(machines, "one")
    for _ in range(steps):
        assert step(run) != "done"
    run.stdout.readline()  # it has begun the next step, and waits
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    two = machines.machine("two")
    assert two.directory("checkpoints", IDENTITY, make_one).fresh == (steps < 7)
    assert two.remote.faults == []
    three = machines.machine("three").directory("checkpoints", IDENTITY, make_none)
    assert state(three.path).keys() >= ({"weights"} if steps < 7 else {"a", "b", "c"})


def test_two_machines_that_push_at_once_both_end_well(machines):
    """Step by step side by side, with other bytes each: what is there afterwards is whole, and one of the two."""
    runs = [pusher(machines, name) for name in ("one", "two")]
    going = list(runs)
    while going:
        going = [run for run in going if step(run) != "done"]
    assert [run.wait() for run in runs] == [0, 0]
    for run in runs:
        run.communicate()
    three = machines.machine("three")
    found = three.directory("checkpoints", IDENTITY, make_none)
    by = found.facts["by"]
    assert {name: (found.path / name).read_text() for name in "abc"} == {name: name + by for name in "abc"}
    assert three.remote.faults == []
    assert list(machines.shared.rglob("*.part")) == []


# ---------------------------------------------------------------- growing entries


def length(folder) -> int:
    return len(list(folder.glob("*.block")))


def grow(store, count, mark="x"):
    """Add files to the entry up to a count, and push it."""
    path = store.growing("traces", IDENTITY, length)
    for n in range(length(path), count):
        (path / f"{n}.block").write_text(f"{mark}{n}")
    store.push(path, [f"{n}.block" for n in range(count)], count)
    return path


def blocks(folder) -> list[str]:
    return [(folder / f"{n}.block").read_text() for n in range(length(folder))]


def test_a_growing_entry_goes_on_where_another_machine_stopped(machines):
    """A longer one takes the place of a shorter one, never the other way; each is one machine's, whole."""
    grow(machines.machine("one"), 2, "a")
    two = grow(machines.machine("two"), 3, "b")
    assert blocks(two) == ["a0", "a1", "b2"]
    grow(Store(machines.root / "one"), 1)
    assert blocks(machines.machine("one").growing("traces", IDENTITY, length)) == ["a0", "a1", "b2"]
    apart = grow(Store(machines.root / "apart"), 1, "c")
    assert blocks(apart) == ["c0"]
    assert blocks(machines.machine("apart").growing("traces", IDENTITY, length)) == ["a0", "a1", "b2"]
    four = grow(Store(machines.root / "four"), 4, "d")
    assert blocks(machines.machine("four").growing("traces", IDENTITY, length)) == blocks(four)


def test_a_growing_entry_in_use_is_left_alone(machines):
    """Another process of the machine reads it: it does not change under its eyes."""
    grow(machines.machine("one"), 3, "a")
    reader = Store(machines.root / "two")
    path = grow(reader, 1, "b")
    assert blocks(machines.machine("two").growing("traces", IDENTITY, length)) == ["b0"]
    assert blocks(path) == ["b0"]


def test_of_a_damaged_growing_entry_a_shorter_whole_one_is_taken(machines):
    """Of two manifests the longer one is damaged; what was refused is gone after the next push."""
    one = machines.machine("one")
    grow(one, 1, "a")
    grow(one, 2, "a")
    folder = machines.shared / "traces" / KEY
    (folder / sha256(b"a1").hexdigest()).write_text("??")
    two = machines.machine("two")
    assert blocks(two.growing("traces", IDENTITY, length)) == ["a0"]
    assert "traces" in two.remote.faults[0]
    grow(two, 3, "b")
    three = machines.machine("three")
    assert blocks(three.growing("traces", IDENTITY, length)) == ["a0", "b1", "b2"]
    assert three.remote.faults == []
    assert sorted(path.name for path in folder.glob("manifest*")) == [
        "manifest-0000001.json", "manifest-0000003.json"
    ]  # fmt: skip


# ---------------------------------------------------------------- rights and failures


def test_who_may_only_read_writes_nothing(machines):
    """Neither what is missing there, nor in the place of what is damaged, which is said."""
    machines.machine("one").directory("checkpoints", IDENTITY, make_one)
    (machines.bucket / sha256(b"12345").hexdigest()).write_bytes(b"12x45")
    before = state(machines.shared)
    two = machines.machine("two", writes=False)
    assert two.directory("checkpoints", IDENTITY, make_one).fresh
    two.directory("checkpoints", {"b": 1}, make_one)
    two.document("audits", IDENTITY, lambda: {"n": 1})
    grow(two, 2)
    assert state(machines.shared) == before
    assert "made anew, and not replaced there" in two.remote.faults[0]


def test_a_reader_is_told_where_there_is_nothing_to_read(machines):
    """A mistyped bucket looks like an empty one; who writes would be told by the first push."""
    two = machines.machine("two", writes=False)
    two.directory("checkpoints", IDENTITY, make_one)
    two.document("audits", IDENTITY, lambda: {"n": 1})
    (note,) = two.remote.faults
    assert "there is no such bucket or folder, or nothing in it" in note


class Broken:
    """A file system of which some calls fail in some way."""

    def __init__(self, fault: BaseException | float, *names: str) -> None:
        self._files = fsspec.filesystem("file")
        self._fault, self._names = fault, names
        self.calls = 0

    def __getattr__(self, name):
        if self._names and name not in self._names:
            return getattr(self._files, name)
        return self._fail

    def _fail(self, *_args, **_how):
        self.calls += 1
        if isinstance(self._fault, float):
            time.sleep(self._fault)
        raise self._fault


SECRET = "https://user:hunter2@host/?sig=hunter3"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (PermissionError(SECRET), "access was denied"),
        (ConnectionRefusedError(111, SECRET), "it cannot be reached"),
        (RuntimeError(SECRET), "it failed with RuntimeError"),
        (OSError(28, SECRET), "No space left on device (OSError)"),
        (5.0, "no answer within 0 s"),
    ],
)
def test_a_store_that_fails_is_noted_once_and_the_cache_goes_on(tmp_path, fault, words, monkeypatch):
    """Denied, unreachable, broken, silent: one note without a library's words, and not asked again."""
    if isinstance(fault, float):
        monkeypatch.setattr(objects, "ANSWER_SECONDS", 0.2)
    files = Broken(fault)
    store = Store(tmp_path, remote=Remote(Objects(files, "/nowhere", False), "s3://bucket"))
    for n in range(3):
        assert store.directory("checkpoints", {"n": n}, make_one).fresh
        assert store.document("audits", {"n": n}, lambda: {"n": 1}) == {"n": 1}
    (note,) = store.remote.faults
    assert words in note
    assert "s3://bucket" in note
    assert "hunter" not in note
    assert files.calls == 1


def test_who_turns_out_not_to_be_allowed_to_write_goes_on_reading(machines):
    """A key without the right to write, in the mode that writes: said once."""
    machines.machine("one").directory("checkpoints", IDENTITY, make_one)
    denied = Broken(PermissionError("no"), "put_file", "pipe_file")
    two = Store(machines.root / "two", remote=Remote(Objects(denied, str(machines.shared), False), "shared"))
    two.directory("checkpoints", {"b": 1}, make_one)
    two.directory("checkpoints", {"c": 1}, make_one)
    assert not two.directory("checkpoints", IDENTITY, make_none).fresh
    (note,) = two.remote.faults
    assert "only read from now on" in note
    assert list(machines.shared.rglob("*.part")) == []


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_only_read(machines):
    """A read-only mount."""
    machines.machine("one").directory("checkpoints", IDENTITY, make_one)
    machines.shared.chmod(stat.S_IRUSR | stat.S_IXUSR)
    two = machines.machine("two")
    two.directory("models", {"b": 1}, make_one)
    assert not two.directory("checkpoints", IDENTITY, make_none).fresh
    assert len(two.remote.faults) == 1


def test_a_full_disk_of_this_machine_is_not_the_stores_fault(machines, monkeypatch):
    """It is raised as any other fault of the cache folder."""
    machines.machine("one").directory("checkpoints", IDENTITY, make_one)
    two = machines.machine("two")
    monkeypatch.setattr(Path, "open", lambda *args, **kwargs: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        two.remote.fetch("checkpoints", KEY, machines.root)
    assert two.remote.faults == []


@pytest.mark.parametrize("damaged", ["{broken", "[]", "{}", '{"identity": {}, "facts": {}, "files": []}', ""])
def test_a_damaged_manifest_of_the_cache_is_made_anew_and_never_pushed(machines, damaged):
    """By hand or by a run, of an entry that is made at once and of one that grows: no traceback."""
    one = machines.machine("one")
    made = one.directory("checkpoints", IDENTITY, make_one).path
    grown = one.growing("traces", IDENTITY)
    shutil.rmtree(machines.shared)
    for path in (made, grown):
        (path / MANIFEST).write_text(damaged)
    two = machines.machine("one")
    assert not two.push(made)
    assert not two.push(grown, [], 3)
    assert two.directory("checkpoints", IDENTITY, make_one).fresh
    assert two.push(two.growing("traces", IDENTITY), [], 3)
    assert two.remote.faults == []


class Talking:
    """A file system whose library warns in each request, and waits for a moment of the test's in the first."""

    def __init__(self) -> None:
        self._files = fsspec.filesystem("file")
        self.asked, self.go_on = threading.Event(), threading.Event()

    def __getattr__(self, name):
        def call(*args, **how):
            if name == "cat_file" and not self.asked.is_set():
                self.asked.set()
                self.go_on.wait(10)
            warnings.warn("a library's own", DeprecationWarning, stacklevel=1)
            return getattr(self._files, name)(*args, **how)

        return call


@pytest.mark.filterwarnings("error::DeprecationWarning")
def test_a_request_in_a_thread_leaves_alone_the_warnings_that_a_test_catches(machines):
    """A gate asks the store ahead of its test, while another test catches warnings: all of its own."""
    machines.machine("one").directory("checkpoints", IDENTITY, make_one)
    talking = Talking()
    two = Store(machines.root / "two", remote=Remote(Objects(talking, str(machines.shared), False), "shared"))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(two.directory, "checkpoints", IDENTITY, make_none)
        assert talking.asked.wait(10)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.warn("before", UserWarning, stacklevel=1)
            talking.go_on.set()
            assert not answer.result().fresh
            warnings.warn("after", UserWarning, stacklevel=1)
    # The library's second may be heard: its request began before the test's own filters did.
    assert [str(one.message) for one in caught if one.category is UserWarning] == ["before", "after"]
    assert two.remote.faults == []


def test_libraries_log_nothing_of_a_request_and_all_that_they_did_after_it():
    """Also what they had logged just before, and below a logger whose level is the suite's own."""
    below = [logging.getLogger(name) for name in ("botocore.auth", "urllib3.connectionpool", "s3fs")]
    above = logging.getLogger("botocore")

    def heard() -> list[bool]:
        return [logger.isEnabledFor(logging.INFO) for logger in (*below, above)]

    above.setLevel(logging.DEBUG)
    try:
        before = heard()
        assert before[0]
        assert ask(lambda: ask(heard, 10) + heard(), 10) == [False] * 8
        assert heard() == before
        assert above.level == logging.DEBUG
    finally:
        above.setLevel(logging.NOTSET)


def test_what_each_gate_takes_is_counted_for_it(machines):
    """Two at once, one of them in a helper thread: each has its own entries and faults, the store all of them."""
    for number in range(3):
        machines.machine("one").directory("checkpoints", {"a": number}, make_one)
    two = machines.machine("two")
    both = threading.Barrier(2)

    def gate(*numbers: int) -> tuple[dict[str, int], int]:
        with counting() as tally, ThreadPoolExecutor(1) as helper:
            both.wait(10)
            for number in numbers:
                run = copy_context().run
                helper.submit(run, two.directory, "checkpoints", {"a": number}, make_none).result()
            both.wait(10)
            use = two.remote.use_of(tally)
            return dict(use.fetched), len(use.faults)

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.submit(gate, 0), pool.submit(gate, 1, 2)
        assert one.result() == ({"checkpoints": 1}, 0)
        assert other.result() == ({"checkpoints": 2}, 0)
    assert two.remote.fetched == {"checkpoints": 3}


def test_a_store_that_two_gates_lose_at_once_is_said_once(tmp_path):
    """Both were asking when it went away."""
    remote = Remote(Objects(Broken(ConnectionRefusedError("gone")), "/nowhere", False), "s3://bucket")
    for _ in range(2):
        with remote._tolerated("checkpoints/abc"):
            remote._objects.require_folder()
    assert len(remote.faults) == 1


# ---------------------------------------------------------------- the rest


def test_what_is_there_is_listed_half_uploads_too(machines):
    """By kind and key, with bytes; files that are none of the store's are left out."""
    one = machines.machine("one")
    one.directory("checkpoints", IDENTITY, make_one)
    grow(one, 2)
    grow(one, 3)
    half = machines.shared / "models" / KEY
    half.mkdir(parents=True)
    (half / "data").write_bytes(b"123")
    (machines.shared / "README").write_text("hello")
    found = {(one.kind, one.key): one for one in one.remote.entries()}
    assert found.keys() == {(kind, KEY) for kind in ("checkpoints", "traces", "models")}
    assert [found[kind, KEY].length for kind in ("checkpoints", "traces", "models")] == [0, 3, None]
    assert found["models", KEY].size == 3
    assert machines.machine("two").remote.has("checkpoints", KEY)
    assert not machines.machine("two").remote.has("models", KEY)


def test_entries_are_pulled_by_their_keys(machines):
    """Directories, growing ones and documents; what is here already is not fetched again."""
    one = machines.machine("one")
    one.directory("checkpoints", IDENTITY, make_one)
    one.document("audits", IDENTITY, lambda: {"n": 1})
    grow(one, 2, "a")
    two = machines.machine("two")
    assert [two.pull("checkpoints", KEY), two.pull("checkpoints", KEY)] == [True, False]
    assert [two.pull("audits", KEY), two.pull("audits", KEY)] == [True, False]
    assert [two.pull("traces", KEY, length), two.pull("traces", KEY, length)] == [True, False]
    offline = Store(machines.root / "two")
    offline.directory("checkpoints", IDENTITY, make_none)
    assert offline.document("audits", IDENTITY, make_none) == {"n": 1}
    assert blocks(offline.growing("traces", IDENTITY)) == ["a0", "a1"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/a/b", "s3://bucket/a/b"),
        ("sftp://user:hunter2@host/a", "sftp://***@host/a"),
        ("s3://key:hun/ter@2@bucket/a", "s3://***@bucket/a"),
        ("https://host/a?sig=hunter2&x=1#hunter3", "https://host/a?***"),
        ("simplecache::s3://user:hunter2@bucket", "simplecache::s3://***@bucket"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url, shown):
    """User, password, query and fragment."""
    assert redacted(url) == shown


def test_threads_may_share_a_store(machines):
    """The audit compares in a thread while the gate measures."""
    one = machines.machine("one")
    work = [
        threading.Thread(target=one.document, args=("audits", {"n": n}, lambda: {"n": 1})) for n in range(8)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(machines.machine("two").remote.entries()) == 8
    assert one.remote.faults == []
