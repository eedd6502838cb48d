"""The second tier of the cache: entries in a bucket or folder that machines share.

``KIND/KEY/`` holds data objects, each named by the SHA-256 of its bytes, and manifests, each written after
all that it names. So an upload that was cut off has no manifest and is no entry, and of two machines that
push one key at once, each manifest names the objects of its own machine: there is nothing to lock, and object
stores have no locks. ``manifest-NNNNNNN.json`` says how long a growing entry is (0 for one that does not
grow); a reader takes the longest, which is whole whatever is pushed meanwhile.

What is read is input: a manifest's digest, kind and key, the names in it, and each file's size and digest are
checked before anything is moved into the cache. What fails is refused, and made anew. No failure of the store
itself is an error: it is noted once, without the words of libraries, which may quote addresses and keys, and
the local cache goes on alone.

It is given a file system as fsspec defines them, and imports nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import threading
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from .digest import file_digest, fingerprint
from .layout import MANIFEST
from .strict_json import parse_json
from .use import StoreUse

#: The JSON documents among the kinds that are shared, which are written in the manifest itself.
DOCUMENTS = frozenset(("audits", "blames", "contents", "overlaps", "weights"))
#: The kinds of entries that may leave the machine. Digests of files by their inodes, what a probe found of
#: the devices, jobs and locks are of this machine alone.
SHARED = DOCUMENTS | {"models", "checkpoints", "traces"}

_MANIFEST = re.compile(r"manifest-(\d{7,12})\.json")
_KEY = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FORMAT = 1
#: Without an answer for so long (seconds) the store counts as unreachable; sending a file may take longer,
#: by its bytes, at the slowest rate (bytes in a second) that is waited for.
_ANSWER_SECONDS = 20.0
_SLOWEST = 1 << 18
_CHUNK = 1 << 24
#: What logs requests, whose headers hold signatures and tokens.
_LOGGERS = (
    "fsspec",
    "s3fs",
    "gcsfs",
    "adlfs",
    "botocore",
    "aiobotocore",
    "boto3",
    "urllib3",
    "azure",
    "google",
)

_T = TypeVar("_T")


class FileRecord(NamedTuple):
    """The size in bytes and the SHA-256 (64 hex digits) of a file of an entry."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a manifest says: ``count`` is the length of a growing entry, ``files`` are by relative name."""

    identity: Mapping[str, Any]
    facts: Mapping[str, Any]
    files: Mapping[str, FileRecord]
    count: int = 0


class RemoteEntry(NamedTuple):
    """An entry as a listing shows it, with all of its bytes.

    ``length`` is that of its longest manifest, None for an upload that has not ended.
    """

    kind: str
    key: str
    length: int | None
    size: int


class _DamagedError(Exception):
    """What is in the store is not what it says: which file, and why."""


class _UnusableError(Exception):
    """The store did not answer, or refused; the text is safe to show."""

    def __init__(self, words: str, denied: bool = False) -> None:
        super().__init__(words)
        self.denied = denied


@contextmanager
def _show_nothing(_title: str) -> Iterator[Callable[[int, int, str], None]]:
    yield lambda _done, _total, _unit: None


def redacted(url: str) -> str:
    """Return a URL without what may be secret in it: user and password, query and fragment."""
    shown = re.sub(r"//.*@", "//***@", url)
    return re.sub(r"[?#].*", "?***", shown, flags=re.DOTALL)


