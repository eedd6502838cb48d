"""The state of one pytest run in ``config.stash``, made when the first gate is collected."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import pytest

from ..errors import SpecError
from ..spec import nearest
from . import options

if TYPE_CHECKING:
    from ..execution.executor import Executor
    from ..execution.submission import Post
    from ..gate.run import Run
    from ..machines.device import Device
    from ..progress import Progress
    from ..quantizers.registry import Registry
    from ..session.ahead import Show
    from ..session.places import Places
    from ..session.session import GateSession
    from ..store.store import Store

#: The module that does a job on another machine.
_ENTRY = "pytest_tenpak.machines.on_node"
#: Keys of the data that an xdist worker sends to the controller when it ends.
USAGE_KEY = "tenpak_usage_error"
EXPECTED_KEY = "tenpak_expected"
UNUSED_KEY = "tenpak_unused"

session_key: pytest.StashKey[GateSession] = pytest.StashKey()
#: The unused baselines, as shown to the user, once a collection has determined them; also in a run without
#: gates, which opens no session.
unused_key: pytest.StashKey[tuple[str, ...]] = pytest.StashKey()


def open_session(config: pytest.Config) -> GateSession:
    """Return the run's gate session, made when the first gate is collected."""
    if session_key not in config.stash:
        from ..session.session import GateSession

        options.require_effective(config)
        session = config.stash[session_key] = GateSession(*_places(config, _run(config)))
        session.unused = config.stash.get(unused_key, ())
    return config.stash[session_key]


def _run(config: pytest.Config) -> Run:
    """Return the run as the options describe it, on this machine; raises TenpakError."""
    from ..execution.process import Bounds
    from ..execution.residents import Residents
    from ..gate.run import Run
    from ..metrics.intervals import Rule
    from ..quantizers.placement import DISK
    from ..units import GIB

    registry = _registry(config)
    remote = options.shared_store(config, show=lambda title: _show_progress(config, title))
    store = options.cache_store(config, remote)
    request, reasons = options.request(config)
    offload = options.read(config, "offload")
    return Run(
        root=config.rootpath,
        store=store,
        registry=registry,
        baselines=options.baseline_folder(config),
        choose_device=_device_of_worker(config, store),
        request=request,
        reasons=reasons,
        compare_across_devices=options.read(config, "baseline_device") == "any",
        in_ci=bool(os.environ.get("CI") or os.environ.get("BUILD_NUMBER")),
        skip_unavailable=options.read(config, "unavailable") == "skip",
        batch_size=options.read(config, "batch_size"),
        rule=Rule(options.read(config, "alpha"), options.read(config, "fixed")),
        divergence=options.read(config, "divergence"),
        noise_repetitions=options.read(config, "calibrate_noise"),
        audit=options.read(config, "audit"),
        blame=options.read(config, "blame"),
        blame_seconds=options.read(config, "blame_seconds"),
        bounds=Bounds(
            options.read(config, "timeout"),
            int(options.read(config, "memory") * GIB),
            counts_files=offload != DISK,
        ),
        show_progress=lambda title: _show_progress(config, title),
        workers=Residents(shared=_worker()[1] > 1),
        offload=offload,
    )


def _registry(config: pytest.Config) -> Registry:
    """Return the methods of this package and of all plugins, each with the interpreter that it runs in."""
    from ..quantizers.interpreters import Interpreters
    from ..quantizers.registry import Registry

    registry = Registry(interpreters=Interpreters(options.read(config, "python")))
    config.hook.pytest_tenpak_register_quantizers(register=registry.register)
    registry.require_interpreters_known()
    return registry


def _worker() -> tuple[int, int]:
    """Return the number of this worker of xdist, from 0 on, and how many there are."""
    number = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return int(number) if number.isdigit() else 0, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT") or 1)


def _device_of_worker(config: pytest.Config, store: Store) -> Callable[[], Device]:
    """Return what finds the device of this worker, once it is needed; raises SpecError for a wrong name."""
    from ..machines.device import choose_device, parse_device

    wanted = options.read(config, "device")
    try:
        parse_device(wanted)
    except SpecError as error:
        raise error.asked_by(options.source(config, "device")) from None
    return cache(lambda: choose_device(wanted, store, *_worker()))


