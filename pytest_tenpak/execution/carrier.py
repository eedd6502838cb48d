"""Files and messages of jobs that travel through the store which machines share.

For machines that share no file system. Files lie where the store's entries have theirs, by their SHA-256:
what is an entry already is not sent again, and what a job made needs only a manifest to become one. Messages
lie in ``jobs/``, and are removed with the job. Unlike the cache's second tier, a job cannot do without:
a store that cannot be used is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from ..errors import UnavailableError
from ..progress import Progress, ignore
from ..store.asking import UnusableError
from ..store.objects import DamagedError, Objects
from ..store.remote_manifest import FileRecord, is_plain

#: The folder of messages, which is no kind of entries.
_JOBS = "jobs"


class Bundle(NamedTuple):
    """Files of one folder, by relative name, and where they lie in the store."""

    kind: str
    key: str
    files: Mapping[str, FileRecord]


class Carrier:
    """Sends and fetches; ``shown`` is the store's address as it may be printed."""

    def __init__(self, objects: Objects, shown: str) -> None:
        self._objects = objects
        self._shown = shown
        self._sent: set[tuple[str, str, str]] = set()

    def send(self, bundle: Bundle, folder: Path, progress: Progress = ignore) -> None:
        """Send the files of a folder that are not there yet.

        Raises UnavailableError, for a name too that the other side would not accept.
        """
        kind, key, files = bundle
        if strange := [name for name in files if not is_plain(name)]:
            raise UnavailableError(
                "a file cannot travel to other machines under its name",
                given=folder / strange[0],
                accepted='a name of printable characters without \\ : * ? " < > |, of 200 bytes at most',
                remedy="rename the file, or remove it",
            )
        if all((kind, key, record.sha256) in self._sent for record in files.values()):
            return
        with self._required("written"):
            there = self._objects.listed(kind, key)
            missing = {name: one for name, one in files.items() if there.get(one.sha256) != one.size}
            done, total = 0, sum(record.size for record in missing.values())
            for name, record in missing.items():
                self._objects.upload(folder / name, record.size, kind, key, record.sha256)
                progress(done := done + record.size, total, "bytes")
            self._sent.update((kind, key, record.sha256) for record in files.values())

    def fetch(self, bundle: Bundle, folder: Path, progress: Progress = ignore) -> None:
        """Fetch the files of a bundle to new files of a folder.

        Raises UnavailableError. A damaged file is removed from the store, so that it is sent again.
        """
        kind, key, files = bundle
        try:
            with self._required("read"):
                self._objects.download(files, folder, progress, kind, key)
        except DamagedError as damage:
            with suppress(FileNotFoundError, UnusableError):
                self._objects.remove(kind, key, damage.name)
            raise UnavailableError(
                "a file that travels through the store did not arrive as it was sent",
                given=f"{self._shown}/{kind}/{key}: {damage}",
                remedy="run again: what was damaged has been removed there, and is sent or made anew",
            ) from None

    def write_message(self, job: str, name: str, text: str) -> None:
        """Write a message about a job. Raises UnavailableError."""
        with self._required("written"):
            self._objects.write(text.encode(), _JOBS, f"{job}.{name}", anew=True)

    def read_message(self, job: str, name: str) -> str | None:
        """Return a message about a job, None where there is none. Raises UnavailableError."""
        with self._required("read"), suppress(FileNotFoundError):
            return self._objects.read(_JOBS, f"{job}.{name}").decode()
        return None

    def remove_messages(self, job: str, names: Iterable[str]) -> None:
        """Remove messages about a job, as far as there are any and they can be removed."""
        for name in names:
            with suppress(FileNotFoundError, UnusableError):
                self._objects.remove(_JOBS, f"{job}.{name}")

    def look_again(self) -> None:
        """Ask the store again for what it has, in place of what is known to have been sent."""
        self._sent.clear()

    @contextmanager
    def _required(self, what: str) -> Iterator[None]:
        try:
            yield
        except (UnusableError, FileNotFoundError) as fault:
            words = fault if isinstance(fault, UnusableError) else "there is no such bucket"
            raise UnavailableError(
                f"the store through which jobs travel cannot be {what}",
                given=f"{self._shown}: {words}",
                accepted="a store that this machine and all that run jobs can read and write",
                remedy="correct --tenpak-store, or the credentials in the environment of its library",
            ) from None
