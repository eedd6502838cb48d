"""The answer of `tenpak recommend`: what fits 80 columns, what can be pasted, and what is drawn."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from browser import Visit, launched

from pytest_tenpak.baselines.entry import Figures
from pytest_tenpak.metrics.intervals import Estimate
from pytest_tenpak.reports import recommendation
from pytest_tenpak.reports.html import frontier
from pytest_tenpak.verdict.advice import Advice, LeftOut, Near, Place, Row
from pytest_tenpak.verdict.frontier import Out, Why

BOUNDS = {"max_ppl_delta": 0.05, "min_compression": 2}


def row(name, compression, delta, place=Place.FRONTIER, half=0.02, **rest) -> Row:
    """A measured recipe."""
    figures = Figures(10 * (1 + delta), 10.0, 4.5, compression, 0.0213, 0.913)
    estimate = Estimate(delta, 8, 2040, 8, delta - half, delta + half, half / 9)
    return Row(
        name, {"method": name, **BOUNDS}, place, compression, figures, estimate, 2040, 8160, 31.0, **rest
    )


def advice(*rows: Row, pick: str = "", **rest) -> Advice:
    """An answer about these recipes."""
    fields = {"left_out": (), "near": (), "seconds": 100.0, **rest}
    return Advice(
        "m", "shakespeare", "cpu", "float32", 0.05, 2.0, rows=rows, pick=pick, alpha=0.001, **fields
    )


ROWS = (
    row("fp16", 1.0, 0.0, out=Out(Why.COMPRESSION)),
    row("gptq, group_size=64, desc_act=True", 2.35, 0.03, surely=True),
    row("nf4", 2.31, 0.26, Place.OUT, out=Out(Why.PERPLEXITY, 2040)),
    row("awq", 2.3, 0.04, Place.BEATEN),
    row("other", 2.2, 0.05, Place.OUT, out=Out(Why.DOMINATED, 1020, "awq")),
    Row("bad", {"method": "bad"}, Place.FAILED, problem="the worker process that should quantize crashed"),
)
ANSWER = advice(
    *ROWS,
    pick="gptq, group_size=64, desc_act=True",
    left_out=(LeftOut(("a", "b"), "method 'a' needs a-library, which is not installed (pip install a)"),),
)


@pytest.mark.parametrize("width", [60, 80, 120, None])
def test_the_answer_fits_the_terminal(width):
    """Columns that matter less go first; every recipe is there, and why it is out."""
    lines = recommendation.answer_lines(ANSWER, {"context": 64}, width)
    if width and width > 60:
        assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for words in (
        "nf4: 2.31×, +26.00% after 2,040 tokens; out: perplexity is significantly above max_ppl_delta after 2,040",
        "other: 2.20×, +5.00% after 2,040 tokens; out: awq compresses as much, with a significantly lower",
        "fp16: 1.00×, 0.00% after 2,040 tokens; out: compression is below min_compression",
        "bad: failed: the worker process that should quantize crashed",
        "a; b: not run: method 'a' needs a-library, which is not installed (pip install a)",
        "recommended: gptq, group_size=64, desc_act=True: 2.35×, perplexity +3.00% (+1.0 to +5.0%)",
        "tenpak_context = 64",
    ):
        assert words in text
    assert ("top-1" in text) == (width != 60)


def test_a_recommendation_on_the_point_estimate_says_so():
    """An interval that reaches past the bound is no proof."""
    (_, good, *_) = ROWS
    assert "point estimate" not in recommendation.headline(ANSWER)
    undecided = advice(replace(good, surely=False), pick=good.name)
    assert "on the point estimate: the interval does not decide" in recommendation.headline(undecided)


def test_the_marker_is_python():
    """On one line where it fits, else an argument on each, with what was asked for."""
    given = {
        "method": "int4",
        "group_size": {"attn": 256},
        "sym": False,
        "max_ppl_delta": 0.05,
        "min_compression": 3.0,
    }
    for width in (None, 40):
        lines = recommendation.marker_lines(given, width)
        assert (len(lines) == 1) == (width is None)
        call = "\n".join(lines).removeprefix("@pytest.mark.quantize")
        assert eval(f"dict{call}") == given
    assert "min_compression=3)" in recommendation.marker_lines(given)[0]


def test_without_a_recipe_the_nearest_are_named():
    """Each with the bound that it would meet."""
    near = (Near("nf4", "max_ppl_delta", 0.27), Near("fp16", "min_compression", 1.0))
    text = " ".join(recommendation.answer_lines(advice(*ROWS, near=near), {}, None))
    assert "no recipe meets max_ppl_delta=0.05 and min_compression=2" in text
    assert "nearest: nf4 (2.31×, +26.00% after 2,040 tokens) would meet max_ppl_delta=0.27" in text
    assert "fp16 (1.00×, 0.00% after 2,040 tokens) would meet min_compression=1" in text
    assert "@pytest.mark" not in text


def test_the_document_has_every_row_and_is_json():
    """Also where a figure is not finite."""
    broken = row("broken", 2.0, float("nan"), Place.OUT, out=Out(Why.NOT_FINITE, 255))
    plain = json.loads(json.dumps(advice(*ROWS, broken).to_dict(), allow_nan=False))
    assert [one["name"] for one in plain["rows"]] == [one.name for one in (*ROWS, broken)]
    assert plain["rows"][2]["out"] == {"why": "perplexity above the bound", "tokens": 2040, "by": ""}
    assert plain["rows"][-1]["figures"]["perplexity"] is None


class _Texts(HTMLParser):
    """The words of a page, and of its chart."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_draws_the_frontier_with_its_bounds():
    """Axes with their units, the bounds as they were asked for, and each measured recipe by name."""
    page = frontier.render(ANSWER)
    drawn = page[page.index("<svg") : page.index("</svg>")]
    words = _Texts(drawn).words
    for text in (
        "perplexity over the unquantized model’s, relative (lower is better)",
        "compression, whole checkpoint vs 16 bit (more is better)",
        "max_ppl_delta=0.05",
        "min_compression=2",
        *(one.name for one in ROWS if one.figures),
    ):
        assert text in words
    assert drawn.count("class=bound") == 2
    assert drawn.count("<circle class=ring") == 1
    assert "method=&#34;gptq, group_size=64, desc_act=True&#34;" in page


