"""The files of a folder in a git revision, and every version of them, read by as few processes as possible.

By hand, since git libraries are large, start more processes or need a compiler, and four commands are enough.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import GitError

#: Before each commit of the log; no path begins so, since raw rows have a colon in front of them.
_COMMIT = "\x02"


@dataclass(frozen=True)
class Version:
    """One version of a file: the commit that made it, and the path and blob it has there.

    ``old`` is the path it had before, where the commit renamed it. ``blob`` is empty where the commit
    deleted the file.
    """

    commit: str
    date: str
    path: str
    old: str
    blob: str


class Repository:
    """The git repository around a folder; paths are relative to that folder."""

    def __init__(self, root: Path, folder: Path) -> None:
        """``root`` stands in the repository, ``folder`` need not exist. Raises GitError."""
        self._top = Path(_git(root, "rev-parse", "--show-toplevel").decode().rstrip("\n")).resolve()
        folder = folder.resolve()
        if not folder.is_relative_to(self._top):
            raise GitError(
                f"{folder} is not in the git repository {self._top}",
                remedy="keep baselines in the repository of the tests, so that changes are reviewed together",
            )
        self._folder = folder.relative_to(self._top).as_posix()

    def files(self, revision: str) -> dict[str, str]:
        """The files below the folder in a revision, path to blob."""
        commit = self._commit(revision)
        listed = _git(self._top, "ls-tree", "-r", "-z", commit, "--", self._folder).decode(errors="replace")
        rows = [row.partition("\t") for row in listed.split("\0") if row]
        return {self._below(path): facts.split()[2] for facts, _, path in rows if " blob " in facts}

    def versions(self) -> Iterator[Version]:
        """Every version of every file below the folder that led to HEAD, the newest first."""
        try:
            self._commit("HEAD")
        except GitError:
            return  # nothing is committed yet
        logged = _git(
            self._top,
            *("log", "--topo-order", "--diff-merges=first-parent", "--raw", "--no-abbrev", "-M", "-z"),
            *("--no-show-signature", "--no-relative", f"--format={_COMMIT}%H %cI", "--", self._folder),
        ).decode(errors="replace")
        words = (word.lstrip("\n") for word in logged.split("\0"))
        commit = date = ""
        for word in words:
            if word.startswith(_COMMIT):
                commit, date = word.removeprefix(_COMMIT).split()
            if not word.startswith(":"):
                continue
            _, _, _, blob, kind = word.split()
            path = old = next(words)
            if kind[0] in "RC":
                path = next(words)
            yield Version(commit, date, self._below(path), self._below(old), "" if kind[0] == "D" else blob)

    def read(self, blobs: Collection[str]) -> dict[str, bytes]:
        """The contents of blobs, all by one process."""
        if not blobs:
            return {}
        asked = "".join(f"{blob}\n" for blob in blobs).encode()
        answer = _git(self._top, "cat-file", "--batch", given=asked)
        contents, at = {}, 0
        while at < len(answer):
            end = answer.index(b"\n", at)
            name, *facts = answer[at:end].decode().split()
            at = end + 1
            if facts[0] == "missing":
                continue
            size = int(facts[1])
            contents[name] = answer[at : at + size]
            at += size + 1
        return contents

    def _commit(self, revision: str) -> str:
        asked = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        try:
            return _git(self._top, *asked).decode().strip()
        except GitError:
            raise GitError(
                f"git knows no revision {revision!r}",
                given=revision,
                accepted="a commit, a tag or a branch, such as HEAD~1 or origin/main",
                remedy="fetch it first, if it is elsewhere; a shallow clone has the newest commits only",
            ) from None

    def _below(self, path: str) -> str:
        return path if self._folder == "." else path.removeprefix(f"{self._folder}/")


def _git(folder: Path, *arguments: str, given: bytes = b"") -> bytes:
    """What a git command answers; raises GitError."""
    environment = {**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_LITERAL_PATHSPECS": "1"}
    command = ["git", "-C", str(folder), *arguments]
    try:
        ran = subprocess.run(command, input=given, capture_output=True, env=environment, check=False)
    except FileNotFoundError:
        raise GitError("git is not installed, or not in PATH", remedy="install git") from None
    if ran.returncode:
        told = ran.stderr.decode(errors="replace").strip()
        if "not a git repository" in told:
            raise GitError(
                f"{folder} is not in a git repository", remedy="run it where the baselines are committed"
            )
        raise GitError(f"git {arguments[0]} failed", given=told or f"exit code {ran.returncode}")
    return ran.stdout
