"""The HTML report in a real browser: it works from a file, with a mouse, a keyboard, a phone, a printer."""

from __future__ import annotations

import socket
from dataclasses import replace

import browser
import made_up
import pytest

from pytest_tenpak.reports.html.page import render

#: Ids that would run, break out, disguise themselves, or fill the screen, were they not made inert.
HOSTILE = (
    "test_a.py::test_a[<script>alert(1)</script>]",
    "test_a.py::test_a[<img src=x onerror=alert(2)>]",
    "test_a.py::test_a['\"><svg/onload=alert(3)>]",
    "test_a.py::test_a[</style></script></title><body onload=alert(4)>]",
    "test_a.py::test_a[a|b|`c`|{{ 7 * 7 }}|%0A::error::x]",
    "test_a.py::test_a[\x1b[31mred\x1b[0m]",
    "test_a.py::test_a[\u202egnirts\u2066\u200f]",
    "test_a.py::test_a[https://example.org/x.png]",
    f"test_a.py::test_a[{'x' * 10_240}]",
)


def matrix():
    """A run of six gates: two fail, one could not be measured, one was skipped."""
    outcomes = [made_up.outcome(f"tests/test_m.py::test_m[{n}]", factor=f) for n, f in ((2, 1.0), (10, 1.2))]
    outcomes += [made_up.outcome("tests/test_m.py::test_m[1]", factor=0.9)]
    outcomes += [made_up.unmeasured("tests/test_m.py::test_crash")]
    outcomes += [made_up.unmeasured("tests/test_m.py::test_gpu", "no device", skipped=True)]
    outcomes += [made_up.outcome("tests/test_m.py::test_new", entry=None, in_ci=False)]
    return made_up.summary(*outcomes)


@pytest.fixture(scope="module")
def chromium():
    with browser.launched() as opened:
        yield opened


@pytest.fixture
def visit(chromium, tmp_path):
    """Opens a summary's page; in the end nothing may have gone wrong in any."""
    visits = []

    def opened(summary, **options):
        path = tmp_path / f"report-{len(visits)}.html"
        path.write_text(render(summary), encoding="utf-8", newline="\n")
        visits.append(browser.Visit(chromium, path, **options))
        return visits[-1].page

    yield opened
    faults = [fault for one in visits for fault in one.faults]
    for one in visits:
        one.page.close()
    assert faults == []


def names(page):
    return page.locator("table.sortable tbody th").all_inner_texts()


def test_the_page_asks_nobody_and_complains_of_nothing(visit):
    """Opened from a file: no request but for itself, nothing on the console, and its own script ran."""
    page = visit(matrix())
    assert "gates failed" in page.locator("h1").inner_text()
    assert page.locator("#filter").is_visible()


def test_nothing_from_outside_can_be_fetched(chromium, tmp_path):
    """Even what got into the page by mistake connects to nobody and runs nothing."""
    path = tmp_path / "report.html"
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        planted = f"<script>document.title = 'ran'</script><img src='{address}'></body>"
        path.write_text(render(matrix()).replace("</body>", planted), encoding="utf-8", newline="\n")
        seen = browser.Visit(chromium, path)
        seen.page.wait_for_timeout(200)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert seen.page.title() != "ran"
    assert any("Content Security Policy" in fault for fault in seen.faults)
    seen.page.close()


