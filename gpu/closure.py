"""What has to be carried for some distributions to run elsewhere: wheels, fetched wave by wave.

The versions are those of ``constraints.txt``. pip's own resolver would want torch and its CUDA packages too,
which the other machine has, and takes no source packages for another interpreter.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: What a machine with torch on CUDA has (setuptools too, which torch needs), and what only builds use.
LEFT_OUT = re.compile(r"torch|triton|nvidia-.*|cuda-.*|setuptools|maturin|cmake")
_PIP = (sys.executable, "-m", "pip")
#: pip matches each of these names exactly.
_GLIBC = (*range(40, 16, -1), 12, 5)


@dataclass(frozen=True)
class Target:
    """The other machine's interpreter: CPython of a version such as ``3.12``, x86-64 Linux with glibc."""

    python: str

    @property
    def environment(self) -> dict[str, str]:
        """What markers of requirements see there."""
        return {
            **{name: str(value) for name, value in default_environment().items()},
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "sys_platform": "linux",
            "platform_system": "Linux",
            "platform_machine": "x86_64",
            "implementation_name": "cpython",
        }

    @property
    def arguments(self) -> list[str]:
        """What pip needs to be told to fetch wheels for it."""
        platforms = [f"manylinux_2_{n}_x86_64" for n in _GLIBC]
        platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
        named = [word for name in platforms for word in ("--platform", name)]
        return ["--only-binary=:all:", "--python-version", self.python, "--implementation", "cp", *named]

    @property
    def interpreter(self) -> str | None:
        """An interpreter here that compiles for it, where there is one: this one if it is of that version."""
        ours = ".".join(map(str, sys.version_info[:2]))
        found = sys.executable if ours == self.python else f"python{self.python}"
        with suppress(OSError):
            if (
                subprocess.run([found, "-m", "pip", "--version"], capture_output=True, check=False).returncode
                == 0
            ):
                return found
        return None


@dataclass
class Closure:
    """Wheels in ``folder`` of whatever some requirements need, directly or not, on the target.

    ``pins`` has the version of each distribution by canonical name; ``there`` those that the target has, by
    which a requirement that their version meets is met. Where a wheel would have to be compiled, and no
    interpreter of the target's version is here, the source package is put there in its place.
    """

    folder: Path
    target: Target
    pins: Mapping[str, str]
    there: Mapping[str, str] = field(default_factory=dict)
    _done: set[tuple[str, frozenset[str]]] = field(default_factory=set)
    #: Requirements by name of what goes as a source package.
    _sources: dict[str, list[str]] = field(default_factory=dict)

    def add(self, requirements: Iterable[Requirement]) -> None:
        """Fetch what is not here yet, then what that needs."""
        wave = list(requirements)
        while wave:
            self._fetch({canonicalize_name(one.name) for one in wave})
            wave = [needed for one in wave for needed in self._needs(one)]

    def add_alone(self, name: str) -> None:
        """Fetch one distribution and nothing that it needs."""
        self._fetch({canonicalize_name(name)})

    def _needs(self, requirement: Requirement) -> list[Requirement]:
        """What one distribution with its extras needs, so far as that was not asked before."""
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in self._done:
            return []
        self._done.add((name, extras))
        known = self._sources[name] if name in self._sources else requires(self._wheel(name))
        lines = (Requirement(line) for line in known)
        return [one for one in lines if self._is_wanted(one, extras)]

    def _is_wanted(self, requirement: Requirement, extras: frozenset[str]) -> bool:
        name = canonicalize_name(requirement.name)
        if LEFT_OUT.fullmatch(name):
            return False
        # Of a distribution with extras, what these need has to be asked in any case.
        version = None if requirement.extras else self.there.get(name)
        if version is not None and requirement.specifier.contains(version, prereleases=True):
            return False
        environment = self.target.environment
        marker = requirement.marker
        return marker is None or any(marker.evaluate({**environment, "extra": e}) for e in (extras or {""}))

    def _wheel(self, name: str) -> Path:
        found = [path for path in self.folder.glob("*.whl") if _name_of(path) == name]
        if len(found) != 1:
            raise SystemExit(f"{len(found)} wheels of {name} in {self.folder}, where one is needed")
        return found[0]

    def _fetch(self, names: set[str]) -> None:
        """Fetch wheels; build those of which there are none."""
        wanted = sorted(names - self._sources.keys() - {_name_of(path) for path in self.folder.glob("*.whl")})
        unpinned = [name for name in wanted if name not in self.pins]
        if unpinned:
            raise SystemExit(f"constraints.txt has no version of {', '.join(unpinned)}")
        asked = {name: f"{name}=={self.pins[name]}" for name in wanted}
        if not asked or self._download(*asked.values()):
            return
        for name, one in asked.items():
            if not self._download(one):
                self._build(name, one)

    def _download(self, *asked: str) -> bool:
        command = [*_PIP, "download", "--quiet", "--no-deps", "--dest", str(self.folder)]
        ran = subprocess.run([*command, *self.target.arguments, *asked], capture_output=True, check=False)
        return ran.returncode == 0

    def _build(self, name: str, requirement: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            built = build_wheel(requirement, Path(folder))
            if built.stem.endswith("-none-any"):
                shutil.move(built, self.folder)
                return
            self._sources[name] = requires(built)
        if python := self.target.interpreter:
            print(f"compiling {requirement} for Python {self.target.python}: there is no wheel of it")
            build_wheel(requirement, self.folder, python)
        else:
            print(f"{requirement} goes as a source package: no python{self.target.python} here compiles it")
            command = [*_PIP, "download", "--quiet", "--no-deps", f"--no-binary={name}", requirement]
            subprocess.run([*command, "--dest", str(self.folder)], check=True)


def build_wheel(source: str, folder: Path, python: str = sys.executable) -> Path:
    """Build a wheel of a requirement or a source tree; end the program with pip's words where that fails."""
    before = set(folder.glob("*.whl"))
    command = [python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), source]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{source} cannot be built with {python}:\n{ran.stderr[-2000:]}")
    (built,) = set(folder.glob("*.whl")) - before
    return built


def requires(wheel: Path) -> list[str]:
    """Return the requirements in a wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
        return HeaderParser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []


def read_pins(constraints: Path) -> dict[str, str]:
    """Read ``name==version`` lines."""
    rows = (line.partition("==") for line in constraints.read_text(encoding="utf-8").splitlines())
    return {canonicalize_name(name): version.strip() for name, found, version in rows if found}


def _name_of(wheel: Path) -> str:
    return canonicalize_name(wheel.name.partition("-")[0])
