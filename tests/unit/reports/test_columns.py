"""Headline figures: each stated once, and every table takes them from there."""

import math
from dataclasses import replace

import pytest
from made_up import accepted, outcome, summary

from pytest_tenpak.baselines.entry import Figures
from pytest_tenpak.reports import markdown, terminal
from pytest_tenpak.reports.columns import (
    COLUMNS,
    COMPRESSION,
    DELTA,
    KLD,
    QUANTITIES,
    Measured,
    column_legend,
    percent,
)
from pytest_tenpak.reports.html import page
from pytest_tenpak.reports.run_document import figures_of

FIGURES = Figures(11.0, 10.0, 4.5, 3.56, 0.02, 0.9)


def test_every_table_has_the_same_columns():
    """Terminal, Markdown and HTML: titles in one order, cells of one text."""
    run = summary(outcome("test_a.py::test_a", 1.2))
    (one,) = run.outcomes
    titles = [column.title for column in COLUMNS]
    cells = [column.text(Measured(one, one.parts[0])) for column in COLUMNS]
    assert f"| gate | method | {' | '.join(titles)} | verdict |" in markdown.render(run)
    assert f"| {' | '.join(cells)} | " in markdown.render(run)
    head, _, row, *_ = terminal.table(run.outcomes)
    assert [title for title in titles if title in head] == titles
    assert all(cell in row for cell in cells)
    html = page.render(run)
    assert all(f'<button type="button">{title}<' in html for title in titles)
    assert all(legend in html for legend in column_legend(COLUMNS).split("; "))


def test_the_perplexity_delta_is_that_of_the_figures():
    """One definition: perplexity over the reference's, less one."""
    assert FIGURES.ppl_delta == pytest.approx(0.1)
    assert DELTA.show(FIGURES) == "+10.00%"
    assert FIGURES.loss == pytest.approx(math.log1p(FIGURES.ppl_delta))


def test_which_way_is_better():
    """Less perplexity, divergence and bits; more compression and agreement."""
    better = {one.title: one.is_better(2.0, 1.0) for one in QUANTITIES}
    assert better == {
        **{"perplexity": False, "Δ reference": False, "compression": True},
        **{"bits/weight": False, "KLD": False, "top-1": True},
    }


def test_a_lower_bound_is_shown_as_one():
    """Wherever a divergence over the top tokens alone is shown; of an old baseline the kind is not known."""
    for kind, shown in (("top-k lower bound", "≥ 0.0200"), ("exact", "0.0200"), (None, "0.0200")):
        assert KLD.show(replace(FIGURES, divergence=kind)) == shown
        assert KLD.show(replace(FIGURES, divergence=kind), exact=True) == shown


def test_the_document_has_the_same_figures():
    """By the names of quantities, rounded as baselines store them."""
    one = outcome("test_a.py::test_a", 1.2)
    row = Measured(one, one.parts[0])
    plain = figures_of(one, one.parts[0])
    assert {quantity.name for quantity in QUANTITIES} < set(plain)
    assert plain["perplexity"] == round(row.figures.perplexity, 6)
    assert plain["ppl_delta"] == DELTA.value(row.figures)
    assert plain["compression"]["whole_vs_16bit"] == COMPRESSION.value(row.figures)


def test_what_is_not_there_is_an_empty_cell():
    """And sorts as nothing, as what is not finite does."""
    none = Figures(11.0, 10.0, None, 3.56)
    assert [one.show(none) for one in QUANTITIES] == ["11.000", "+10.00%", "3.56×", "", "", ""]
    one = outcome("test_a.py::test_a", entry=None)
    row = Measured(one, one.parts[0])
    by_title = {column.title: column for column in COLUMNS}
    assert by_title["Δ baseline"].text(row) == ""
    assert by_title["Δ baseline"].sort_key(row) is None


def test_figures_are_stored_rounded_and_shown_unrounded():
    """Rounding happens once, when an entry is made."""
    one = outcome("test_a.py::test_a")
    exact = Measured(one, one.parts[0]).figures
    assert exact.rounded().perplexity == accepted().figures.perplexity == round(exact.perplexity, 6)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (0.0, "0.00%"),
        (1e-8, "0.00%"),
        (0.25, "+25.00%"),
        (-0.00001, "-0.00100%"),
        (0.0001, "+0.01%"),
    ],
)
def test_a_difference_is_never_shown_as_none(value, shown):
    """As many decimals as it takes; below the rounding of stored figures there is none."""
    assert percent(value) == shown