def test_labels_cover_neither_points_nor_one_another():
    """Ten recipes in a small place: those whose names have room are named."""
    rows = [row(f"recipe-{n}", 2.0 + 0.01 * n, 0.01 + 0.002 * n, half=0.001) for n in range(10)]
    found = re.findall(
        r"<text x=(\d+) y=(\d+)( text-anchor=end)?[^>]*>(recipe-\d)<",
        frontier.chart(advice(*rows), {one.name: "a" for one in rows}),
    )
    assert len(found) >= 6
    boxes = []
    for x, y, end, name in found:
        wide = 6 * len(name)
        left = int(x) - wide if end else int(x)
        boxes.append((left, int(y) - 10, left + wide, int(y) + 3))
    for n, (left, top, right, bottom) in enumerate(boxes):
        for a, b, c, d in boxes[n + 1 :]:
            assert right < a or c < left or bottom < b or d < top


_OVERLAPPING = """() => {
  const texts = [...document.querySelectorAll('.chart text')].map(t => [t.textContent, t.getBoundingClientRect()]);
  const apart = (a, b) => a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
  return texts.flatMap(([name, a], n) => texts.slice(n + 1).filter(([, b]) => !apart(a, b)).map(([other]) => [name, other]));
}"""


def test_the_page_needs_nothing_else_and_its_letters_do_not_overlap(tmp_path):
    """In a browser: no request, no error, no two texts of the chart over each other, at any width."""
    path = tmp_path / "recipes.html"
    path.write_text(frontier.render(ANSWER), encoding="utf-8")
    with launched() as browser:
        for width in (1180, 375):
            visit = Visit(browser, path, viewport={"width": width, "height": 900})
            assert visit.page.evaluate(_OVERLAPPING) == [], width
            visit.page.click(".chart a >> nth=0")
            assert "#recipe-" in visit.page.url
            assert visit.faults == []


def test_a_recipe_far_beyond_the_bound_does_not_flatten_the_others():
    """It stands at the upper edge, with its figure."""
    far = row("far", 2.4, 90.0, Place.OUT, half=1.0, out=Out(Why.PERPLEXITY, 255))
    drawn = frontier.chart(advice(*ROWS, far), {one.name: "a" for one in (*ROWS, far)})
    assert "far ↑ +9000.00%" in drawn
    assert "+20%" in _Texts(drawn).words


def test_names_are_trusted_with_nothing():
    """A recipe of somebody else's method may be called anything."""
    page = frontier.render(
        advice(row("<script>alert(1)</script>", 2.1, 0.01), pick="<script>alert(1)</script>")
    )
    assert "<script>alert" not in page


def test_nothing_measured_is_no_chart():
    """A page without figures says why there are none."""
    page = frontier.render(advice(ROWS[-1]))
    assert "<svg" not in page
    assert "the worker process that should quantize crashed" in page
