"""Objects in a bucket or folder that machines share, as fsspec's file systems give access to it.

``KIND/KEY/`` holds objects. A file of an entry is named by the SHA-256 of its bytes, so that no two machines
can write different bytes to one name, and what is fetched can be checked. Imports nothing: it is given a file
system. Every request is bounded in time; see :mod:`.asking` for what is raised.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from .asking import ask
from .remote_manifest import FileRecord

#: Without an answer for so long (seconds) the store counts as unreachable; sending a file may take longer,
#: by its bytes, at the slowest rate (bytes in a second) that is waited for.
ANSWER_SECONDS = 20.0
_SLOWEST = 1 << 18
_CHUNK = 1 << 24

_T = TypeVar("_T")


class DamagedError(Exception):
    """What is in the store is not what it says: which file, and why; ``name`` is that of its object."""

    def __init__(self, words: str, name: str = "") -> None:
        super().__init__(words)
        self.name = name


class Objects:
    """The objects below one folder.

    ``files`` is a file system of fsspec, ``root`` the folder in it. In an ``is_object_store`` an object
    appears whole or not at all; elsewhere files are written beside their place and renamed.
    """

    def __init__(self, files: Any, root: str, is_object_store: bool) -> None:
        self._files = files
        self._root = root.rstrip("/")
        self._is_object_store = is_object_store

    def require_folder(self) -> None:
        """Raise FileNotFoundError where there is no such bucket or folder, or nothing in it."""
        ask(lambda: self._files.ls(self._root), ANSWER_SECONDS)

    def find(self) -> tuple[str, Any]:
        """Return the folder, and all objects below it as fsspec lists them."""
        return self._root, ask(lambda: self._files.find(self._root, detail=True), 30 * ANSWER_SECONDS)

    def listed(self, *parts: str) -> dict[str, int]:
        """Return the size in bytes of each object of a folder by name; empty where there is none."""

        def look() -> Any:
            self._files.invalidate_cache()  # some file systems remember what a folder held
            return self._files.ls(self._path(*parts), detail=True)

        with suppress(FileNotFoundError):
            rows = ask(look, ANSWER_SECONDS)
            return {PurePosixPath(row["name"]).name: int(row["size"] or 0) for row in rows}
        return {}

    def exists(self, *parts: str) -> bool:
        """Return whether there is such an object."""
        return bool(ask(lambda: self._files.exists(self._path(*parts)), ANSWER_SECONDS))

    def read(self, *parts: str) -> bytes:
        """Return a small object; raises FileNotFoundError."""
        content: bytes = ask(lambda: self._files.cat_file(self._path(*parts)), ANSWER_SECONDS)
        return content

    def write(self, content: bytes, *parts: str, anew: bool) -> None:
        """Write a small object; the first of several machines keeps its own, unless it is ``anew``."""

        def create(to: str) -> None:
            try:
                self._files.pipe_file(to, content, mode="overwrite" if anew else "create")
            except FileExistsError:
                pass  # another machine was first with the same
            except (TypeError, NotImplementedError):  # a file system that cannot create exclusively
                self._files.pipe_file(to, content)

        self._placed(self._path(*parts), create, ANSWER_SECONDS)

    def remove(self, *parts: str) -> None:
        """Remove an object; raises FileNotFoundError."""
        ask(lambda: self._files.rm_file(self._path(*parts)), ANSWER_SECONDS)

    def upload(self, file: Path, size: int, *parts: str) -> None:
        """Send a file of ``size`` bytes."""

        def send(to: str) -> None:
            self._files.put_file(str(file), to)

        self._placed(self._path(*parts), send, ANSWER_SECONDS + size / _SLOWEST)

    def download(
        self,
        files: Mapping[str, FileRecord],
        folder: Path,
        progress: Callable[[int, int, str], None],
        *parts: str,
    ) -> None:
        """Fetch objects to new files of a folder; raises DamagedError where one is missing or another."""
        done, total = 0, sum(record.size for record in files.values())
        for name, record in files.items():
            for size in self._pieces(folder / name, name, record, *parts):
                done += size
                progress(done, total, "bytes")

    def _pieces(self, target: Path, name: str, record: FileRecord, *parts: str) -> Iterator[int]:
        """Fetch one object, and yield the bytes of each piece."""
        target.parent.mkdir(parents=True, exist_ok=True)
        sha, size, path = hashlib.sha256(), 0, self._path(*parts, record.sha256)
        try:
            stream = ask(lambda: self._files.open(path, "rb"), ANSWER_SECONDS)
            with target.open("xb") as out:
                while size <= record.size and (piece := ask(lambda: stream.read(_CHUNK), ANSWER_SECONDS)):
                    out.write(piece)
                    sha.update(piece)
                    size += len(piece)
                    yield len(piece)
            ask(stream.close, ANSWER_SECONDS)
        except FileNotFoundError:
            raise DamagedError(f"its file {name} is missing", record.sha256) from None
        if size != record.size:
            raise DamagedError(f"its file {name} has another size than it should have", record.sha256)
        if sha.hexdigest() != record.sha256:
            raise DamagedError(f"its file {name} has another SHA-256 than it should have", record.sha256)

    def _placed(self, path: str, send: Callable[[str], None], seconds: float) -> None:
        """Write an object so that it appears whole: at once, or under another name that is then changed."""
        if self._is_object_store:
            ask(lambda: send(path), seconds)
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

        ask(work, seconds)

    def _path(self, *parts: str) -> str:
        return "/".join((self._root, *parts))
