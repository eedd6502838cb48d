"""The reports that are files, by the name of the option that asks for one."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from ..gate.summary import Summary
from ..store.atomic import write_atomically

#: Each report's module, imported when it is asked for, and the function that gives its text.
_RENDERERS = {
    "html": ("html.page", "render"),
    "md": ("markdown", "render"),
    "md_comment": ("markdown", "render_comment"),
    "json": ("run_document", "render"),
}
#: JSON comes last: it knows what went wrong with the others.
REPORTS = tuple(_RENDERERS)


def write_report(report: str, summary: Summary, path: Path) -> None:
    """Write one of REPORTS; raises OSError where that cannot be."""
    module, function = _RENDERERS[report]
    text: str = getattr(import_module(f"{__package__}.{module}"), function)(summary)
    write_atomically(path, text)