@pytest.mark.parametrize(("required", "end"), [("", "Skipped"), ("1", "Failed")])
def test_where_a_browser_is_required_none_is_a_failure(monkeypatch, required, end):
    """Elsewhere these tests are skipped, with a reason."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("TENPAK_REQUIRE_BROWSER", required)
    with pytest.raises(BaseException, match="there is no browser") as raised:
        browser.executable()
    assert type(raised.value).__name__ == end


def test_a_click_sorts_by_figure_and_what_has_none_comes_last(visit):
    """Up at the first click, down at the second, and each time the head says so."""
    page = visit(matrix())
    head = page.locator("table.sortable thead th", has_text="Δ reference")
    shown = page.locator("table.sortable thead th").all_inner_texts().index(head.inner_text())
    cells = page.locator(f"table.sortable tbody tr > :nth-child({shown + 1})")
    for direction in ("ascending", "descending"):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == direction
        texts = [text.strip() for text in cells.all_inner_texts()]
        figures = [float(text.rstrip("%")) for text in texts if text]
        assert len(figures) == 4
        assert figures == sorted(figures, reverse=direction == "descending")
        assert texts[4:] == ["", ""]


def test_the_keyboard_sorts_too(visit):
    """Tab reaches the heads, Enter and Space sort; numbers within names are numbers."""
    page = visit(matrix())
    page.locator("#filter").focus()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText").startswith("gate"):
            break
    page.keyboard.press("Enter")
    assert [name for name in names(page) if "test_m[" in name] == [
        f"tests/test_m.py::test_m[{n}]" for n in (1, 2, 10)
    ]
    page.keyboard.press("Space")
    assert [name for name in names(page) if "test_m[" in name] == [
        f"tests/test_m.py::test_m[{n}]" for n in (10, 2, 1)
    ]
    assert page.locator("th[aria-sort=descending]").count() == 1


def test_the_filter_leaves_what_was_asked_for(visit):
    """By any word of a row; how many are left is said."""
    page = visit(matrix())
    page.locator("#filter").fill("CRASH")
    assert page.locator("table.sortable tbody tr:visible").count() == 1
    assert page.locator("#found").inner_text() == "1 of 6 rows"


def test_failures_are_open_and_a_link_opens_the_rest(visit):
    """What failed is in sight at once; a name in the table leads to its details, opened, by keyboard."""
    page = visit(matrix())
    assert page.locator("details.case[open]").count() == page.locator("details.case.failed").count() == 2
    page.get_by_role("link", name="tests/test_m.py::test_m[2]", exact=True).focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.tagName === 'SUMMARY'")
    assert "test_m[2]" in page.evaluate("document.activeElement.innerText")
    assert page.locator("details.case[open]").count() == 3
    page.locator("#all").click()
    assert page.locator("details.case[open]").count() == 6


def test_a_phone_scrolls_in_one_direction(visit):
    """375 pixels wide, everything opened, hostile ids included: nothing is wider than the window."""
    outcomes = [*matrix().outcomes, *(made_up.outcome(nodeid) for nodeid in HOSTILE)]
    page = visit(made_up.summary(*outcomes), viewport={"width": 375, "height": 800})
    page.locator("#all").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    page.locator("table.sortable thead button", has_text="KLD").click()
    assert page.locator("th[aria-sort=ascending]").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_can_be_read_in_light_and_dark(visit, scheme):
    """Of words and badges against what is behind them: a contrast of 4.5 at least (WCAG AA)."""
    page = visit(matrix(), color_scheme=scheme)
    page.locator("#all").click()
    ratios = page.evaluate(CONTRASTS)
    assert len(ratios) > 20
    assert {words: ratio for words, ratio in ratios.items() if ratio < 4.5} == {}
    is_dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
    assert is_dark == (scheme == "dark")


#: The contrast of each distinct pair of colours, by some words that have it.
CONTRASTS = """() => {
  const light = (rgb) => rgb.map((c) => c / 255).map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const parsed = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parsed(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const found = {};
  document.querySelectorAll("body *:not(script):not(.arrow)").forEach((node) => {
    const words = [...node.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data).join("").trim();
    if (!words || !node.checkVisibility()) return;
    const style = getComputedStyle(node);
    const ink = parsed(node instanceof SVGElement ? style.fill : style.color).slice(0, 3);
    const [a, b] = [light(ink), light(behind(node))].sort((x, y) => y - x);
    found[`${node.tagName} ${words.slice(0, 40)}`] = (a + 0.05) / (b + 0.05);
  });
  return found;
}"""


def test_paper_has_all_details(visit):
    """Printed, what was closed is there as well, and what only a screen can use is not."""
    page = visit(matrix())
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert page.locator("details.case .tiles:visible").count() == 4
    assert not page.locator("#filter").is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details.case[open]").count() == 2


def test_hostile_names_stay_names(visit):
    """No script from a name runs, in any place that shows one; the table shows the name as text."""
    outcomes = [made_up.outcome(nodeid, name=f"a/{n}<b>") for n, nodeid in enumerate(HOSTILE)]
    hostile = "<img src=x onerror=alert(5)>"
    case = replace(outcomes[0].case, model=hostile, corpus=(hostile,))
    part = replace(outcomes[0].parts[0], corpus=hostile, changes=(hostile,))
    check = replace(outcomes[0].verdict.checks[0], evidence=hostile, corpus=hostile)
    verdict = replace(outcomes[0].verdict, checks=(check, *outcomes[0].verdict.checks))
    outcomes[0] = replace(
        outcomes[0], case=case, parts=(part, replace(part, corpus="b")), verdict=verdict, baseline=hostile
    )
    outcomes.append(made_up.unmeasured("test_a.py::z", problem=f"{hostile}\n{HOSTILE[3]}"))
    page = visit(made_up.summary(*outcomes, problems=(hostile,), unused=(hostile, HOSTILE[3])))
    page.locator("#all").click()
    page.wait_for_timeout(100)
    text = page.locator("body").inner_text()
    assert "<script>alert(1)</script>" in text
    assert "{{ 7 * 7 }}" in text
    assert "\\x1b[31mred" in text
    assert "\\u202egnirts\\u2066\\u200f" in text
    assert not {char for char in text if char in "\x1b\u202e\u2066\u200f"}
    assert "[10,0" in text  # of the long id, how much of it is left out
    assert page.locator("img, body script:not(:last-child), svg[onload]").count() == 0