class Remote:
    """A store that machines share.

    ``files`` is a file system of fsspec, ``root`` the folder in it, ``shown`` its address as it may be
    printed. Without ``writes`` it is only read. In an ``is_object_store`` an object appears whole or not at
    all; elsewhere files are written beside their place and renamed. ``show(title)`` displays a transfer.
    """

    def __init__(
        self,
        files: Any,
        root: str,
        shown: str,
        *,
        writes: bool = True,
        is_object_store: bool = False,
        show: Callable[[str], AbstractContextManager[Callable[[int, int, str], None]]] | None = None,
    ) -> None:
        self.shown = shown
        #: What went wrong so far, a sentence each.
        self.faults: list[str] = []
        #: How many entries were fetched, by kind.
        self.fetched: Counter[str] = Counter()
        self._files = files
        self._root = root.rstrip("/")
        self._reads = True
        self._writes = writes
        self._looked = False
        self._is_object_store = is_object_store
        self._show = show or _show_nothing
        self._asking = threading.Lock()
        self._known: set[tuple[str, str, int]] = set()
        self._refused: dict[tuple[str, str], set[str]] = {}

    # ------------------------------------------------------------ verbs

    def fetch(self, kind: str, key: str, folder: Path, longer_than: int | None = None) -> Manifest | None:
        """Fetch an entry into an empty folder, checked; return its manifest, None where there is none.

        ``longer_than`` is for growing entries: the longest is taken, if it is longer than that.
        """
        if not self._reads or kind not in SHARED:
            return None
        with self._tolerated(f"{kind}/{key}"):
            self._look()
            found = self._fetch(kind, key, folder, longer_than)
            if found is not None:
                self.fetched[kind] += 1
                self._known.add((kind, key, found.count))
            return found
        return None

    def has(self, kind: str, key: str) -> bool:
        """Return whether there is an entry, whole or not; what was found once is not asked again."""
        if not self._reads or kind not in SHARED:
            return False
        with self._tolerated(f"{kind}/{key}"):
            self._look()
            if (kind, key, 0) not in self._known and self._ask(
                lambda: self._files.exists(self._path(kind, key, _manifest_name(0)))
            ):
                self._known.add((kind, key, 0))
        return (kind, key, 0) in self._known

    def wants(self, kind: str, key: str, count: int) -> bool:
        """Return whether a push may be of use: this process may write, and does not know it to be there."""
        return self._reads and self._writes and kind in SHARED and (kind, key, count) not in self._known

    def push(self, kind: str, key: str, manifest: Manifest, folder: Path) -> bool:
        """Push an entry that is in ``folder`` unless it is there, or a longer one; return whether it was.

        What was refused of it is replaced. Facts with numbers that JSON does not have are not pushed.
        """
        known = kind, key, manifest.count
        if not self.wants(*known):
            return False
        with self._tolerated(f"{kind}/{key}", writing=True):
            pushed = self._push(kind, key, manifest, folder)
            self._known.add(known)
            return pushed
        return False

    def entries(self) -> list[RemoteEntry]:
        """List all entries, half-uploaded ones too; none where the store cannot be used."""
        with self._tolerated("the list of entries"), suppress(FileNotFoundError):
            found = self._ask(lambda: self._files.find(self._root, detail=True), 30 * _ANSWER_SECONDS)
            return _entries(self._root, found)
        return []

    def use_since(self, before: Counter[str], faults: int) -> StoreUse:
        """Return what was fetched and what went wrong since a copy of ``fetched`` and a number of faults."""
        return StoreUse(self.shown, dict(self.fetched - before), tuple(self.faults[faults:]))

    # ------------------------------------------------------------ fetching

    def _look(self) -> None:
        """Find out, once, whether there is anything to read: without a push nothing else would tell."""
        if not self._writes and not self._looked:
            self._looked = True
            self._ask(lambda: self._files.ls(self._root))

    def _fetch(self, kind: str, key: str, folder: Path, longer_than: int | None) -> Manifest | None:
        counts = [0] if longer_than is None else self._counts(kind, key)
        for count in counts:
            if longer_than is not None and count <= longer_than:
                return None
            try:
                found = self._read_manifest(kind, key, count)
                if found is not None:
                    self._download_all(kind, key, found, folder)
                return found
            except _DamagedError as damage:
                self._refuse(kind, key, count, str(damage))
                for path in folder.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        return None

    def _counts(self, kind: str, key: str) -> list[int]:
        """Return the lengths of a growing entry that there are manifests of, the longest first."""
        names = map(_MANIFEST.fullmatch, self._listed(kind, key))
        return sorted((int(match[1]) for match in names if match), reverse=True)

    def _listed(self, kind: str, key: str) -> dict[str, int]:
        """Return the size in bytes of each object of an entry by name; empty where there is none."""

        def ask() -> Any:
            self._files.invalidate_cache()  # some file systems remember what a folder held
            return self._files.ls(self._path(kind, key), detail=True)

        with suppress(FileNotFoundError):
            return {PurePosixPath(row["name"]).name: int(row["size"] or 0) for row in self._ask(ask)}
        return {}

    def _read_manifest(self, kind: str, key: str, count: int) -> Manifest | None:
        path = self._path(kind, key, _manifest_name(count))
        try:
            text = self._ask(lambda: self._files.cat_file(path))
        except FileNotFoundError:
            return None
        try:
            return _parsed(text, kind, key, count)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _DamagedError("its manifest is damaged") from None

    def _download_all(self, kind: str, key: str, manifest: Manifest, folder: Path) -> None:
        if not manifest.files:
            return
        done, total = 0, sum(record.size for record in manifest.files.values())
        with self._show(f"fetching {kind[:-1]} {key[:8]} from {self.shown}") as progress:
            for name, record in manifest.files.items():
                for size in self._download(self._path(kind, key, record.sha256), name, record, folder):
                    done += size
                    progress(done, total, "bytes")

    def _download(self, path: str, name: str, record: FileRecord, folder: Path) -> Iterator[int]:
        """Fetch one file, and yield the bytes of each piece; raises _DamagedError where it is another."""
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        sha, size = hashlib.sha256(), 0
        try:
            stream = self._ask(lambda: self._files.open(path, "rb"))
            with target.open("xb") as out:
                while size <= record.size and (piece := self._ask(lambda: stream.read(_CHUNK))):
                    out.write(piece)
                    sha.update(piece)
                    size += len(piece)
                    yield len(piece)
            self._ask(stream.close)
        except FileNotFoundError:
            raise _DamagedError(f"its file {name} is missing") from None
        if size != record.size:
            raise _DamagedError(f"its file {name} has another size than its manifest says")
        if sha.hexdigest() != record.sha256:
            raise _DamagedError(f"its file {name} has another SHA-256 than its manifest says")

    def _refuse(self, kind: str, key: str, count: int, damage: str) -> None:
        """Note what is damaged, so that a push of this process replaces it."""
        self._refused.setdefault((kind, key), set()).add(_manifest_name(count))
        after = "made anew and replaced there" if self._writes else "made anew, and not replaced there"
        self.faults.append(f"the store {self.shown}: {kind}/{key} was refused and is {after}: {damage}")

    # ------------------------------------------------------------ pushing

    def _push(self, kind: str, key: str, manifest: Manifest, folder: Path) -> bool:
        try:
            text = _rendered(kind, manifest).encode()
        except ValueError:
            return False
        refused = self._refused.get((kind, key), set())
        listed = {name: size for name, size in self._listed(kind, key).items() if name not in refused}
        counts = [int(match[1]) for match in map(_MANIFEST.fullmatch, listed) if match]
        if counts and max(counts) >= manifest.count:
            return False
        with (
            self._show(f"pushing {kind[:-1]} {key[:8]} to {self.shown}") if manifest.files else nullcontext()
        ):
            for name, record in manifest.files.items():
                if refused or listed.get(record.sha256) != record.size:
                    self._upload(folder / name, self._path(kind, key, record.sha256), record.size)
            self._write(self._path(kind, key, _manifest_name(manifest.count)), text, anew=bool(refused))
        for name in refused - {_manifest_name(manifest.count)}:
            with suppress(
                _UnusableError, FileNotFoundError
            ):  # who may not remove leaves it: readers refuse it
                self._ask(lambda name=name: self._files.rm_file(self._path(kind, key, name)))  # type: ignore[misc]
        self._refused.pop((kind, key), None)
        return True

    def _upload(self, file: Path, path: str, size: int) -> None:
        def send(to: str) -> None:
            self._files.put_file(str(file), to)

        self._placed(path, send, _ANSWER_SECONDS + size / _SLOWEST)

    def _write(self, path: str, text: bytes, anew: bool) -> None:
        """Write a manifest; the first of several machines keeps its own, unless it is ``anew``."""

        def create(to: str) -> None:
            try:
                self._files.pipe_file(to, text, mode="overwrite" if anew else "create")
            except FileExistsError:
                pass  # another machine was first with the same
            except (TypeError, NotImplementedError):  # a file system that cannot create exclusively
                self._files.pipe_file(to, text)

        self._placed(path, create, _ANSWER_SECONDS)

    def _placed(self, path: str, send: Callable[[str], None], seconds: float) -> None:
        """Write an object so that it appears whole: at once, or under another name that is then changed."""
        if self._is_object_store:
            self._ask(lambda: send(path), seconds)
            return
        part = f"{path}.{uuid.uuid4().hex[:8]}.part"

        def work() -> None:
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            try:
                send(part)
                self._files.mv(part, path)
            except BaseException:
                with suppress(Exception):
                    self._files.rm_file(part)
                raise

        self._ask(work, seconds)

    # ------------------------------------------------------------ asking

    def _path(self, *parts: str) -> str:
        return "/".join((self._root, *parts))

    @contextmanager
    def _tolerated(self, what: str, writing: bool = False) -> Iterator[None]:
        """Note, once, that the store cannot be used, and use it no further."""
        try:
            yield
        except FileNotFoundError:
            self._give_up(
                what, _UnusableError("there is no such bucket or folder, or nothing in it"), writing
            )
        except _UnusableError as fault:
            self._give_up(what, fault, writing)

    def _give_up(self, what: str, fault: _UnusableError, writing: bool) -> None:
        if writing and fault.denied:
            self._writes = False
            self.faults.append(
                f"the store {self.shown}: {what} was not pushed: {fault}; it is only read from now on "
                "(--tenpak-store-mode=read asks for that)"
            )
        else:
            self._reads = False
            self.faults.append(f"the store {self.shown}: {fault}; the local cache goes on alone")

    def _ask(self, call: Callable[[], _T], seconds: float = _ANSWER_SECONDS) -> _T:
        """Return what a request gives; raises FileNotFoundError, or _UnusableError for any other fault.

        In a thread, since not every library can be told to give up. One at a time: warnings and logging,
        which are silenced meanwhile, are the process's.
        """
        with self._asking, _silence():
            try:
                return _bounded(call, seconds)
            except FileNotFoundError:
                raise
            except Exception as fault:
                raise _UnusableError(_words(fault, seconds), isinstance(fault, PermissionError)) from None


