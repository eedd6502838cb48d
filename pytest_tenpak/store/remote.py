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
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from .asking import UnusableError
from .objects import DamagedError, Objects
from .remote_manifest import (
    MANIFEST_NAME,
    Manifest,
    RemoteEntry,
    manifest_name,
    parse_manifest,
    remote_entries,
    render_manifest,
)
from .use import TALLY, StoreUse, Tally

#: The JSON documents among the kinds that are shared, which are written in the manifest itself.
DOCUMENTS = frozenset(("audits", "blames", "contents", "overlaps", "weights"))
#: The kinds of entries that may leave the machine. Digests of files by their inodes, what a probe found of
#: the devices, jobs and locks are of this machine alone.
SHARED = DOCUMENTS | {"models", "checkpoints", "traces"}


@contextmanager
def _show_nothing(_title: str) -> Iterator[Callable[[int, int, str], None]]:
    yield lambda _done, _total, _unit: None


class Remote:
    """A store that machines share.

    ``shown`` is its address as it may be printed. Without ``writes`` it is only read. ``show(title)``
    displays a transfer.
    """

    def __init__(
        self,
        objects: Objects,
        shown: str,
        *,
        writes: bool = True,
        show: Callable[[str], AbstractContextManager[Callable[[int, int, str], None]]] | None = None,
    ) -> None:
        self.shown = shown
        self._total = Tally()
        self._objects = objects
        self._reads = True
        self._writes = writes
        self._looked = False
        self._show = show or _show_nothing
        self._known: set[tuple[str, str, int]] = set()
        self._refused: dict[tuple[str, str], set[str]] = {}

    @property
    def fetched(self) -> Counter[str]:
        """How many entries were fetched, by kind, by all gates together."""
        return self._total.fetched

    @property
    def faults(self) -> list[str]:
        """What went wrong so far, a sentence each."""
        return self._total.faults

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
                for tally in self._tallies():
                    tally.took(kind)
                self._known.add((kind, key, found.count))
            return found
        return None

    def has(self, kind: str, key: str) -> bool:
        """Return whether there is an entry, whole or not; what was found once is not asked again."""
        if not self._reads or kind not in SHARED:
            return False
        with self._tolerated(f"{kind}/{key}"):
            self._look()
            if (kind, key, 0) not in self._known and self._objects.exists(kind, key, manifest_name(0)):
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
            return remote_entries(*self._objects.find())
        return []

    def use_of(self, tally: Tally) -> StoreUse:
        """Return what a gate took and what went wrong for it."""
        return StoreUse(self.shown, dict(tally.fetched), tuple(tally.faults))

    def _tallies(self) -> Iterator[Tally]:
        """Yield the store's own tally, and that of the gate that asks."""
        yield self._total
        if (own := TALLY.get()) is not None:
            yield own

    def _fault(self, words: str) -> None:
        for tally in self._tallies():
            tally.faults.append(words)

    # ------------------------------------------------------------ fetching

    def _look(self) -> None:
        """Find out, once, whether there is anything to read: without a push nothing else would tell."""
        if not self._writes and not self._looked:
            self._looked = True
            self._objects.require_folder()

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
            except DamagedError as damage:
                self._refuse(kind, key, count, str(damage))
                for path in folder.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        return None

    def _counts(self, kind: str, key: str) -> list[int]:
        """Return the lengths of a growing entry that there are manifests of, the longest first."""
        names = map(MANIFEST_NAME.fullmatch, self._objects.listed(kind, key))
        return sorted((int(match[1]) for match in names if match), reverse=True)

    def _read_manifest(self, kind: str, key: str, count: int) -> Manifest | None:
        try:
            text = self._objects.read(kind, key, manifest_name(count))
        except FileNotFoundError:
            return None
        try:
            return parse_manifest(text, kind, key, count)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise DamagedError("its manifest is damaged") from None

    def _download_all(self, kind: str, key: str, manifest: Manifest, folder: Path) -> None:
        if not manifest.files:
            return
        with self._show(f"fetching {kind[:-1]} {key[:8]} from {self.shown}") as progress:
            self._objects.download(manifest.files, folder, progress, kind, key)

    def _refuse(self, kind: str, key: str, count: int, damage: str) -> None:
        """Note what is damaged, so that a push of this process replaces it."""
        self._refused.setdefault((kind, key), set()).add(manifest_name(count))
        after = "made anew and replaced there" if self._writes else "made anew, and not replaced there"
        self._fault(f"the store {self.shown}: {kind}/{key} was refused and is {after}: {damage}")

    # ------------------------------------------------------------ pushing

    def _push(self, kind: str, key: str, manifest: Manifest, folder: Path) -> bool:
        try:
            text = render_manifest(kind, manifest).encode()
        except ValueError:
            return False
        refused = self._refused.get((kind, key), set())
        listed = {name: size for name, size in self._objects.listed(kind, key).items() if name not in refused}
        counts = [int(match[1]) for match in map(MANIFEST_NAME.fullmatch, listed) if match]
        if counts and max(counts) >= manifest.count:
            return False
        with (
            self._show(f"pushing {kind[:-1]} {key[:8]} to {self.shown}") if manifest.files else nullcontext()
        ):
            for name, record in manifest.files.items():
                if refused or listed.get(record.sha256) != record.size:
                    self._objects.upload(folder / name, record.size, kind, key, record.sha256)
            self._objects.write(text, kind, key, manifest_name(manifest.count), anew=bool(refused))
        for name in refused - {manifest_name(manifest.count)}:
            # Who may not remove leaves it: readers refuse it.
            with suppress(UnusableError, FileNotFoundError):
                self._objects.remove(kind, key, name)
        self._refused.pop((kind, key), None)
        return True

    # ------------------------------------------------------------ faults

    @contextmanager
    def _tolerated(self, what: str, writing: bool = False) -> Iterator[None]:
        """Note, once, that the store cannot be used, and use it no further."""
        try:
            yield
        except FileNotFoundError:
            self._give_up(what, UnusableError("there is no such bucket or folder, or nothing in it"), writing)
        except UnusableError as fault:
            self._give_up(what, fault, writing)

    def _give_up(self, what: str, fault: UnusableError, writing: bool) -> None:
        if not self._reads:
            return  # another gate, which asked at the same time, said so
        if writing and fault.denied:
            self._writes = False
            self._fault(
                f"the store {self.shown}: {what} was not pushed: {fault}; it is only read from now on "
                "(--tenpak-store-mode=read asks for that)"
            )
        else:
            self._reads = False
            self._fault(f"the store {self.shown}: {fault}; the local cache goes on alone")
