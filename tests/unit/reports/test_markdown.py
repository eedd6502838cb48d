"""The Markdown report: complete, within its limit, and inert whatever names it holds."""

import re
from functools import cache

import pytest
from made_up import HOSTILE, outcome, summary, unmeasured
from markdown_it import MarkdownIt

from pytest_tenpak.reports.escaping import short_name, shortened, visible, visible_lines
from pytest_tenpak.reports.markdown import COMMENT_BYTES, COMMENT_MARKER, code, render, render_comment

NASTY = pytest.mark.parametrize("nodeid", HOSTILE.values(), ids=HOSTILE)


@cache
def many():
    """A run of 200 gates in which every third regressed, and every seventh could not be measured."""
    gates = [
        unmeasured(nodeid, "a crash\n" + "  | a line of its log\n" * 40)
        if n % 7 == 0
        else outcome(nodeid, 1.2 if n % 3 == 0 else 1.0)
        for n in range(200)
        for nodeid in [f"tests/test_models.py::test_one_of_many[{n}-a-rather-long-parameter]"]
    ]
    return summary(*gates)


def size(text: str) -> int:
    return len(text.encode())


def parsed(text: str):
    """The document's tokens, inline ones flattened, as CommonMark with tables has them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    return [inner for token in tokens for inner in (token.children or [token])]


def outside_code(tokens):
    """The text that is not between ``<code>`` and ``</code>``."""
    inside = False
    for token in tokens:
        inside = token.content == "<code>" or (inside and token.content != "</code>")
        if token.type == "text" and not inside:
            yield token.content


def test_it_says_all():
    """Counts, the table, each failure's text with its evidence and command, notes, what is missing or wrong."""
    run = summary(
        outcome(),
        outcome("test_a.py::test_b", 1.2),
        outcome("test_a.py::test_c", 0.9),
        expected=("test_a.py::test_a", "test_a.py::test_b", "test_a.py::test_c", "test_a.py::test_d"),
        problems=("the disk is full",),
    )
    text = render(run)
    lines = text.splitlines()
    assert lines[0] == "### Quantization gates: 1 of 3 gates failed"
    assert "4 gates expected, 3 ran" in lines
    assert "the disk is full" in lines
    assert "did not run: test_a.py::test_d" in lines
    assert sum(line.startswith("| `test_a.py::test_") for line in lines) == 3
    assert "| `test_a.py::test_b` | `nf4` | 4.000 | 4.00× | 9.488 → 14.619 | +54.08% |" in text
    assert any(line.startswith("regressed: perplexity vs baseline +20.00%, bound ≤ +0.5%") for line in lines)
    assert any(line.startswith("perplexity vs baseline: point estimate") for line in lines)
    assert (
        "to accept: pytest test_a.py::test_b --tenpak-update=failing --tenpak-accept 'why this is fine'"
        in lines
    )
    assert any("can be tightened by -10.00% of perplexity" in line for line in lines)


@pytest.mark.parametrize("limit", [0, 50, 300, 1000, 3000, 10_000, COMMENT_BYTES, 1 << 20])
def test_it_is_never_longer_than_its_limit(limit):
    """200 gates, many of them failing, at any limit: cut by whole rows and lines, every fence closed."""
    text = render(many(), limit)
    assert size(text) <= limit
    assert text == "" or text.endswith("\n")
    assert len(re.findall("^```", text, re.M)) % 2 == 0
    assert text.count("<details>") == text.count("</details>")
    assert all(line.count("|") in (0, 12) for line in text.splitlines() if line.startswith("|"))


def test_what_is_left_out_is_counted():
    """A cut says how many gates, failures and lines are elsewhere, and where; failing rows are cut last."""
    run = many()
    text = render_comment(run)
    assert text.startswith(f"{COMMENT_MARKER}\n### Quantization gates: 86 of 200 gates failed\n")
    assert size(text) <= COMMENT_BYTES
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert re.search(
        rf"^{200 - len(rows)} gates left out of this table: the run's log, --tenpak-json", text, re.M
    )
    assert sum(" regressed |" in row or " error |" in row for row in rows) == 86
    shown = text.count("<details>")
    assert 0 < shown < 86
    assert re.search(rf"^{86 - shown} failures left out of these details: ", text, re.M)
    small = render(summary(unmeasured(problem="a crash\n" + "line\n" * 10_000)), 5000)
    assert re.search(r"^[\d,]+ lines left out of this block: ", small, re.M)


def test_a_run_that_fits_is_whole():
    """200 gates within a step summary's mebibyte: every row, every failure, nothing left out."""
    text = render(many())
    assert text.count("\n| `") == 200
    assert text.count("<details>") == 86
    assert "left out" not in text


@NASTY
def test_hostile_names_are_inert(nodeid):
    """They make no table cell, no markup, no HTML, no mention: all of their text stands in code."""
    run = summary(
        outcome(nodeid, 1.2), unmeasured("test_b.py::test_b", f"crash in {nodeid}"), problems=(nodeid,)
    )
    text = render(run)
    assert all(char == "\n" or char.isprintable() for char in text)
    tokens = parsed(text)
    ours = {"<code>", "</code>", "<!-- pytest-tenpak -->"}
    assert {token.content for token in tokens if token.type == "html_inline"} <= ours
    blocks = [token.content for token in tokens if token.type == "html_block"]
    assert all(
        re.fullmatch(r"(<details><summary><code>[^<>]*</code>: \w+</summary>|</details>)\n*", b)
        for b in blocks
    )
    assert not {token.type for token in tokens} & {"link_open", "strong_open", "em_open", "image"}
    assert sum(token.type == "tr_open" for token in tokens) == 3
    assert not any(word in row for row in outside_code(tokens) for word in ("script", "pwned", "@"))
    assert not re.search(r"^\s*::", text, re.M)
    assert "##[" not in text


def test_code_that_no_span_can_hold():
    """Backticks, pipes and backslashes become entities: no mention, link or cell can come of them."""
    assert code("a_b") == "`a_b`"
    assert code("") == ""
    assert code("a|@b") == "<code>a&#124;&#64;b</code>"
    assert "`" not in code("``")


# ---------------------------------------------------------------- the cleaning that all reports share


@NASTY
def test_what_is_obeyed_becomes_visible(nodeid):
    """One printable line of no more than the limit, at which no runner's command starts."""
    shown = short_name(nodeid)
    assert shown.isprintable()
    assert len(shown) <= 200
    assert not shown.lstrip().startswith("::")
    assert "##[" not in shown
    shown.encode()


def test_what_is_harmless_stays():
    """Letters of any script, emoji with joiners, and names at the limit are left alone."""
    for text in ("tests/test_å.py::test[λ-日本-می‌خواهم-👩‍🔬]", "x" * 200, "a::b", "  indented"):
        assert short_name(text) == text


def test_a_long_name_says_how_much_is_missing():
    """Its two ends, and the count of what is between."""
    cut = shortened("a" * 500 + "b" * 500, 100)
    assert re.fullmatch(r"a+…\[920 more\]…b+", cut)
    assert len(cut) <= 100


def test_texts_of_several_lines_keep_them():
    """A worker's log stays readable; what would be a command in it does not stay one."""
    assert visible_lines("a\r\n\tb\n::error::x") == ["a", "        b", r"\x3a:error::x"]
    assert visible("a\nb") == r"a\nb"


def test_unused_baselines_are_listed():
    """With what to do about them, as in the terminal."""
    text = render(summary(outcome(), unused=("baselines/gone.json",)))
    assert "baselines/gone.json" in text
    assert "tenpak prune --yes" in text