def describe(
    folder: Path, names: list[str], digest: Callable[[Path], str] = file_digest
) -> dict[str, FileRecord]:
    """Return the size and SHA-256 of files of a folder, by name."""
    return {name: FileRecord((folder / name).stat().st_size, digest(folder / name)) for name in names}


def _manifest_name(count: int) -> str:
    return f"manifest-{count:07}.json"


def _rendered(kind: str, manifest: Manifest) -> str:
    """Write a manifest, with its digest; raises ValueError for numbers that JSON does not have."""
    plain = {
        "format": _FORMAT,
        "kind": kind,
        "count": manifest.count,
        "identity": manifest.identity,
        "facts": manifest.facts,
        "files": {name: record._asdict() for name, record in manifest.files.items()},
    }
    return json.dumps({**plain, "digest": fingerprint(plain)}, indent=1, sort_keys=True, allow_nan=False)


def _parsed(text: bytes, kind: str, key: str, count: int) -> Manifest:
    """Read a manifest; raises ValueError, KeyError or TypeError where it is not one of this kind and key."""
    plain = parse_json(text.decode())
    files = {name: FileRecord(**row) for name, row in plain["files"].items()}
    told = plain.pop("digest")
    is_whole = (
        plain["format"] == _FORMAT
        and told == fingerprint(plain)
        and (plain["kind"], plain["count"]) == (kind, count)
        and fingerprint(plain["identity"])[:32] == key
        and all(map(_is_plain, files))
        and not files.keys() & {str(above) for name in files for above in PurePosixPath(name).parents}
        and all(
            type(one.size) is int and one.size >= 0 and _SHA256.fullmatch(one.sha256)
            for one in files.values()
        )
    )
    if not is_whole:
        raise ValueError("not a whole manifest of this entry")
    return Manifest(plain["identity"], dict(plain["facts"]), files, count)