def _places(config: pytest.Config, run: Run) -> tuple[Run, Places]:
    """Return where cases are evaluated, with the run as it is there."""
    from ..machines.device import choose_device, count_devices
    from ..session.cluster import Cluster
    from ..session.places import Elsewhere, Here

    jobs, retries = options.read(config, "jobs"), options.read(config, "retries")
    wanted = options.read(config, "device")
    connect = _executor(config)

    def showing() -> AbstractContextManager[Show]:
        return _show_board(config)

    if connect is None:
        return run, Here(
            run,
            jobs=lambda: jobs or count_devices(wanted, run.store),
            device_of=lambda number, count: choose_device(wanted, run.store, number, count),
            showing=showing,
        )
    cluster = Cluster(connect, run.store, wanted, retries, _post(config, run.store))
    run = replace(run, choose_device=cluster.device, workers=cluster.workers())
    return run, Elsewhere(run, cluster, jobs, showing)


def _post(config: pytest.Config, store: Store) -> Post:
    """Return what puts orders where other machines find them; raises SpecError."""
    from ..execution.submission import SubmittedFolder

    if options.read(config, "transport") == "folder":
        return SubmittedFolder
    from ..machines.shared_store import carry_by

    url = options.read(config, "store")
    if not url or options.read(config, "store_mode") != "write":
        raise SpecError(
            "jobs cannot travel by the store",
            given="--tenpak-transport=store "
            + ("with --tenpak-store-mode=read" if url else "without a store"),
            accepted="a store that this machine and all that run jobs can read and write",
            remedy="name it with --tenpak-store=URL",
            who=options.source(config, "transport"),
        )
    return carry_by(url, store)


def _executor(config: pytest.Config) -> Callable[[], Executor] | None:
    """Return what opens the executor that the options name, None for this machine; raises SpecError."""
    from ..execution.command import CommandExecutor, parse_template
    from ..execution.ray import RayExecutor

    template, address = options.read(config, "command"), options.read(config, "ray_address")
    patience = options.read(config, "ray_wait")
    known: dict[str, Callable[[pytest.Config], Executor]] = {
        "ray": lambda _: RayExecutor(address, _ENTRY, patience),
        "command": lambda _: CommandExecutor(template, _ENTRY),
    }
    config.hook.pytest_tenpak_register_executors(register=known.__setitem__)
    name = options.read(config, "executor")
    if name == "local":
        return None
    if name not in known:
        names = ["local", *known]
        raise SpecError(
            f"--tenpak-executor: there is no executor {name!r}{nearest(name, names)}",
            given=name,
            accepted=", ".join(names),
            remedy="use one of these, or register it with pytest_tenpak_register_executors",
        )
    if name == "command":
        parse_template(template)
    return lambda: known[name](config)


def note_unused(config: pytest.Config, unused: Iterable[str]) -> None:
    """Store which baselines are unused, also in the gate session, whether that is open already or not."""
    config.stash[unused_key] = tuple(unused)
    if session_key in config.stash:
        config.stash[session_key].unused = config.stash[unused_key]


@contextmanager
def _show_progress(config: pytest.Config, title: str) -> Iterator[Progress]:
    """Show progress: a bar on a terminal, else a line; nothing in a worker."""
    from .. import progress

    with _uncaptured(config) as write:
        if write is None:
            display = progress.silent()
        else:
            display = progress.bar(title) if sys.stderr.isatty() else progress.line(title, write)
        with display as advance:
            yield advance


@contextmanager
def _show_board(config: pytest.Config) -> Iterator[Show]:
    """Show what all gates do while a test waits for its own, as :func:`_show_progress` does for one."""
    from .. import progress

    with _uncaptured(config) as write:
        if write is None:
            yield lambda _words, _done, _total, _lines: None
            return
        on_terminal = sys.stderr.isatty()
        with progress.board_on_terminal() if on_terminal else progress.board_in_lines(write) as show:
            yield show


@contextmanager
def _uncaptured(config: pytest.Config) -> Iterator[Callable[[str], None] | None]:
    """Give what writes a line despite pytest's capturing; None where nothing is to be shown."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    capture = config.pluginmanager.getplugin("capturemanager")
    if hasattr(config, "workerinput") or reporter is None or config.get_verbosity() < 0 or capture is None:
        yield None
        return

    def write(text: str) -> None:
        reporter.ensure_newline()
        reporter.write_line(text)

    with capture.global_and_fixture_disabled():
        yield write
