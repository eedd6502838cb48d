"""The pytest plugin: markers become cases at collection, cases become outcomes, outcomes fail tests."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..errors import SpecError, TenpakError
from . import hookspecs, options
from .collection import CollectionWatcher
from .controller import Controller
from .repetition import RepetitionWatcher, gate_id
from .run_state import EXPECTED_KEY, UNUSED_KEY, USAGE_KEY, note_unused, open_session, session_key

if TYPE_CHECKING:
    from ..gate.case import Case
    from ..gate.outcome import Outcome
    from ..gate.run import Run
    from .fixture import Quantized

MARKERS = ("quantize", "tenpak_quantize")
_MARKER_PARAM = "_tenpak_marker"

_watcher: pytest.StashKey[CollectionWatcher] = pytest.StashKey()
_nodeid: pytest.StashKey[str] = pytest.StashKey()
_marker: pytest.StashKey[pytest.Mark] = pytest.StashKey()
_case: pytest.StashKey[Case] = pytest.StashKey()
_outcome: pytest.StashKey[Outcome] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    for name in MARKERS:
        config.addinivalue_line(
            "markers",
            f"{name}(method=…, max_ppl_delta=…, min_compression=…, …): "
            "quantize the model under test, measure it, and gate it (pytest-tenpak)",
        )
    config.stash[_watcher] = CollectionWatcher()
    config.pluginmanager.register(config.stash[_watcher], "tenpak-collection-watcher")
    config.pluginmanager.register(RepetitionWatcher(), "tenpak-repetition-watcher")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Controller(config), "tenpak-controller")
        if config.getoption("htmlpath", None):
            from .pytest_html import GateRows

            config.pluginmanager.register(GateRows(config, MARKERS), "tenpak-html-rows")


def pytest_unconfigure(config: pytest.Config) -> None:
    """End whatever still runs for gates."""
    if session_key in config.stash:
        config.stash[session_key].close()


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Print the report of ``--tenpak-doctor`` and run no test."""
    if not config.getoption("tenpak_doctor"):
        return None
    from ..gate.doctor import diagnose

    try:
        print(*diagnose(open_session(config).run), sep="\n")
    except TenpakError as error:
        raise pytest.UsageError(str(error)) from None
    return 0


# ---------------------------------------------------------------- collection


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize a test with several markers, one case each."""
    markers = _markers(metafunc.definition)
    if len(markers) > 1:
        from ..gate.marker import marker_ids

        metafunc.fixturenames.append(_MARKER_PARAM)
        ids = marker_ids([marker.kwargs for marker in markers])
        metafunc.parametrize(_MARKER_PARAM, markers, indirect=True, ids=ids)


@pytest.fixture
def _tenpak_marker(request: pytest.FixtureRequest) -> pytest.Mark:
    """Return the one of a test's several markers that this item is for."""
    marker: pytest.Mark = request.param
    return marker


def pytest_itemcollected(item: pytest.Item) -> None:
    """Store the original id of a gate: ``--dist=loadgroup`` appends to it in workers, repetitions before."""
    if _markers(item):
        item.stash[_nodeid] = gate_id(item)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    try:
        marked = _selected(config, items)
        problems = _build_cases(config, marked) if marked else []
    except TenpakError as error:
        problems = [str(error)]
    output = getattr(config, "workeroutput", None)
    if not problems:
        unused = config.stash[_watcher].unused(session, _claims)
        if unused is not None:
            note_unused(config, unused)
            if output is not None:
                output[UNUSED_KEY] = list(unused)
        return
    if output is None:
        raise pytest.UsageError(*problems)
    # An xdist worker cannot end a run with a usage error; its controller can (pytest_testnodedown).
    output[USAGE_KEY] = problems
    items.clear()


