"""Compare a checkpoint's weights and files with the model's, without running either."""

from __future__ import annotations

import argparse
import textwrap
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from ..diagnosis.contradictions import contradictions
from ..diagnosis.files import compare_files
from ..diagnosis.folding import moves_scales
from ..diagnosis.shipped import read_directory
from ..diagnosis.weights import audit_weights
from ..errors import ModelError
from ..metrics.audit import Audit, FilesAudit
from ..models.ledger import read_contents
from ..models.preflight import require_parsable
from ..reports.escaping import visible
from ..verdict.audit import audit_checks
from ..verdict.checks import Check, Limits, Status, Tolerances

_WIDTH = 110
_MARKS = {Status.PASSED: "✓", Status.REGRESSED: "✗"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``MODEL CHECKPOINT``: two directories."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="directory of the unquantized model")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="directory of the checkpoint")
    parser.add_argument(
        "--may-differ", nargs="+", default=[], metavar="NAME", help="tensors or fields, by name or pattern"
    )
    parser.add_argument(
        "--max-weight-error",
        type=float,
        default=Limits.max_weight_error,
        metavar="FACTOR",
        help="in multiples of the error of rounding to nearest, for methods that compensate; 0: none",
    )


def run(arguments: argparse.Namespace, config: pytest.Config) -> int:  # noqa: ARG001
    """Print a line for each check; 1 where one fails."""
    model, checkpoint = arguments.model, arguments.checkpoint
    for directory in (model, checkpoint):
        _require_directory(directory)
        require_parsable(directory)
    missing = read_contents(checkpoint, model).missing
    started = time.monotonic()
    weights = audit_weights(checkpoint, model, moves_scales(checkpoint))
    seconds = time.monotonic() - started
    audit = Audit(_files(model, checkpoint), weights, seconds=seconds)
    limits = Limits(max_weight_error=arguments.max_weight_error, may_differ=tuple(arguments.may_differ))
    checks = list(audit_checks(audit, limits, Tolerances(), None))
    if missing:
        checks.append(Check("complete", Status.REGRESSED, evidence=", ".join(missing)))
    for line in (*_lines(checks), f"weights compared in {seconds:.1f} s"):
        print(visible(line))
    return int(any(check.status.failing for check in checks))


def _require_directory(directory: Path) -> None:
    if not (directory / "config.json").is_file():
        raise ModelError(
            f"there is no model or checkpoint in {directory}",
            given=f"{directory / 'config.json'} does not exist",
            accepted="directories with config.json and *.safetensors: tenpak audit MODEL CHECKPOINT",
        )


def _files(model: Path, checkpoint: Path) -> FilesAudit:
    """Compare files by meaning where transformers is installed, else only the quantization config."""
    found = tuple(contradictions(checkpoint, model))
    if find_spec("transformers") is None:
        print("files are not compared: transformers, which knows their defaults, is not installed")
        return FilesAudit(contradictions=found)
    return compare_files(read_directory(model), read_directory(checkpoint), found)


def _lines(checks: list[Check]) -> Iterator[str]:
    for check in checks:
        yield f"{_MARKS[check.status]} {check.kind.title}"
        yield from textwrap.wrap(check.evidence, _WIDTH, initial_indent="    ", subsequent_indent="    ")
