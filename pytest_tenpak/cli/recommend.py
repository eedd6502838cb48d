"""Find the recipe that meets bounds on perplexity and size; further options go to pytest."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from .. import progress
from ..errors import ModelError, ReportError, SpecError
from ..gate.arguments import ARGUMENTS
from ..gate.marker import require_methods
from ..plugin import options
from ..plugin.run_state import open_session
from ..progress import Progress
from ..recommend.candidates import Question
from ..recommend.search import Watch, recommend
from ..reports.escaping import visible_lines
from ..reports.recommendation import answer_lines, found_words, stage_words
from ..spec import Option
from ..store.atomic import write_atomically
from ..verdict.advice import Advice, Row

PYTEST_ARGUMENTS = True

#: Settings of a run that have an option here, of the same name and meaning; those of a case belong into the
#: ini file beside the marker.
_OF_CASE = ("model", "corpus", "calibration", "context", "max_tokens", "dtype")
_OF_RUN = ("device", "cache_dir", "methods")
_BOUNDS = {
    "max_ppl_delta": "0.05",
    "min_compression": None,
}
_LIMIT = Option("max-seconds", float, 0.0, "begin nothing that would end later; 0: no limit", minimum=0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Bounds, what to measure on, and where to write the answer."""
    for name, default in _BOUNDS.items():
        shown = f" (default: {default})" if default else ""
        parser.add_argument(_flag(name), default=default, metavar="NUMBER", help=ARGUMENTS[name].help + shown)
    for setting in (options.MODEL, *options.DEFAULTS, *options.RUN):
        if (name := setting.option.name) in (*_OF_CASE, *_OF_RUN):
            words = "try only these methods or presets: NAME,…" if name == "methods" else setting.option.help
            metavar = setting.metavar or "NAME"
            parser.add_argument(_flag(name), metavar=metavar, help=f"{words}; as {setting.flag}")
    parser.add_argument("--max-seconds", default="0", metavar="SECONDS", help=_LIMIT.help)
    parser.add_argument("--html", type=Path, metavar="FILE", help="draw the frontier, as an HTML page")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every recipe with its figures")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def pytest_options(arguments: argparse.Namespace) -> list[str]:
    """Return the settings among the command's options as pytest takes them."""
    given = {name: getattr(arguments, name) for name in (*_OF_CASE, *_OF_RUN)}
    return [f"--tenpak{_flag(name)[1:]}={value}" for name, value in given.items() if value is not None]


def run(arguments: argparse.Namespace, config: pytest.Config) -> int:
    """Print progress to stderr, then the frontier and the marker; 1 where no recipe meets the bounds."""
    question = _question(arguments, config)
    limit = _number(_LIMIT, arguments.max_seconds)
    _require_files(arguments)
    state = replace(open_session(config).run, show_progress=_shown)
    require_methods(question.methods, state.registry)
    try:
        advice = recommend(question, state, Watch(_say_stage, _say_found), limit)
    except KeyboardInterrupt:
        _say("interrupted: what was quantized and measured is kept, and the same command goes on from there")
        return int(pytest.ExitCode.INTERRUPTED)
    if state.store.remote is not None:
        for fault in state.store.remote.faults:
            _say(fault)
    settings = {name: value for name in _OF_CASE if (value := getattr(arguments, name)) is not None}
    print(*answer_lines(advice, settings, shutil.get_terminal_size().columns), sep="\n")
    _write(advice, arguments)
    return 0 if advice.pick else 1


def _question(arguments: argparse.Namespace, config: pytest.Config) -> Question:
    bounds = {name: getattr(arguments, name) for name in _BOUNDS}
    common = {name: _number(ARGUMENTS[name], text) for name, text in bounds.items() if text is not None}
    model = options.model(config)
    if model is None:
        raise ModelError(
            "no model was named",
            accepted="--model, or ini tenpak_model",
            remedy="for example: tenpak recommend --model path/to/model",
        )
    return Question(
        common={"model": model, **common},
        defaults=options.marker_defaults(config),
        methods=options.read(config, "methods"),
    )


def _number(option: Option, text: str) -> float:
    """Convert a number of the command line; raise SpecError naming the option."""
    try:
        value: Any = float(text)
    except ValueError:
        value = text
    read = getattr(option, "value", option.validate)
    try:
        read(value)
    except SpecError as error:
        raise error.asked_by(_flag(option.name)) from None
    return float(value)


def _require_files(arguments: argparse.Namespace) -> None:
    """Raise, before any work, where a report could not be written."""
    for path in filter(None, (arguments.html, arguments.json)):
        if path.is_dir():
            raise ReportError(f"{path} is a folder", remedy="name a file in it")
        nearest = next(one for one in path.absolute().parents if one.exists())
        if not nearest.is_dir():
            raise ReportError(f"{path} cannot be written", given=f"{nearest} is a file, no folder")
    if arguments.html:
        from ..reports.html.page import require

        require()


def _write(advice: Advice, arguments: argparse.Namespace) -> None:
    texts = {}
    if arguments.json:
        texts[arguments.json] = json.dumps(advice.to_dict(), indent=2, ensure_ascii=False) + "\n"
    if arguments.html:
        from ..reports.html.frontier import render

        texts[arguments.html] = render(advice)
    for path, text in texts.items():
        try:
            write_atomically(path, text)
        except OSError as fault:
            raise ReportError(f"{path} cannot be written", given=str(fault)) from None


@contextmanager
def _shown(title: str) -> Iterator[Progress]:
    """Show a bar on a terminal; elsewhere the line of each stage is enough."""
    with progress.bar(title) if sys.stderr.isatty() else progress.silent() as advance:
        yield advance


def _say_stage(title: str, left: float) -> None:
    _say(stage_words(title, left))


def _say_found(row: Row) -> None:
    _say(found_words(row))
    if row.details:
        _say("\n".join(visible_lines(row.details)))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