def _is_plain(name: str) -> bool:
    """Return whether a file's name leads to a place in its folder, and says so plainly on every system."""
    parts = name.split("/")
    return (
        name != MANIFEST
        and name.isprintable()
        and not re.search(r'[\\:*?"<>|]', name)
        and all(part not in ("", ".", "..") and len(part.encode()) <= 200 for part in parts)
        and len(name) <= 1000
    )


def _entries(root: str, found: Mapping[str, Mapping[str, Any]]) -> list[RemoteEntry]:
    """Group a listing by entries; what has no place in the layout is left out."""
    counts: dict[tuple[str, str], list[int]] = {}
    sizes: Counter[tuple[str, str]] = Counter()
    for path, row in found.items():
        match path.removeprefix(root).strip("/").split("/"):
            case [kind, key, name] if _KEY.fullmatch(key):
                sizes[kind, key] += int(row["size"] or 0)
                if found_name := _MANIFEST.fullmatch(name):
                    counts.setdefault((kind, key), []).append(int(found_name[1]))
    return [RemoteEntry(*one, max(counts.get(one, ()), default=None), sizes[one]) for one in sorted(sizes)]


def _bounded(call: Callable[[], _T], seconds: float) -> _T:
    """Return what a call gives; raises TimeoutError where it takes longer, and what it raises."""
    answers: list[_T] = []
    faults: list[BaseException] = []

    def work() -> None:
        try:
            answers.append(call())
        except BaseException as fault:
            faults.append(fault)

    thread = threading.Thread(target=work, name="tenpak-store", daemon=True)
    thread.start()
    thread.join(seconds)
    if faults:
        raise faults.pop()  # popped, so that it does not hold itself, and by its frames the store
    if not answers:
        raise TimeoutError
    return answers[0]


def _words(fault: Exception, seconds: float) -> str:
    """Say what is wrong with the store, without a word of a library's message, which may hold secrets."""
    kind = type(fault).__name__
    if isinstance(fault, TimeoutError):
        return f"no answer within {seconds:.0f} s"
    if isinstance(fault, PermissionError):
        return "access was denied"
    if "Credential" in kind:
        return "no credentials were found"
    if "Connect" in kind:
        return "it cannot be reached"
    number = fault.errno if isinstance(fault, OSError) else None
    return f"{os.strerror(number)} ({kind})" if number else f"it failed with {kind}"


@contextmanager
def _silence() -> Iterator[None]:
    """Keep libraries from logging requests, and their warnings from becoming errors of the suite."""
    before = {name: logging.getLogger(name).level for name in _LOGGERS}
    try:
        for name in before:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
