"""Jobs that travel through the store, to machines that share no file system with the one that waits.

The order lies in the store, with records of all files that the job reads; the machine that does it fetches
those which it does not have, in folders of its own, whose paths take the place of those in the order. What
the job makes travels back the same way. Whoever does the job is given the order's SHA-256 by the executor,
and the order has those of all files: nobody who can write to the store can slip in another job.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import UnavailableError
from ..evaluation.trace import Trace
from ..models.files import files_to_load
from ..progress import Progress
from ..store.digest import fingerprint
from ..store.layout import ENTRY, HALF_BUILT, MANIFEST, owner
from ..store.remote_manifest import FileRecord, describe, read_records, write_records
from ..store.store import Store
from .carrier import Bundle, Carrier
from .order import ORDER, REPLY, STARTED, Order

_PROGRESS = "progress.json"
_MESSAGES = (ORDER, STARTED, _PROGRESS, REPLY)
#: How often one side tells the other how far a job has come, and how often that one asks.
_REPORT_SECONDS = 5.0
#: The kind of what is no entry of the cache: a model's folder, a method's source file.
_INPUTS = "inputs"
#: The one file of an entry of the kind ``objects``.
_CONTENT = "content"
#: A job's name, and the SHA-256 of its order.
_ADDRESS = re.compile(r"[\w-]+:[0-9a-f]{64}")


class CarriedSubmission:
    """A job whose order lies in the store at ``url``."""

    def __init__(self, order: Order, progress: Progress, carrier: Carrier, store: Store, url: str) -> None:
        """Send the order, and what it names. Raises UnavailableError where the store cannot be used."""
        self._carrier = carrier
        self._order = order
        self._asked = 0.0
        self._latest: list[Any] | None = None
        self._has_begun = False
        #: What was read when it was first asked for.
        self._reply: str | None = None
        self.folder = order.write()
        self.name = self.folder.name
        try:
            paths = dict.fromkeys((*order.reads, *order.writes))
            self._bundles = {path: _bundle(path, order, store) for path in paths}
            for path, bundle in self._bundles.items():
                carrier.send(bundle, path.parent if path.is_file() else path, progress)
            text = json.dumps({**order.to_dict(), "limit": store.limit_bytes, "paths": self._paths()})
            carrier.write_message(self.name, ORDER, text)
        except BaseException:
            self.discard()
            raise
        self.argument = f"{url}#{self.name}:{_sha256(text)}"  # see is_address

    def _paths(self) -> dict[str, Any]:
        return {
            str(path): {
                "kind": bundle.kind,
                "key": bundle.key,
                "is_file": path.is_file(),
                "files": write_records(bundle.files),
            }
            for path, bundle in self._bundles.items()
        }

    def has_begun(self) -> bool:
        """Return whether a machine has begun the job, as was last heard."""
        self._listen()
        return self._has_begun

    def has_reply(self) -> bool:
        """Return whether there is a reply."""
        self._asked = 0.0  # the job has ended, and so it is known for certain whether it had begun
        self._listen()
        self._reply = self._carrier.read_message(self.name, REPLY)
        return self._reply is not None

    def pass_on(self, progress: Progress) -> None:
        """Pass on what came of its progress since the last time."""
        self._listen()
        latest, self._latest = self._latest, None
        if latest:
            progress(*latest)

    def _listen(self) -> None:
        """Ask the store, now and then, whether the job has begun, and how far it has come.

        What it does not answer is asked again: only the reply is needed, and a job may run for hours.
        """
        if time.monotonic() - self._asked < _REPORT_SECONDS:
            return
        self._asked = time.monotonic()
        with suppress(UnavailableError, ValueError):
            if not self._has_begun:
                self._has_begun = self._carrier.read_message(self.name, STARTED) is not None
            elif text := self._carrier.read_message(self.name, _PROGRESS):
                self._latest = json.loads(text)

    def reply(self, progress: Progress) -> dict[str, Any] | None:
        """Return ``answer`` or ``error``, with what the job made in its place; None without a reply."""
        text = self._reply or self._carrier.read_message(self.name, REPLY)
        if text is None:
            return None
        try:
            plain: dict[str, Any] = json.loads(text)
            made = {path: read_records(plain["made"].get(str(path), {})) for path in self._order.writes}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UnavailableError(
                "a job's reply in the store is damaged", given=f"{self.name}/{REPLY}"
            ) from None
        for number, (path, files) in enumerate(made.items()):
            arrived = self.folder / f"made-{number}"
            self._carrier.fetch(self._bundles[path]._replace(files=files), arrived, progress)
            # A JSON document says that what it names is there: it comes last, after all a trace's plan.
            for name in sorted(files, key=lambda one: (one.endswith(".json"), one == "plan.json", one)):
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (arrived / name).replace(path / name)
        if "error" in plain:
            self._carrier.look_again()  # a file may have been missing that was sent before
        return plain

    def discard(self) -> None:
        """Remove the folder and the messages: files stay, as of any entry that is not whole yet."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._carrier.remove_messages(self.name, _MESSAGES)


def _bundle(path: Path, order: Order, store: Store) -> Bundle:
    """Return what is to be sent of a path: of a trace what lasts, of another entry all, else what loads."""
    kind, key = _entry(path, order.root)
    if path.is_file():
        base, names = path.parent, [path.name]
    elif kind == "traces":
        base, names = path, Trace(path).lasting
    elif key:
        base, names = path, _names_below(path)
    else:
        base, names = path, [str(one.relative_to(path)) for one in files_to_load(path)]
    files = describe(base, names, store.file_digest)
    return Bundle(kind, key or fingerprint(write_records(files))[:32], files)


