"""Pictures of the reports for the documentation, from what ``--tenpak-json`` wrote of a real run.

    python benchmarks/screenshots.py RUN.json [FOLDER]

The page is opened in a headless browser as a user opens it, from a file: light, dark, and as on a phone. The
lines that the terminal shows are laid out as a terminal does.
"""

from __future__ import annotations

import html
import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from pytest_tenpak.gate.summary import Summary
from pytest_tenpak.reports.html.page import render
from pytest_tenpak.reports.run_document import read_document
from pytest_tenpak.reports.terminal import summary_lines
from pytest_tenpak.verdict.checks import Status

#: Name, width, height, colour scheme.
VIEWS = (("light", 1180, 1990, "light"), ("dark", 1180, 1990, "dark"), ("narrow", 375, 1480, "light"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: Colours of a picture: what a palette holds, which is all that flat surfaces and letters need.
COLOURS = 255

#: Private characters, which pass through the table and through escaping, around what is coloured.
GREEN, RED, END = "\ue000", "\ue001", "\ue002"
TERMINAL = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; background: #16181d }}
pre {{ display: inline-block; margin: 0; padding: 16px 20px; color: #d8dbe2; font: 12px/1.5 monospace }}
.green {{ color: #7bd88f }} .red {{ color: #ff7b72; font-weight: bold }}
</style><pre>{text}</pre>"""


def terminal(summary: Summary) -> str:
    """A page with what the terminal shows at the end of the run."""

    def paint(text: str, status: Status) -> str:
        return f"{RED if status.failing else GREEN}{text}{END}"

    text = html.escape("\n".join(summary_lines(summary, paint)))
    spans = {GREEN: '<span class="green">', RED: '<span class="red">', END: "</span>"}
    return TERMINAL.format(text=text.translate(str.maketrans(spans)))


def main(document: Path, folder: Path) -> None:
    """Write ``report-….png`` and ``terminal.png`` into ``folder``."""
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        raise SystemExit(f"no browser: none of {', '.join(BROWSERS)} is on the path")
    folder.mkdir(parents=True, exist_ok=True)
    summary = read_document(document)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        report, lines = Path(scratch, "report.html"), Path(scratch, "terminal.html")
        report.write_text(render(summary), encoding="utf-8", newline="\n")
        lines.write_text(terminal(summary), encoding="utf-8", newline="\n")
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for name, width, height, scheme in VIEWS:
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(report.as_uri())
            save(page.screenshot(), folder / f"report-{name}.png")
            page.close()
        page = browser.new_page()
        page.goto(lines.as_uri())
        save(page.locator("pre").screenshot(), folder / "terminal.png")
        browser.close()


def save(picture: bytes, target: Path) -> None:
    """Keep a picture, small."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/images"))
