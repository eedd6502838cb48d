"""The git history of a folder, in few processes: the files of a revision, and every committed version.

Calls the git command directly: GitPython does so too, but with more processes, and pygit2 would make a native
library a dependency of the core for the sake of four commands.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import GitError

#: Marks each commit in the log. It cannot be confused with a file's row, which begins with a colon.
_COMMIT = "\x02"


@dataclass(frozen=True)
class Version:
    """One version of a file: the commit that made it, with its path and blob in that commit.

    ``old`` is the previous path if the commit renamed the file. ``blob`` is empty if the commit deleted it.
    """

    commit: str
    date: str
    path: str
    old: str
    blob: str


class Repository:
    """The git repository around a folder; paths are relative to that folder."""

    def __init__(self, folder: Path) -> None:
        """Find the repository that has the folder, which need not exist: a submodule's own, if it is in one.

        Raises GitError where the folder is outside every repository.
        """
        folder = folder.resolve()
        here = next(place for place in (folder, *folder.parents) if place.is_dir())
        top = _git(here, "rev-parse", "--show-toplevel").decode().rstrip("\n")
        self._top = Path(top).resolve()
        self._folder = folder.relative_to(self._top).as_posix()

    def files(self, revision: str) -> dict[str, str]:
        """Return the files below the folder in a revision, path to blob."""
        commit = self._commit(revision)
        listed = _git(self._top, "ls-tree", "-r", "-z", commit, "--", self._folder).decode(errors="replace")
        rows = [row.partition("\t") for row in listed.split("\0") if row]
        return {self._below(path): facts.split()[2] for facts, _, path in rows if " blob " in facts}

    def versions(self) -> Iterator[Version]:
        """Yield every version of every file below the folder in the history of HEAD, the newest first."""
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
        """Read the contents of blobs, all with one process."""
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
                f"there is no git revision {revision!r}",
                given=revision,
                accepted="a commit, a tag or a branch, such as HEAD~1 or origin/main",
                remedy="fetch it first, if it is on a remote; a shallow clone has only the newest commits",
            ) from None

    def _below(self, path: str) -> str:
        return path if self._folder == "." else path.removeprefix(f"{self._folder}/")


def _git(folder: Path, *arguments: str, given: bytes = b"") -> bytes:
    """Run a git command and return its output; raises GitError."""
    environment = {**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_LITERAL_PATHSPECS": "1"}
    command = ["git", "-C", str(folder), *arguments]
    try:
        ran = subprocess.run(command, input=given, capture_output=True, env=environment, check=False)
    except FileNotFoundError:
        raise GitError("git is not installed, or not in PATH", remedy="install git") from None
    if ran.returncode:
        message = ran.stderr.decode(errors="replace").strip()
        if "not a git repository" in message:
            raise GitError(
                f"{folder} is not in a git repository", remedy="run it where the baselines are committed"
            )
        raise GitError(f"git {arguments[0]} failed", given=message or f"exit code {ran.returncode}")
    return ran.stdout
