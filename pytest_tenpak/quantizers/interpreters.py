"""Other Python interpreters, for backends whose dependencies conflict with those of the test suite."""

from __future__ import annotations

import ast
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..errors import SpecError, UnavailableError

OLDEST = (3, 10)
_SECONDS = 120
# Runs under any Python, so that one that is too old can still report its version.
_PROBE = """
import json, platform, sys
found = {"python": platform.python_version()}
if sys.version_info >= (3, 8):
    from importlib.metadata import PackageNotFoundError, version
    for name in sys.argv[1:]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass
print(json.dumps(found))
"""
_ACCEPTED = """NAME=PATH pairs separated by commas or newlines, or a mapping such as {"NAME": "PATH"}"""
_EXAMPLE = "for example: auto-gptq=envs/old/bin/python"


class Interpreters:
    """The interpreter that each backend runs in: one that was named for it, or this one."""

    def __init__(self, named: Mapping[str, Path]) -> None:
        self._named = {_normal(name): path for name, path in named.items()}

    def python(self, backend: str) -> Path | None:
        """Return the interpreter for a backend's distribution, or None for the one that runs pytest."""
        path = self._named.get(_normal(backend))
        return None if path is None or path == Path(sys.executable) else path

    def unknown_backends(self, backends: Collection[str]) -> list[str]:
        """List the names that an interpreter was given for and that are not among these backends."""
        known = {_normal(backend) for backend in backends}
        return [name for name in self._named if name not in known]

    def versions(self, backend: str, *distributions: str) -> dict[str, str]:
        """Return versions of ``python`` and the distributions in the backend's interpreter.

        Absent ones are left out. Another interpreter is started once per process and set of names. Raises
        what :func:`installed_in` raises.
        """
        python = self.python(backend)
        if python is not None:
            return dict(installed_in(python, tuple(sorted(distributions))))
        return _here(distributions)


@cache
def installed_in(python: Path, distributions: tuple[str, ...] = ()) -> Mapping[str, str]:
    """Return versions of ``python`` and the distributions in another interpreter; absent ones are left out.

    Raises UnavailableError if it does not exist, SpecError if it is not a working Python 3.10 or later.
    """
    if python.is_dir():
        raise _unfit(python, "is a folder", remedy=f"name the interpreter in it: {python / 'bin' / 'python'}")
    if not python.exists():
        raise UnavailableError(
            f"the interpreter {python} does not exist",
            given="a broken symbolic link" if python.is_symlink() else "no such file",
            remedy="create that environment, or correct --tenpak-python",
        )
    if not os.access(python, os.X_OK):
        raise _unfit(python, "cannot be executed")
    try:
        ran = subprocess.run(
            [python, "-c", _PROBE, *distributions],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environment(python),
            cwd=os.sep,
        )
        found: dict[str, str] = json.loads(ran.stdout.splitlines()[-1])
        numbers = tuple(int(number) for number in re.findall(r"\d+", found["python"])[:2])
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise _unfit(python, "does not run", given=str(fault)) from None
    except (ValueError, LookupError, TypeError):
        output = (ran.stderr or ran.stdout).strip()[-500:] or "none"
        raise _unfit(
            python, "is not a working Python", given=f"exit code {ran.returncode}, output: {output}"
        ) from None
    if numbers < OLDEST:
        raise _unfit(python, f"is Python {found['python']}, which is too old")
    return found


def _unfit(python: Path, what: str, given: str | None = None, remedy: str | None = None) -> SpecError:
    return SpecError(
        f"the interpreter {python} {what}",
        given=given,
        accepted=f"a working Python {OLDEST[0]}.{OLDEST[1]} or later",
        remedy=remedy or "correct --tenpak-python",
    )


def environment(python: Path | None) -> dict[str, str]:
    """Return the user's environment; for another interpreter without variables that name our packages."""
    if python is None:
        return dict(os.environ)
    ours = {"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__"}
    ours |= {"VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT"}
    theirs = {name: value for name, value in os.environ.items() if name not in ours}
    # As activation does: programs that a backend starts by name (ninja, a compiler wrapper) are found there.
    return {**theirs, "PATH": os.pathsep.join([str(python.parent), theirs.get("PATH", os.defpath)])}


def parse_interpreters(text: str, root: Path) -> dict[str, Path]:
    """Parse interpreters by backend, from ``NAME=PATH`` pairs (separated by commas or newlines) or a mapping.

    ``~`` is the user's home, relative paths start at ``root``, and links are not resolved: a virtual
    environment's python is a link, and belongs to the environment only by its own path. Raises SpecError.
    """
    stripped = text.strip()
    pairs = _literal(stripped) if stripped.startswith("{") else _pairs(stripped)
    interpreters: dict[str, Path] = {}
    for name, path in pairs:
        if not (isinstance(name, str) and isinstance(path, str) and name.strip() and path.strip()):
            raise _bad(text)
        if _normal(name.strip()) in map(_normal, interpreters):
            raise SpecError(
                f"two interpreters are named for {name.strip()!r}", given=text, remedy="remove one of them"
            )
        try:
            interpreters[name.strip()] = root / Path(path.strip()).expanduser()
        except RuntimeError:  # ~NAME of an unknown user
            raise _bad(text) from None
    return interpreters


def _literal(text: str) -> list[tuple[object, object]]:
    try:
        tree = ast.parse(text, mode="eval").body
        if not isinstance(tree, ast.Dict) or None in tree.keys:
            raise _bad(text)
        # Key by key, since a dict would drop the first of two equal keys.
        return [
            (ast.literal_eval(key), ast.literal_eval(value))
            for key, value in zip(tree.keys, tree.values, strict=True)
            if key is not None
        ]
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise _bad(text) from None


def _pairs(text: str) -> list[tuple[object, object]]:
    pairs: list[tuple[object, object]] = []
    for part in filter(None, map(str.strip, re.split(r"[,\n]", text))):
        name, equals, path = part.partition("=")
        if not equals:
            raise _bad(text)
        pairs.append((name, path))
    return pairs


def _bad(text: str) -> SpecError:
    return SpecError(
        "this is not a list of interpreters", given=repr(text), accepted=_ACCEPTED, remedy=_EXAMPLE
    )


def _normal(name: str) -> str:
    """Normalize a distribution's name as package indexes do."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def installed_versions(*distributions: str) -> dict[str, str]:
    """Return versions of the libraries behind every figure and of ``distributions``, without absent ones."""
    return _here(("pytest-tenpak", "torch", "transformers", "tokenizers", *distributions))


def _here(distributions: Collection[str]) -> dict[str, str]:
    """Return versions of ``python`` and the distributions in this interpreter, without absent ones."""
    found = {name: _version(name) for name in distributions}
    return {"python": platform.python_version()} | {name: one for name, one in found.items() if one}


@cache
def _version(distribution: str) -> str | None:
    """Return a version, None where there is none. Read once: each look parses a page of metadata."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
