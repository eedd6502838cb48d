"""Command-line options and their same-named ini settings: command line over ini over default."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..errors import SpecError, TenpakError
from ..evaluation.divergence import MODES
from ..gate.arguments import ARGUMENTS
from ..metrics.intervals import ALPHA
from ..quantizers.interpreters import parse_interpreters
from ..quantizers.placement import NONE, OFFLOADS
from ..spec import Option, nearest
from ..units import parse_bytes
from ..verdict.update import UPDATES, Request

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ..progress import Progress
    from ..store.remote import Remote
    from ..store.store import Store


@dataclass(frozen=True)
class Setting:
    """One ``--tenpak-…`` option; ``ini`` is False for options of a single run.

    ``parse(text, rootdir)`` converts a text that needs more than its type. ``bare`` is the value of the
    option where none follows it.
    """

    option: Option
    metavar: str | None = None
    ini: bool = True
    parse: Callable[[str, Path], Any] | None = None
    bare: str | None = None

    @property
    def flag(self) -> str:
        """``--tenpak-name``."""
        return "--tenpak-" + self.option.name.replace("_", "-")

    @property
    def key(self) -> str:
        """``tenpak_name``, the ini key and the attribute of the parsed command line."""
        return "tenpak_" + self.option.name

    def source(self, config: pytest.Config) -> str:
        """Return where the value in effect comes from, as an error names it: the option or the ini key."""
        return f"ini {self.key}" if self.ini and config.getoption(self.key) is None else self.flag

    def read(self, config: pytest.Config) -> Any:
        """Return the value in effect; raise SpecError naming the option or the ini key."""
        given, source = config.getoption(self.key), self.source(config)
        if given is None and self.ini:
            given = config.getini(self.key) or None
        try:
            value = self.option.default
            if given is not None:
                value = self.option.validate(_typed(str(given), self.option.kind))
            return value if self.parse is None else self.parse(value, config.rootpath)
        except SpecError as error:
            raise error.asked_by(source) from None


def _typed(text: str, kind: type) -> Any:
    """Convert text from a command line or an ini file to the option's type, if it fits."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text