def _selected(config: pytest.Config, items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the marked tests; with ``--tenpak-methods`` deselect all tests but those of these methods."""
    marked = [item for item in items if _markers(item)]
    wanted = options.read(config, "methods")
    if not wanted:
        return marked
    from ..gate.marker import methods_of, require_methods

    require_methods(wanted, open_session(config).run.registry)
    selected = [item for item in marked if wanted & methods_of(_marker_of(item).kwargs)]
    config.hook.pytest_deselected(items=[item for item in items if item not in selected])
    items[:] = selected
    return selected


def _build_cases(config: pytest.Config, items: Sequence[pytest.Item]) -> list[str]:
    """Build the case of every marked item; return what is wrong with markers and options."""
    problems: list[str] = []
    names: dict[str, str] = {}
    files: dict[str, Path] = {}
    try:
        session = open_session(config)
        defaults = options.marker_defaults(config)
    except TenpakError as error:
        return [str(error)]
    for item in items:
        nodeid = item.stash.get(_nodeid, item.nodeid)
        try:
            case = _case_of(item, nodeid, session.run, defaults)
        except TenpakError as error:
            problems.append(str(error.asked_by(nodeid)))
            continue
        if files.setdefault(nodeid, item.path) != item.path:
            problems.append(_same_id(nodeid, files[nodeid], item.path))
        if names.setdefault(case.name, nodeid) != nodeid:
            problems.append(f"{nodeid}: the baseline {case.name!r} is already used by {names[case.name]}")
        _gate(item, case)
        session.expected.add(nodeid)
    if not problems:
        try:
            options.require_tests(config, session.expected)
        except TenpakError as error:
            problems.append(str(error))
    output = getattr(config, "workeroutput", None)
    if output is not None:
        output[EXPECTED_KEY] = sorted(session.expected)
    return problems


def _case_of(item: pytest.Item, nodeid: str, run: Run, defaults: Mapping[str, Any]) -> Case:
    """Return the case that an item's marker describes; raises TenpakError."""
    from ..gate.marker import read_marker

    marker = _marker_of(item)
    file, line = _place(item, marker)
    return read_marker(
        marker.args,
        marker.kwargs,
        registry=run.registry,
        defaults=defaults,
        nodeid=nodeid,
        file=file,
        line=line,
    )


def _gate(item: pytest.Item, case: Case) -> None:
    """Have an item gated, whether or not its test asks for the fixture."""
    item.stash[_case] = case
    fixtures = getattr(item, "fixturenames", None)
    if fixtures is not None and "quantized" not in fixtures:
        item.fixturenames = [*fixtures, "quantized"]  # type: ignore[attr-defined]


def _same_id(nodeid: str, one: Path, other: Path) -> str:
    """Say that two tests have one id, which pytest does not prevent outside the rootdir."""
    error = SpecError(
        "two gates have the same id, and would share one baseline",
        given=f"{one} and {other}",
        accepted="gates whose files have different paths below the rootdir, or below their own packages",
        remedy="set --rootdir to a folder that is above both, rename one of the files or tests, "
        "or run them in two runs with baseline folders of their own",
        who=nodeid,
    )
    return str(error)


def _place(item: pytest.Item, marker: pytest.Mark) -> tuple[str, int]:
    """Return the test's file, and the marker's line in it."""
    from .marker_location import marker_line

    file, first, _ = item.location
    return file, marker_line(item.config.rootpath / file, (first or 0) + 1, marker.name, marker.kwargs)


def _claims(item: pytest.Item) -> Iterable[str]:
    """Return the names of the baselines that a test uses; raise TenpakError where its marker is wrong."""
    if _case in item.stash:
        return item.stash[_case].baseline_names
    if not _markers(item):
        return ()
    from ..gate.marker import claimed_names

    return claimed_names(_marker_of(item).kwargs, item.stash.get(_nodeid, item.nodeid))


def _markers(item: Any) -> list[pytest.Mark]:
    return [marker for marker in item.iter_markers() if marker.name in MARKERS]


def _marker_of(item: pytest.Item) -> pytest.Mark:
    """Return the marker of an item: the only one, or the one that pytest_generate_tests assigned."""
    if _marker not in item.stash:
        item.stash[_marker] = _find_marker(item)
    return item.stash[_marker]


def _find_marker(item: pytest.Item) -> pytest.Mark:
    markers = _markers(item)
    callspec: Any = getattr(item, "callspec", None)
    on_parameter = callspec is not None and any(mark.name in MARKERS for mark in callspec.marks)
    if callspec is not None and _MARKER_PARAM in callspec.params and not on_parameter:
        chosen: pytest.Mark = callspec.params[_MARKER_PARAM]
        return chosen
    if len(markers) == 1:
        return markers[0]
    raise SpecError(
        f"{len(markers)} markers apply to one test",
        accepted="several on a test function (one case each), or one in each pytest.param(…, marks=…)",
        remedy="put them all on the function, or all in its parameters",
        who=item.stash.get(_nodeid, item.nodeid),
    )


def pytest_report_collectionfinish(config: pytest.Config) -> str | None:
    session = config.stash.get(session_key, None)
    if session is None or not session.expected:
        return None
    from importlib.metadata import version

    count = len(session.expected)
    return (
        f"tenpak {version('pytest-tenpak')}: {count} gate{'' if count == 1 else 's'}, "
        f"device {options.read(config, 'device')}, baselines in {options.read(config, 'baseline_dir')}/"
    )


# ---------------------------------------------------------------- running


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Start the gates of all selected tests where several can run at once; not in a worker of xdist."""
    config = session.config
    failed = session.testsfailed and not config.option.continue_on_collection_errors
    if (
        session_key not in config.stash
        or hasattr(config, "workerinput")
        or failed
        or config.option.collectonly
        or config.option.setupplan
    ):
        return
    cases = [item.stash[_case] for item in session.items if _case in item.stash and _surely_runs(item)]
    try:
        config.stash[session_key].start(cases, options.model(config))
    except TenpakError as error:
        raise pytest.UsageError(str(error)) from None


def _surely_runs(item: pytest.Item) -> bool:
    """Return whether no marker may skip the test: what such a test needs is found out when it is its turn."""
    may_not = any(not marker.kwargs.get("run", True) for marker in item.iter_markers("xfail"))
    return not may_not and not any(item.get_closest_marker(name) for name in ("skip", "skipif"))


@pytest.fixture(scope="session")
def tenpak_model(pytestconfig: pytest.Config) -> Any:
    """The model under test where a marker names none. Override it to return a directory, a .gguf file,
    a hub id, or a (model, tokenizer) pair of your own.
    """
    return options.model(pytestconfig)


@pytest.fixture
def quantized(request: pytest.FixtureRequest) -> Iterator[Quantized]:
    """The quantized model of a marked test: model, tokenizer, generate, measurement, verdict, checkpoint."""
    from .fixture import Quantized

    item = request.node
    if _case not in item.stash:
        pytest.fail("the fixture 'quantized' needs a marker: @pytest.mark.quantize(method=…)", pytrace=False)
    session = request.config.stash[session_key]
    outcome = item.stash[_outcome] = session.answer(item.stash[_case], lambda: _fixture_model(request))
    others = [row for row in item.user_properties if not row[0].startswith("tenpak.")]
    item.user_properties[:] = [*others, *_properties(outcome)]
    if outcome.skipped:
        pytest.skip(outcome.problem)
    found = Quantized(outcome, session.run_of(outcome.case))
    yield found
    found.close()


def _fixture_model(request: pytest.FixtureRequest) -> str | None:
    """Return the value of the fixture ``tenpak_model``; a (model, tokenizer) pair is saved as a directory."""
    from ..errors import ModelError
    from ..models.convert import save_pair

    model = request.getfixturevalue("tenpak_model")
    if isinstance(model, tuple) and len(model) == 2:
        return str(save_pair(model, request.config.stash[session_key].run.store))
    if model is None or isinstance(model, (str, os.PathLike)):
        return None if model is None else os.fspath(model)
    raise ModelError(
        f"the fixture tenpak_model returned {type(model).__name__}",
        accepted="a path, a hub id, or a (model, tokenizer) pair",
    )


def _properties(outcome: Outcome) -> list[tuple[str, object]]:
    """Return scalars for JUnit and other readers of ``user_properties``."""
    from ..metrics.measurement import HEADLINE
    from ..reports.run_document import figures_of

    figures = (figures_of(outcome, outcome.parts[0]) if outcome.parts else None) or {}
    named = {
        "tenpak.status": str(outcome.status),
        "tenpak.method": outcome.case.spec.method,
        "tenpak.backend": outcome.case.spec.options.get("backend"),
        "tenpak.ppl": figures.get("perplexity"),
        "tenpak.ppl_reference": figures.get("reference_perplexity"),
        "tenpak.ppl_delta": figures.get("ppl_delta"),
        "tenpak.kld": figures.get("kld"),
        "tenpak.top1": figures.get("top1"),
        "tenpak.bits_per_weight": figures.get("bits_per_weight"),
        "tenpak.compression": figures.get("compression", {}).get(HEADLINE),
    }
    return [(name, value) for name, value in named.items() if value is not None]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a marked test in its call phase: after its own body, whose failures stay its own."""
    if _case not in item.stash:
        return (yield)
    from ..reports.terminal import failure

    if _outcome not in item.stash:
        pytest.fail("a marked test must be gated, but this kind of test has no fixtures", pytrace=False)
    outcome = item.stash[_outcome]
    if outcome.problem:
        pytest.fail(failure(outcome), pytrace=False)
    try:
        returned = yield
    except pytest.skip.Exception:
        if outcome.passes:
            raise
        returned = None  # a body that skips itself does not avoid the gate
    except BaseException:
        item.stash[_outcome] = replace(outcome, body_passed=False)
        raise
    if not outcome.passes:
        pytest.fail(failure(outcome), pytrace=False)
    return returned


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send the outcome with the report, which xdist carries to the controller."""
    report = yield
    outcome = item.stash.get(_outcome, None)
    if outcome is None and report.when == "setup" and report.skipped and _case in item.stash:
        outcome = _skipped(item.stash[_case], report)
    if outcome is not None and (report.when == "call" or outcome.skipped):
        report.tenpak_outcome = outcome.to_dict()  # type: ignore[attr-defined]
    return report


def _skipped(case: Case, report: pytest.TestReport) -> Outcome:
    """Return the outcome of a gate that the suite skips before anything is measured."""
    from ..gate.outcome import Outcome
    from ..verdict.checks import Status

    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return Outcome.not_measured(case, Status.ERROR, reason, f"{case.nodeid}: {reason}", skipped=True)
