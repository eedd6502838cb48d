"""Pictures of the HTML report for the documentation, from what ``--tenpak-json`` wrote of a real run.

    python benchmarks/screenshots.py RUN.json [FOLDER]

The page is opened in a headless browser as a user opens it, from a file: light, dark, and as on a phone.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from pytest_tenpak.report.html import render
from pytest_tenpak.report.json import read_document

#: Name, width, height, colour scheme.
VIEWS = (("light", 1180, 1990, "light"), ("dark", 1180, 1990, "dark"), ("narrow", 375, 1480, "light"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: Colours of a picture: what a palette holds, which is all that flat surfaces and letters need.
COLOURS = 255


def main(document: Path, folder: Path) -> None:
    """Write ``report-….png`` into ``folder``."""
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        raise SystemExit(f"no browser: none of {', '.join(BROWSERS)} is on the path")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        page_path = Path(scratch, "report.html")
        page_path.write_text(render(read_document(document)), encoding="utf-8", newline="\n")
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for name, width, height, scheme in VIEWS:
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(page_path.as_uri())
            picture = Image.open(io.BytesIO(page.screenshot()))
            target = folder / f"report-{name}.png"
            picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)
            print(f"{target}: {target.stat().st_size:,} bytes")
            page.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/images"))
