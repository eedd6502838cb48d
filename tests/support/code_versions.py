"""Digests of the code that figures and checkpoints come from, so that somebody decides whether a version moves.

``python tests/support/code_versions.py`` records the digests as they are now, after that decision.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache

from places import DATA, ROOT

from pytest_tenpak.evaluation.overlap import OVERLAP_VERSION
from pytest_tenpak.metrics.audit import AUDIT_VERSION
from pytest_tenpak.metrics.blame import BLAME_VERSION
from pytest_tenpak.metrics.measurement import METRICS_VERSION
from pytest_tenpak.models.convert import CONVERSION_VERSION
from pytest_tenpak.models.ledger import LEDGER_VERSION
from pytest_tenpak.quantizers.registry import Registry
from pytest_tenpak.quantizers.rounding import ROUNDING_VERSION

RECORD = DATA / "code-versions.json"
SOURCE = ROOT / "pytest_tenpak"
#: Whatever a figure of a loaded model comes from.
MEASURING = (
    *(
        f"evaluation.{name}"
        for name in (
            "decoder_layers",
            "divergence",
            "perplexity",
            "predictions",
            "protocol",
            "tokenize",
            "trace",
            "transfer",
        )
    ),
    *("evaluation.kept_texts", "evaluation.kept_tokens"),
    *("execution.measure", "models.decoder", "models.dispatched", "models.account"),
    *("quantizers.loading", "quantizers.placement"),
)
#: Whatever a figure of an audit comes from.
AUDITING = tuple(f"diagnosis.{name}" for name in ("folding", "formats", "grids", "kept", "values", "weights"))
#: Whatever a figure of blame comes from, beyond what it is measured with.
BLAMING = (*(f"evaluation.{name}" for name in ("blame", "parts", "replay")), "execution.blame")
#: Modules of ``quantizers`` that declare, find or refuse, and that no checkpoint's bytes come from.
DECLARING = {
    f"quantizers.{name}" for name in ("base", "interpreters", "kernels", "locate", "presets", "registry")
}


@cache
def versions() -> dict[str, tuple[int, str]]:
    """Version and digest of each piece of code that has a version in cache keys."""
    found = {
        "METRICS_VERSION": (METRICS_VERSION, digest(MEASURING)),
        "OVERLAP_VERSION": (OVERLAP_VERSION, digest(["evaluation.overlap"])),
        "LEDGER_VERSION": (LEDGER_VERSION, digest(["models.ledger"])),
        "CONVERSION_VERSION": (CONVERSION_VERSION, digest(["models.convert"])),
        "AUDIT_VERSION": (AUDIT_VERSION, digest(AUDITING)),
        "BLAME_VERSION": (BLAME_VERSION, digest(BLAMING)),
        "ROUNDING_VERSION": (ROUNDING_VERSION, digest(["quantizers.rounding"])),
    }
    registry = Registry()
    for method in registry:
        quantizer = registry[method]
        adapters = quantizer.adapters() if hasattr(quantizer, "adapters") else {}
        for backend in quantizer.choices():
            roots = [type(quantizer).__module__.removeprefix("pytest_tenpak.")]
            if adapters:
                # The class only declares; what works is its base and the module that speaks to the backend.
                adapter = adapters[backend.name].__name__.removeprefix("pytest_tenpak.")
                roots = ["quantizers.grouped", adapter]
            name = f"adapter_version of {method} by {backend.name}"
            found[name] = (backend.adapter_version, digest(reached(roots)))
    return found


def reached(roots: Iterable[str]) -> set[str]:
    """The modules of ``quantizers`` that these import, directly or not, but for those that only declare."""
    seen: set[str] = set()
    wanted = list(roots)
    while wanted:
        name = wanted.pop()
        if name not in seen and name not in DECLARING:
            seen.add(name)
            wanted += imported(name)
    return seen


@cache
def imported(module: str) -> list[str]:
    """The modules of ``quantizers`` that a module imports."""
    return list(_imported(module))


def _imported(module: str) -> Iterator[str]:
    parts = module.split(".")
    for node in ast.walk(ast.parse(text_of(module))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ".".join([*parts[: len(parts) - node.level], *filter(None, [node.module])])
            for name in (base, *(f"{base}.{alias.name}" for alias in node.names)):
                if name.startswith("quantizers.") and path_of(name).is_file():
                    yield name


def path_of(module: str):
    return SOURCE.joinpath(*module.split(".")).with_suffix(".py")


def text_of(module: str) -> str:
    return path_of(module).read_text(encoding="utf-8")


def digest(modules: Iterable[str]) -> str:
    """Digest of the code of some modules: comments, docstrings and white space are no part of it."""
    code = {name: code_of(text_of(name)) for name in sorted(modules)}
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()


@cache
def code_of(text: str) -> str:
    """A module's text without comments, docstrings and white space."""
    lines = text.splitlines(keepends=True)
    spans = [(token.start, token.end) for token in tokens(text) if token.type == tokenize.COMMENT]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
            if first is not None:
                # Offsets of ast count bytes, those of tokenize characters.
                start = len(lines[first.lineno - 1].encode()[: first.col_offset].decode())
                end = len(lines[first.end_lineno - 1].encode()[: first.end_col_offset].decode())
                spans.append(((first.lineno, start), (first.end_lineno, end)))
    for (first_line, start), (last_line, end) in sorted(spans, reverse=True):
        head, tail = lines[first_line - 1][:start], lines[last_line - 1][end:]
        lines[first_line - 1 : last_line] = [head + tail, *[""] * (last_line - first_line)]
    return "".join("".join(lines).split())


def tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    return tokenize.generate_tokens(io.StringIO(text).readline)


def record() -> None:
    """Write what there is now."""
    plain = {name: {"version": version, "digest": found} for name, (version, found) in versions().items()}
    RECORD.write_text(json.dumps(plain, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
