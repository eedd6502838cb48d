"""Jobs that travel through a store, to a machine with folders of its own."""

import json
from pathlib import Path

import fsspec
import pytest

from pytest_tenpak.errors import ModelError, UnavailableError
from pytest_tenpak.execution.carried import Arrival, CarriedSubmission
from pytest_tenpak.execution.carrier import Carrier
from pytest_tenpak.execution.order import Order
from pytest_tenpak.progress import ignore
from pytest_tenpak.store.objects import Objects
from pytest_tenpak.store.store import Store


class Counting(type(fsspec.filesystem("file"))):
    """The local file system, which counts what is sent and opened."""

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []
        self.opened: list[str] = []

    def put_file(self, here, there, **rest):
        self.sent.append(Path(there).name.partition(".")[0])
        return super().put_file(here, there, **rest)

    def open(self, path, mode="rb", **rest):
        if mode == "rb" and "/jobs/" not in str(path):
            self.opened.append(Path(path).name)
        return super().open(path, mode, **rest)


class Machines:
    """One that waits for jobs, one that does them, and the store between them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.here, self.there = Store(root / "here"), root / "there"
        self.bucket = root / "bucket"
        self.files = Counting()
        self.carrier = Carrier(Objects(self.files, str(self.bucket), False), "file:///bucket")
        self.model = root / "model"
        self.model.mkdir()
        (self.model / "config.json").write_text("{}")
        (self.model / "weights.safetensors").write_bytes(b"weights")
        self.out = self.here.root / "checkpoints" / f".{'a' * 32}.01234567"
        self.out.mkdir(parents=True)

    def submit(self, progress=ignore) -> CarriedSubmission:
        """An order to quantize the model."""
        job = {"model": str(self.model), "out": str(self.out), "spec": ["x"], "n": 1}
        order = Order("quantize", job, self.here.root, reads=(self.model,), writes=(self.out,))
        return CarriedSubmission(order, progress, self.carrier, self.here, "file:///bucket")

    def arrive(self, submission: CarriedSubmission) -> Arrival:
        """The order as it arrives."""
        url, _, address = submission.argument.rpartition("#")
        assert url == "file:///bucket"
        return Arrival(address, self.carrier, self.there)

    def messages(self) -> list[Path]:
        return list((self.bucket / "jobs").iterdir())


@pytest.fixture
def machines(tmp_path):
    """Two machines and a store."""
    return Machines(tmp_path)


def test_a_job_finds_its_files_under_paths_of_its_own_machine(machines):
    """With the names and bytes that they have where the job comes from, and nothing else in the order changed."""
    arrival = machines.arrive(machines.submit())
    order = arrival.unpack()
    model, out = Path(order.job["model"]), Path(order.job["out"])
    assert (order.kind, order.job["spec"], order.job["n"]) == ("quantize", ["x"], 1)
    assert model.name == "model"
    assert {path.name: path.read_bytes() for path in model.iterdir()} == {
        path.name: path.read_bytes() for path in machines.model.iterdir()
    }
    assert not list(out.iterdir())
    assert all(path.is_relative_to(machines.there) for path in (model, out, order.root))


def test_what_a_job_makes_comes_back_and_no_message_stays(machines):
    """In folders too; the store keeps the files, which need only a manifest to be an entry."""
    submission = machines.submit()
    assert not submission.has_reply()
    assert submission.reply(ignore) is None
    arrival = machines.arrive(submission)
    out = Path(arrival.unpack().job["out"])
    (out / "sub").mkdir()
    (out / "sub" / "one.json").write_text("1")
    (out / "weights.safetensors").write_bytes(b"quantized")
    arrival.reply({"answer": {"seconds": 1}})
    arrival.close()
    assert submission.has_reply()
    assert submission.has_begun()
    assert submission.reply(ignore)["answer"] == {"seconds": 1}
    assert (machines.out / "sub" / "one.json").read_text() == "1"
    assert (machines.out / "weights.safetensors").read_bytes() == b"quantized"
    submission.discard()
    assert not machines.messages()
    assert not list((machines.there / "jobs").iterdir())
    assert not list((machines.here.root / "jobs").iterdir())
    assert len(list((machines.bucket / "checkpoints" / ("a" * 32)).iterdir())) == 2


def test_transfers_are_shown(machines):
    """In bytes, of what is really sent and fetched."""
    sent, fetched = [], []
    submission = machines.submit(lambda *row: sent.append(row))
    assert sent == [(2, 9, "bytes"), (9, 9, "bytes")]
    arrival = machines.arrive(submission)
    (Path(arrival.unpack().job["out"]) / "made").write_bytes(b"made")
    arrival.reply({"answer": {}})
    submission.reply(lambda *row: fetched.append(row))
    assert fetched == [(4, 4, "bytes")]
    machines.submit(lambda *row: sent.append(row))
    assert len(sent) == 2


def test_nothing_travels_twice(machines):
    """Neither to the store nor from it; what a machine made itself it has already."""
    for _ in range(2):
        arrival = machines.arrive(machines.submit())
        out = Path(arrival.unpack().job["out"])
        (out / "made").write_bytes(b"made")
        arrival.reply({"answer": {}})
        arrival.close()
    assert len(machines.files.sent) == len({*machines.files.sent}) == 3
    assert len(machines.files.opened) == 2
    found = {path.read_bytes() for path in machines.there.glob("objects/*/content")}
    assert found == {b"{}", b"weights", b"made"}


def test_only_what_is_new_in_a_trace_comes_back(machines):
    """A growing folder arrives with what it has, of which nothing is sent again; its plan is put last."""
    trace = machines.here.root / "traces" / ("b" * 32)
    trace.mkdir(parents=True)
    (trace / "plan.json").write_text(json.dumps({"stream": "", "scored": [1], "documents": [0], "kind": ""}))
    order = Order("measure", {"trace": str(trace)}, machines.here.root, reads=(trace,), writes=(trace,))
    submission = CarriedSubmission(order, ignore, machines.carrier, machines.here, "file:///bucket")
    arrival = machines.arrive(submission)
    there = Path(arrival.unpack().job["trace"])
    assert [path.name for path in there.iterdir()] == ["plan.json"]
    (there / "0000000-0000001.json").write_text("{}")
    (there / "0000000-0000001.safetensors").write_bytes(b"x")
    arrival.reply({"answer": {}})
    made = json.loads(machines.carrier.told(submission.name, "reply.json"))["made"][str(trace)]
    assert sorted(made) == ["0000000-0000001.json", "0000000-0000001.safetensors"]
    submission.reply(ignore)
    assert len(list(trace.iterdir())) == 3


def test_another_order_than_was_submitted_is_refused(machines):
    """Who can write to the store can stop a job, but not have another one done."""
    submission = machines.submit()
    (message,) = machines.messages()
    message.write_text(message.read_text().replace("quantize", "generate"))
    with pytest.raises(UnavailableError, match="no such job"):
        machines.arrive(submission)
    message.unlink()
    with pytest.raises(UnavailableError, match="no such job"):
        machines.arrive(submission)


def test_a_changed_file_is_refused_where_the_job_runs(machines):
    """And named: by size, by digest, or because it is gone."""
    submission = machines.submit()
    file = next(path for path in machines.bucket.glob("inputs/*/*") if path.read_bytes() == b"weights")
    for content, words in ((b"weightz", "SHA-256"), (b"weight", "size"), (None, "missing")):
        file.unlink() if content is None else file.write_bytes(content)
        arrival = machines.arrive(submission)
        with pytest.raises(UnavailableError, match="cannot be read") as raised:
            arrival.unpack()
        assert f"its file weights.safetensors {'is' if content is None else 'has another'} {words}" in str(
            raised.value
        )


@pytest.mark.parametrize("name", ["../escaped", "/escaped", "a/../../escaped", "..", ""])
def test_a_reply_cannot_write_outside_the_folder(machines, name):
    """Whatever it calls its files."""
    submission = machines.submit()
    made = {str(machines.out): {name: {"size": 0, "sha256": "0" * 64}}}
    machines.carrier.tell(submission.name, "reply.json", json.dumps({"answer": {}, "made": made}))
    with pytest.raises(UnavailableError, match="reply in the store is damaged"):
        submission.reply(ignore)
    assert not list(machines.root.rglob("escaped"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"made": []}', '{"made": {"x": 1}, "answer"'])
def test_a_damaged_reply_is_an_error(machines, text):
    """Not a traceback."""
    submission = machines.submit()
    machines.carrier.tell(submission.name, "reply.json", text)
    with pytest.raises(UnavailableError, match="reply in the store is damaged"):
        submission.reply(ignore)


def test_an_error_names_the_paths_of_whoever_waits(machines):
    """And nothing that was half made comes back."""
    submission = machines.submit()
    arrival = machines.arrive(submission)
    model = arrival.unpack().job["model"]
    (arrival._places[str(machines.out)] / "half").write_text("half")
    arrival.reply({"error": ModelError("it is broken", given=f"{model}/config.json").to_dict()})
    assert submission.reply(ignore)["error"]["given"] == f"{machines.model}/config.json"
    assert not list(machines.out.iterdir())


def test_progress_is_told_now_and_then(machines, monkeypatch):
    """The first time at once; what is not asked for is not told twice."""
    submission, seen = machines.submit(), []
    arrival = machines.arrive(submission)
    submission.pass_on(lambda *row: seen.append(row))
    assert not submission.has_begun()
    monkeypatch.setattr("pytest_tenpak.execution.carried._TELL_SECONDS", 0.0)
    arrival.unpack()
    assert submission.has_begun()
    arrival.progress(3, 4, "tokens")
    submission.pass_on(lambda *row: seen.append(row))
    assert seen == [(3, 4, "tokens")]


def test_a_store_that_is_gone_is_an_error(machines):
    """A file in the place of the bucket: the error has the store's address, and no folder is left behind."""
    machines.bucket.write_text("")
    with pytest.raises(UnavailableError, match="cannot be written") as raised:
        machines.submit()
    assert "file:///bucket" in str(raised.value)
    assert not list((machines.here.root / "jobs").iterdir())