#: The model under test, where neither a marker nor the fixture ``tenpak_model`` names one.
MODEL = Setting(ARGUMENTS["model"], ARGUMENTS["model"].metavar)
#: Settings that give defaults for arguments of markers.
DEFAULTS = tuple(
    Setting(argument, None if argument.choices else argument.metavar)
    for name, argument in ARGUMENTS.items()
    if argument.metavar and name != "model"
)
RUN = tuple(
    Setting(*row)
    for row in (
        (Option("baseline_dir", str, "baselines", "folder of baseline files, below the rootdir"), "DIR"),
        (
            Option(
                "cache_dir", str, None, "folder for checkpoints and measurements; default: the user's cache"
            ),
            "DIR",
        ),
        (
            Option(
                "cache_size",
                str,
                "50GB",
                "limit for checkpoints and measured windows, as 50GB or 48GiB; 0: no limit",
            ),
            "BYTES",
            True,
            lambda text, _: parse_bytes(text),
        ),
        (
            Option(
                "store",
                str,
                None,
                "a cache that machines share, behind the local one: s3://BUCKET/PREFIX, gs://, az://, file:///",
            ),
            "URL",
        ),
        (
            Option(
                "store_mode",
                str,
                "write",
                "what to do with the shared store: take from it and add to it, or only take from it",
                choices=("read", "write"),
            ),
        ),
        (
            Option("rehash", bool, False, "read every file again instead of trusting remembered digests"),
            None,
            False,
            None,
            "true",
        ),
        (
            Option(
                "audit",
                str,
                "auto",
                "what to compare with the model's without running: weights and files (full), files, nothing "
                "(off); auto: weights too where that takes seconds, or a tenth of the case",
                choices=("auto", "full", "files", "off"),
            ),
            None,
        ),
        (
            Option("blame", bool, False, "say which modules carry the divergence, of every gate of this run"),
            None,
            False,
            None,
            "true",
        ),
        (
            Option(
                "blame_seconds",
                float,
                60.0,
                "blame modules of a gate that regressed where that takes at most so many seconds; 0: never",
                minimum=0,
            ),
            "SECONDS",
        ),
        (Option("device", str, "auto", "auto, cpu, cuda, cuda:N, or several: cuda:0,1"), "DEVICE"),
        (
            Option(
                "offload",
                str,
                NONE,
                "where layers go that do not fit on the devices: host memory (cpu), or read from disk",
                choices=OFFLOADS,
            ),
        ),
        (Option("batch_size", int, 0, "windows per forward pass; 0 chooses", minimum=0), "WINDOWS"),
        (
            Option(
                "alpha", float, ALPHA, "error rate of every interval and decision", minimum=1e-6, maximum=0.2
            ),
            "RATE",
        ),
        (
            Option("fixed", bool, False, "decide once, at the full budget, instead of as early as possible"),
            None,
            True,
            None,
            "true",
        ),
        (
            Option(
                "divergence",
                str,
                "auto",
                "KL divergence from the reference: exact, over its top tokens, or auto: exact where possible",
                choices=MODES,
            ),
        ),
        (
            Option("fail_unused", bool, False, "fail the run when there are baselines that no test uses"),
            None,
            True,
            None,
            "true",
        ),
        (Option("timeout", float, 0.0, "seconds for one worker process; 0: no limit", minimum=0), "SECONDS"),
        (
            Option("memory", float, 0.0, "GiB of memory for one worker process; 0: no limit", minimum=0),
            "GIB",
        ),
        (
            Option(
                "jobs",
                int,
                0,
                "gates that are evaluated at once, before their tests; 0: one for each GPU, one on a CPU, "
                "all of them on other machines",
                minimum=0,
            ),
            "GATES",
        ),
        (
            Option(
                "executor",
                str,
                "local",
                "where jobs run: local, ray, command, or a name that a plugin registered",
            ),
            "NAME",
        ),
        (
            Option("ray_address", str, "auto", "the Ray cluster: auto, HOST:PORT, or ray://HOST:PORT"),
            "ADDRESS",
        ),
        (
            Option(
                "ray_wait",
                float,
                30.0,
                "seconds that a job which no node can run waits for the cluster to grow",
                minimum=0.0,
            ),
            "SECONDS",
        ),
        (
            Option("command", str, "", "the command that runs a job, where {argv} is what it has to run"),
            "COMMAND",
        ),
        (
            Option(
                "transport",
                str,
                "folder",
                "how jobs get to other machines: in the cache's folder, which they share, or by the store",
                choices=("folder", "store"),
            ),
        ),
        (
            Option(
                "retries",
                int,
                2,
                "how often a job is begun again that was lost with its machine",
                minimum=0,
            ),
            "TIMES",
        ),
        (
            Option("python", str, "", "interpreters for backends that need their own: NAME=PATH,…"),
            "NAME=PATH",
            True,
            parse_interpreters,
        ),
        (
            Option(
                "unavailable",
                str,
                "fail",
                "what a missing library or device does",
                choices=("fail", "skip"),
            ),
        ),
        (
            Option(
                "update",
                str,
                None,
                "write baselines: new ones; also those of failing gates; those that improved; all",
                choices=tuple(UPDATES),
            ),
            None,
            False,
        ),
        (
            Option("accept", str, None, "accept worse figures in an update, and store this reason"),
            "REASON",
            False,
        ),
        (
            Option(
                "reanchor", bool, False, "make the accepted figures the anchor that drift is counted from"
            ),
            None,
            False,
            None,
            "true",
        ),
        (
            Option(
                "baseline_device",
                str,
                "own",
                "compare with the entry of this device class only, or with the nearest where it has none",
                choices=("own", "any"),
            ),
        ),
        (
            Option(
                "calibrate_noise",
                int,
                0,
                "requantize so many times (8 if no number is given), and store how far figures move",
                minimum=2,
            ),
            "TIMES",
            False,
            None,
            "8",
        ),
        (
            Option("methods", str, "", "run only the gates of these methods or presets: NAME,…"),
            "NAME,…",
            False,
            lambda text, _: frozenset(name.strip() for name in text.split(",") if name.strip()),
        ),
        (Option("json", str, None, "write every outcome of the run to this file"), "PATH", False),
        (Option("md", str, None, "write the run's report in Markdown to this file"), "PATH", False),
        (
            Option("md_comment", str, None, "the same, short enough for a comment on a pull request"),
            "PATH",
            False,
        ),
        (Option("html", str, None, "write the run's report as an HTML page to this file"), "PATH", False),
    )
)


def add_options(parser: pytest.Parser) -> None:
    """Declare every setting."""
    group = parser.getgroup("tenpak", "gates for quantized models (pytest-tenpak)")
    group.addoption(
        "--tenpak-doctor",
        action="store_true",
        help="print what is installed, what can run here, and why not; run no test",
    )
    group.addoption(
        "--tenpak-accept-test",
        action="append",
        nargs=2,
        default=[],
        metavar=("TEST", "REASON"),
        help="accept worse figures of one test, by its id, and store this reason; repeatable",
    )
    for setting in (MODEL, *DEFAULTS, *RUN):
        option = setting.option
        default = "" if option.default in (None, "") or not setting.ini else f" (default: {option.default})"
        choices = "{" + ",".join(map(str, option.choices)) + "}" if option.choices else None
        if option.kind is bool:
            takes: dict[str, Any] = {"action": "store_const", "const": setting.bare}
        else:
            takes = {"metavar": setting.metavar or choices}
            takes |= {"nargs": "?", "const": setting.bare} if setting.bare else {}
        group.addoption(setting.flag, dest=setting.key, default=None, help=option.help + default, **takes)
        if setting.ini:
            parser.addini(setting.key, f"{option.help}{default}; see {setting.flag}", default="")


