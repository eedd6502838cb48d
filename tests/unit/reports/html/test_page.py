"""The HTML report as text: what is in it, what it costs, and what it needs."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import made_up
import pytest
from places import SUPPORT

from pytest_tenpak.baselines.entry import Figures
from pytest_tenpak.baselines.history import Past
from pytest_tenpak.metrics.measurement import Layers
from pytest_tenpak.reports.html import charts
from pytest_tenpak.reports.html.page import render
from pytest_tenpak.verdict.checks import Check, Status, Verdict


def seen(summary):
    """The words of a page, without its markup."""

    class Words(HTMLParser):
        def __init__(self):
            super().__init__()
            self.words, self.muted = [], False

        def handle_starttag(self, tag, attrs):  # noqa: ARG002
            self.muted = tag in ("style", "script")

        def handle_endtag(self, tag):  # noqa: ARG002
            self.muted = False

        def handle_data(self, data):
            self.words += [] if self.muted else [data]

    parser = Words()
    parser.feed(render(summary))
    return re.sub(r"\s+", " ", " ".join(parser.words))


def long_outcome(number, windows=2000):
    """An outcome of a long text: what it needs in a report is not in proportion."""
    one = made_up.outcome(
        f"tests/quantization/test_matrix.py::test_recipe[group-{number}]", factor=1.0 + number % 7 / 20
    )
    part = one.parts[0]
    nll = tuple(300 + 20 * math.sin(n * (number + 1)) for n in range(windows))
    ours = replace(part.measurement.windows, nll=nll, tokens=(100,) * windows, lost=(0,) * windows, kld=nll)
    theirs = replace(ours, nll=tuple(x - 5 + math.cos(n) for n, x in enumerate(nll)))
    layers = Layers(tuple(1 + math.sin(n) / 9 for n in range(32)), (0.1,) * 32)
    measurement = replace(part.measurement, windows=ours, layers=layers)
    return replace(
        one,
        parts=(replace(part, measurement=measurement, reference=replace(part.reference, windows=theirs)),),
    )


def past(count, device_class="cpu"):
    return [
        Past(
            f"{n:040x}",
            f"2026-01-{n % 28 + 1:02}T00:00:00Z",
            device_class,
            Figures(9.0 + n, 8.0, 4.5, 3.2, 0.1, 0.9),
        )
        for n in range(count)
    ]


def test_a_failure_comes_with_its_evidence_and_its_way_out():
    """What failed, by how much, what changed, and the very command that accepts it."""
    text = seen(made_up.summary(made_up.outcome(factor=1.2), made_up.outcome("test_b.py::test_b")))
    assert "1 of 2 gates failed" in text
    assert "perplexity vs baseline +20.00%, bound ≤ +0.5%" in text
    assert "torch 2.12.0 → 2.13.0" in text
    assert "pytest test_a.py::test_a --tenpak-update=failing --tenpak-accept 'why this is fine'" in text


def test_failures_come_first():
    """However their tests are named."""
    page = render(made_up.summary(made_up.outcome("a.py::a"), made_up.outcome("b.py::b", factor=1.2)))
    assert page.index('id="case-1" class="case failed"') < page.index('id="case-2" class="case passed"')


def test_every_ratio_has_its_denominator():
    """All four of the ledger, beside bytes and bits."""
    text = seen(made_up.summary(made_up.outcome()))
    for words in ("whole checkpoint", "quantized layers"):
        assert f"{words} vs 16 bit" in text
        assert f"{words} vs 32 bit" in text
    assert "4.000 quantized layers" in text  # bits per weight: 450 bytes for 900 weights


def test_what_could_not_be_measured_is_no_pass_and_keeps_its_reason():
    """Nor does it break the page that it has no figures."""
    text = seen(
        made_up.summary(
            made_up.unmeasured(problem="the worker\n  crashed"), expected=("test_a.py::test_a", "gone")
        )
    )
    assert "1 of 1 gate failed" in text
    assert "the worker crashed" in text
    assert "expected, but did not run: gone" in text


@pytest.mark.parametrize("figure", [math.nan, math.inf])
def test_figures_that_are_not_finite_break_nothing(figure):
    """They are left out of charts; the verdict says what they are."""
    one = made_up.outcome()
    part = one.parts[0]
    measurement = replace(
        part.measurement,
        windows=replace(part.measurement.windows, nll=(figure, 1.0, 2.0), kld=(figure, 1.0, 2.0)),
        layers=Layers((figure, 1.0), (0.1, figure)),
        divergence=replace(part.measurement.divergence, mean=figure, p99=figure, maximum=figure),
    )
    page = render(made_up.summary(replace(one, parts=(replace(part, measurement=measurement),))))
    assert not re.search(r"<(path|circle|text|rect)[^>]*\b(nan|inf)\b", page)


def test_an_empty_run_is_a_page_too():
    """It says that no gate ran."""
    assert "No gate ran" in seen(made_up.summary())


def test_problems_and_unused_baselines_are_told():
    """A run whose gates pass is no good run where a baseline could not be written."""
    text = seen(made_up.summary(made_up.outcome(), problems=("disk full",), unused=("baselines/old.json",)))
    assert "Not all gates ran well" in text
    assert "disk full" in text
    assert "baselines/old.json" in text


def test_a_trend_has_a_line_for_each_device_class():
    """Thinned where it is long, the ends kept and the count told."""
    page = render(
        made_up.summary(made_up.outcome(), trends={"a": past(100), "b": [*past(2), *past(2, "cuda-sm90")]})
    )
    assert "100 times, 32 of them drawn; cpu" in page
    assert "Latest: 108.000 at 3.20×, commit 0000000000" in page
    assert "4 times; cpu, cuda-sm90" in page


def test_the_frontier_is_drawn_for_cases_that_answer_one_question():
    """Those of another text have no place in it."""
    one, two, other = (
        made_up.outcome(f"a.py::{n}", factor=1 + i / 9) for i, n in enumerate(("one", "two", "other"))
    )
    part = other.parts[0]
    elsewhere = replace(part.measurement, identity={**part.measurement.identity, "corpus": "sha256:z"})
    other = replace(other, parts=(replace(part, measurement=elsewhere),))
    page = render(made_up.summary(one, two, other))
    assert page.count("<h2>Size against quality</h2>") == 1
    assert "2 cases; each leads to its details" in page


def test_long_texts_are_drawn_in_few_bars_and_the_caption_says_so():
    """2000 windows in bars of 17."""
    assert "Each bar is 17 windows of 2,000" in render(made_up.summary(long_outcome(1)))


def test_a_limit_that_nobody_set_leaves_the_interval():
    """Perplexity against the reference is shown with its interval all the same."""
    one = long_outcome(1)
    checks = tuple(check for check in one.verdict.checks if check.name != "max_ppl_delta")
    text = seen(made_up.summary(replace(one, verdict=replace(one.verdict, checks=checks))))
    assert re.search(r"99.9% interval \+[\d.]+% to \+[\d.]+% at any look; no limit is set", text)


def test_the_policy_allows_this_page_and_nothing_else():
    """No source but the hashes of its own style and script."""
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', render(made_up.summary()))[1]
    assert policy.startswith("default-src &#39;none&#39;; ")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_two_hundred_long_cases_fit_three_megabytes():
    """And each still has its charts."""
    outcomes = [long_outcome(number) for number in range(200)]
    page = render(made_up.summary(*outcomes, trends={one.case.nodeid: past(100) for one in outcomes}))
    assert len(page.encode()) < 3_000_000
    assert page.count("NLL increase by position in the text") == 200


@pytest.mark.parametrize(
    ("name", "difference", "bound", "shown"),
    [
        ("compression_tolerance", 0.0, 0.1, "-10%"),
        ("compression_drift", 0.0, 0.1, "-10%"),
        ("ppl_tolerance", 0.0, 0.1, "+10%"),
    ],
)
def test_what_is_refused_lies_on_the_side_of_worse(name, difference, bound, shown):
    """Left of the bound for what may not fall, right of it for what may not rise; the figure is outside."""
    one = made_up.outcome()
    check = Check(name, Status.PASSED, 1.0, 1.0, difference, bound)
    page = render(made_up.summary(replace(one, verdict=Verdict((check,)))))
    left, width = map(float, re.search(r"class=refused x=([\d.]+) y=4 width=([\d.]+)", page).groups())
    figure = float(re.search(r"class=value cx=([\d.]+) cy=15", page)[1])
    assert f">{shown}</text>" in page
    assert not left <= figure <= left + width
    assert (left < figure) == shown.startswith("-")


def test_axes_have_room_for_one_figure():
    """A lone figure, or equal ones, lies inside the axis."""
    axis = charts.axis_of([5.0, 5.0], 0, 100)
    assert 0 < axis(5.0) < 100
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks())


IMPORTS = """
import sys, made_up
from pytest_tenpak.reports.html.page import render
render(made_up.summary(made_up.outcome()))
print(sorted({"torch", "transformers", "matplotlib", "pytest"} & set(sys.modules)))
"""


def test_the_page_is_made_without_torch():
    """Nor with anything else that is heavy."""
    paths = os.pathsep.join([str(SUPPORT), *sys.path])
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert ran.stdout.strip() == "[]"