def _entry(path: Path, root: Path) -> tuple[str, str]:
    """Return the kind and key of an entry of the cache, even one that is being built; else no key."""
    if path.is_relative_to(root):
        match path.relative_to(root).parts:
            case [kind, name] if found := ENTRY.fullmatch(name) or HALF_BUILT.fullmatch(name):
                return kind, found[found.lastindex or 0]
    return _INPUTS, ""


def _names_below(folder: Path) -> list[str]:
    """Return the names of a folder's files, without manifest and what is being written."""
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST and not path.name.startswith(".")
    ]


class Arrival:
    """A job that came through the store, on the machine that does it."""

    def __init__(self, address: str, carrier: Carrier, root: Path) -> None:
        """``address`` is what follows ``#`` in a submission's argument, ``root`` the cache of this machine.

        Raises UnavailableError where the store cannot be used, or has another order or none.
        """
        self.name, _, digest = address.partition(":")
        text = carrier.read_message(self.name, ORDER)
        if text is None or _sha256(text) != digest:
            raise UnavailableError(
                "the store has no such job",
                given=f"{self.name}: {'nothing' if text is None else 'another order'}",
                accepted="an order that whoever waits has just written",
            )
        self._carrier = carrier
        self._plain = json.loads(text)
        self._store = Store(root, self._plain["limit"])
        self._reported = 0.0
        self._places: dict[str, Path] = {}
        self._folder = root / "jobs" / f"carried-{uuid.uuid4().hex[:12]}"
        with self._keeping():
            self._folder.mkdir(parents=True)
            (self._folder / "owner.json").write_text(json.dumps(owner()), encoding="utf-8")

    def unpack(self) -> Order:
        """Say that the job has begun, fetch what it reads, and return the order as it is on this machine."""
        self._carrier.write_message(self.name, STARTED, "")
        with self._keeping():
            for number, (path, row) in enumerate(self._plain["paths"].items()):
                folder = self._folder / "files" / str(number)
                folder = folder if row["is_file"] else folder / Path(path).name
                folder.mkdir(parents=True)
                bundle = _bundle_of(row)
                for name in bundle.files:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name).symlink_to(self._object(bundle, name))
                self._places[path] = folder / Path(path).name if row["is_file"] else folder
        return replace(Order.from_dict(self._plain).with_paths(self._places), root=self._store.root)

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """Explain where this machine cannot keep what a job reads."""
        try:
            yield
        except OSError as fault:
            raise UnavailableError(
                "a machine that should run a job cannot keep its files",
                given=f"{self._store.root}: {fault.strerror or fault}",
                accepted="a folder that can be written, with room for models and checkpoints",
                remedy="free space there, or let TENPAK_CACHE_DIR name another folder there",
            ) from None

    def _object(self, bundle: Bundle, name: str) -> Path:
        """Return a file of this machine's cache, fetched unless it is there."""
        record = bundle.files[name]

        def make(folder: Path) -> dict[str, Any]:
            self._carrier.fetch(bundle._replace(files={name: record}), folder, self.progress)
            (folder / name).rename(folder / _CONTENT)
            return {}

        return self._store.directory("objects", {"sha256": record.sha256}, make).path / _CONTENT

    def progress(self, done: int, total: int, unit: str) -> None:
        """Tell whoever waits how far the job has come, now and then."""
        if time.monotonic() - self._reported > _REPORT_SECONDS:
            self._reported = time.monotonic()
            with suppress(UnavailableError):
                self._carrier.write_message(self.name, _PROGRESS, json.dumps([done, total, unit]))

    def reply(self, reply: Mapping[str, Any]) -> None:
        """Send back what the job made, and then the reply, in which paths are those of whoever waits.

        After an error only windows that were measured: the next job goes on after these.
        """
        failed = "error" in reply
        made = {path: self._send(path, failed) for path in self._plain["writes"] if path in self._places}
        text = json.dumps({**reply, "made": made})
        if failed:
            for path, here in self._places.items():
                text = text.replace(json.dumps(str(here))[1:-1], json.dumps(path)[1:-1])
        self._carrier.write_message(self.name, REPLY, text)

    def _send(self, path: str, failed: bool) -> dict[str, Any]:
        """Send the files of a folder that are new in it, and return their records."""
        folder, before = self._places[path], _bundle_of(self._plain["paths"][path])
        found = _names_below(folder)
        if failed:
            found = Trace(folder).lasting if before.kind == "traces" else []
        names = [one for one in found if one not in before.files or not (folder / one).is_symlink()]
        bundle = before._replace(files=describe(folder, names, self._store.file_digest))
        self._carrier.send(bundle, folder, self.progress)
        for name, record in bundle.files.items():
            self._keep(folder / name, record)
        return write_records(bundle.files)

    def _keep(self, file: Path, record: FileRecord) -> None:
        """Keep a file that was made here: the next job may need it."""

        def move(folder: Path) -> dict[str, Any]:
            file.rename(folder / _CONTENT)
            return {}

        with suppress(OSError):  # where it cannot be kept, it is fetched
            self._store.directory("objects", {"sha256": record.sha256}, move)

    def close(self) -> None:
        """Remove the folders of the job."""
        shutil.rmtree(self._folder, ignore_errors=True)


def is_address(text: str) -> bool:
    """Return whether a text is what follows ``#`` in the argument of a job that travels."""
    return _ADDRESS.fullmatch(text) is not None


def _bundle_of(row: Mapping[str, Any]) -> Bundle:
    return Bundle(row["kind"], row["key"], read_records(row["files"]))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