#: Options that say more about another one: its name, and the values with which they have an effect.
_ABOUT: dict[str, tuple[str, Callable[[Any], bool], str]] = {
    "store_mode": ("store", bool, "URL"),
    "command": ("executor", "command".__eq__, "command"),
    "ray_address": ("executor", "ray".__eq__, "ray"),
    "ray_wait": ("executor", "ray".__eq__, "ray"),
    "retries": ("executor", "local".__ne__, "ray, or another but local"),
    "transport": ("executor", "local".__ne__, "ray, or another but local"),
}


def _setting(name: str) -> Setting:
    return next(setting for setting in RUN if setting.option.name == name)


def read(config: pytest.Config, name: str) -> Any:
    """Return the value in effect of one setting of a run."""
    return _setting(name).read(config)


def source(config: pytest.Config, name: str) -> str:
    """Return where the value in effect of one setting of a run comes from: the option or the ini key."""
    return _setting(name).source(config)


def require_effective(config: pytest.Config) -> None:
    """Raise SpecError for a setting that is not accepted, or an option that changes nothing in this run.

    The ini may have what only some runs need.
    """
    for setting in RUN:
        value, about = setting.read(config), _ABOUT.get(setting.option.name)
        if about is None or config.getoption(setting.key) is None:
            continue
        other, has_effect, example = about
        if not has_effect(read(config, other)):
            raise SpecError(
                f"{setting.flag} has no effect without {_setting(other).flag}",
                given=f"{value!r}, where {_setting(other).key} is {read(config, other)!r}",
                remedy=f"add {_setting(other).flag}={example}, or leave it out",
            )


def request(config: pytest.Config) -> tuple[Request, dict[str, str]]:
    """Return the request for baselines, and the reasons of single tests; raises SpecError."""
    mode, reason, reanchor = (read(config, name) for name in ("update", "accept", "reanchor"))
    reasons: dict[str, str] = dict(config.getoption("tenpak_accept_test"))
    for given in (reason, *reasons.values()):
        if given is not None and not given.strip():
            raise SpecError(
                "accepting needs a reason", given=repr(given), remedy="say why worse figures are acceptable"
            )
    if (reason is not None or reasons) and mode in (None, "new"):
        raise SpecError(
            "--tenpak-accept accepts nothing by itself",
            given=", ".join(map(repr, filter(None, (reason, *reasons.values())))),
            remedy="name what to update: --tenpak-update=failing, or all",
        )
    if reanchor and reason is None and not reasons:
        raise SpecError(
            "--tenpak-reanchor needs a reason, which is stored with the anchor",
            remedy='add --tenpak-accept "reason"',
        )
    return Request(mode, reason, reanchor), reasons


def require_tests(config: pytest.Config, known: Collection[str]) -> None:
    """Raise SpecError where ``--tenpak-accept-test`` names a test that is not a gate of this run."""
    for nodeid, reason in config.getoption("tenpak_accept_test"):
        if nodeid not in known:
            raise SpecError(
                f"--tenpak-accept-test: there is no gate {nodeid!r} in this run{nearest(nodeid, known)}",
                given=f"{nodeid!r} {reason!r}",
                accepted=", ".join(sorted(known)),
            )


def baseline_folder(config: pytest.Config) -> Path:
    """Return the folder of baseline files."""
    return config.rootpath / Path(read(config, "baseline_dir"))


def cache_store(config: pytest.Config, remote: Remote | None = None) -> Store:
    """Return the cache of checkpoints and measurements, with the store that machines share behind it."""
    from platformdirs import user_cache_path

    from ..store.store import Store

    named = read(config, "cache_dir")
    root = config.rootpath / Path(named).expanduser() if named else user_cache_path("pytest-tenpak")
    return Store(root, read(config, "cache_size"), read(config, "rehash"), remote)


def shared_store(
    config: pytest.Config,
    url: str | None = None,
    show: Callable[[str], AbstractContextManager[Progress]] | None = None,
) -> Remote | None:
    """Return the store that machines share, None where none is named.

    ``url`` comes before the option's. Raises SpecError or UnavailableError where it cannot be opened.
    """
    who = "--store" if url else source(config, "store")
    url = url or read(config, "store")
    if not url:
        return None
    from ..machines.shared_store import open_remote

    try:
        return open_remote(url, writes=read(config, "store_mode") == "write", show=show)
    except TenpakError as error:
        raise error.asked_by(who) from None


def model(config: pytest.Config) -> str | None:
    """Return the model named by ``--tenpak-model`` or ini."""
    named: str | None = MODEL.read(config)
    return named


def marker_defaults(config: pytest.Config) -> dict[str, Any]:
    """Return the defaults of marker arguments from the command line and ini."""
    return {setting.option.name: setting.read(config) for setting in DEFAULTS}
