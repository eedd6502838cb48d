"""What intervals and verdicts are worth on real windows: coverage, false alarms, power, tokens to a verdict.

Resamples the windows of ``windows.json`` (which ``windows.py`` measured), moved so that their mean is the
truth under test, and prints Markdown tables: ``make statistics``. Seeded, so every run prints the same. The
loops are numpy's, for their number; ``verdict`` says what they compute, and a sample of them is held against
it and against the plugin's own estimates.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit
from tabulate import tabulate

from pytest_tenpak.metrics import intervals as statistics
from pytest_tenpak.metrics.intervals import ALPHA, BOOTSTRAP_BELOW, Rule, anytime_t, estimate, looks
from pytest_tenpak.metrics.measurement import Windows
from pytest_tenpak.verdict.criteria import Criterion, first_decisive_look

WINDOWS = Path(__file__).with_name("windows.json")
LEVELS = (0.1, 0.05, 0.001)
COUNTS = (8, 16, 29, 30, 64, 128)
BUDGETS = (32, 128, 256)
EFFECTS = (0.005, 0.01, 0.02, 0.05)
#: The plugin's default tolerance, and a tight one for unchanged weights.
TOLERANCES = (0.005, 0.001)
RUNS = 20_000


@dataclass(frozen=True)
class Pair:
    """One kind of comparison: what a window says per token, in nats, in the order of the text."""

    title: str
    windows: np.ndarray

    @property
    def centred(self) -> np.ndarray:
        """Windows whose true mean is 0."""
        return self.windows - self.windows.mean()


class Decision(NamedTuple):
    """A verdict on one bound: whether it holds, after how many windows, and whether the interval says so."""

    holds: bool
    windows: int
    decisive: bool


class Decisions(NamedTuple):
    """Many of them."""

    holds: np.ndarray
    windows: np.ndarray
    decisive: np.ndarray


def pairs() -> tuple[list[Pair], int]:
    """The comparisons of the tables, by their noise, and the tokens of a window."""
    found = json.loads(WINDOWS.read_text(encoding="utf-8"))
    (tokens,) = set(found["tokens"])
    nll, kld = ({name: np.array(row) / tokens for name, row in found[k].items()} for k in ("nll", "kld"))
    return [
        Pair("bfloat16 − float32", nll["bfloat16"] - nll["float32"]),
        Pair("NF4 double − NF4", nll["nf4-double"] - nll["nf4"]),
        Pair("INT8 − float32", nll["int8"] - nll["float32"]),
        Pair("NF4 nudged − NF4", nll["nf4-nudged"] - nll["nf4"]),
        Pair("FP4 − NF4", nll["fp4"] - nll["nf4"]),
        Pair("NF4, unpaired", nll["nf4"]),
        Pair("KLD of INT8", kld["int8"]),
        Pair("KLD of NF4", kld["nf4"]),
    ], tokens


def verdict(sums: Sequence[float], tokens: Sequence[int], bound: float, rule: Rule) -> Decision:
    """As the plugin decides against a baseline, by its own functions."""
    total = len(sums)
    windows = Windows(tuple(sums), tuple(tokens), (0,) * total, "")
    criterion = Criterion("ppl_tolerance", "nll", bound, against=(0.0,) * total, ends=True, unchanged=0.0)
    count = first_decisive_look([criterion], windows, total, rule) or total
    answer = criterion.answer(windows.prefix(count), rule)
    return Decision(answer.holds, count, answer.decisive)


def draws(pair: Pair, count: int, runs: int, *seed: int) -> Iterator[np.ndarray]:
    """Resampled runs of ``count`` windows with mean 0 in truth, a block of runs at a time."""
    generator = np.random.default_rng([*seed, count])
    block = max(1, 2_000_000 // count)
    for start in range(0, runs, block):
        chosen = generator.integers(len(pair.windows), size=(min(block, runs - start), count))
        yield pair.centred[chosen]


def means_and_errors(block: np.ndarray, grid: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error (one row a run) after the numbers of windows in ``grid``."""
    counts, at = np.array(grid), np.array(grid) - 1
    means = block.cumsum(axis=1)[:, at] / counts
    squares = (block**2).cumsum(axis=1)[:, at] / counts - means**2
    return means, np.sqrt(np.maximum(squares, 0) / (counts - 1))


def decide(pair: Pair, effect: float, tolerance: float, total: int, rule: Rule) -> Decisions:
    """``verdict`` on RUNS resampled runs whose true relative difference of perplexities is ``effect``."""
    grid = [total] if rule.fixed else looks(total)
    reach = [
        float(stdtrit(n - 1, 1 - rule.alpha / 2)) if rule.fixed else anytime_t(n, rule.alpha) for n in grid
    ]
    shift, bound = math.log1p(effect), math.log1p(tolerance)
    found = []
    for block in draws(pair, total, RUNS, 1):
        means, errors = means_and_errors(block, grid)
        means, arms = means + shift, errors * reach
        holds, broken = means + arms <= bound, means - arms > bound
        clear = holds | broken
        first = np.where(clear.any(axis=1), clear.argmax(axis=1), len(grid) - 1)[:, None]
        # At the end the point estimate decides; what is not significantly different from no change
        # breaks nothing.
        once = float(stdtrit(total - 1, 1 - rule.alpha / 2))
        value = np.take_along_axis(
            np.where(clear, holds, means <= np.maximum(bound, errors * once)), first, 1
        )
        found.append((value[:, 0], np.array(grid)[first[:, 0]], clear.any(axis=1)))
    return Decisions(*(np.concatenate(column) for column in zip(*found, strict=True)))


def check_against_the_plugin(pair: Pair, tokens: int) -> None:
    """The loops above decide as ``verdict`` does, run by run."""
    for rule in (Rule(), Rule(fixed=True)):
        fast = decide(pair, 0.01, 0.005, 64, rule)
        block = next(draws(pair, 64, RUNS, 1))[:100]
        for number, row in enumerate(tokens * (block + math.log1p(0.01))):
            slow = verdict(row.tolist(), [tokens] * 64, math.log1p(0.005), rule)
            assert slow == tuple(column[number] for column in fast), (pair.title, number, slow)
    row = next(draws(pair, 16, RUNS, 1))[0]
    arms = np.maximum(bootstrap_arms(row), stdtrit(15, 1 - np.array(LEVELS) / 2))
    for alpha, below, above in zip(LEVELS, *arms, strict=True):
        found = estimate((tokens * row).tolist(), [tokens] * 16, Rule(alpha, fixed=True))
        theirs = (found.value - found.low) / found.error, (found.high - found.value) / found.error
        assert np.allclose(theirs, (below, above)), (pair.title, alpha, theirs)


@cache
def resamples(count: int) -> np.ndarray:
    """How often each of ``count`` windows is drawn in each of the plugin's bootstrap samples."""
    chosen = np.random.default_rng(0).integers(count, size=(statistics._RESAMPLES, count))
    return (chosen[..., None] == np.arange(count)).sum(axis=1).astype(float)


def bootstrap_arms(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bootstrap's arms below and above the mean at LEVELS, in standard errors (windows of one length)."""
    count, weights = len(row), resamples(len(row))
    off = row - row.mean()
    means = weights @ off / count
    squares = weights @ off**2 / count - means**2
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.nan_to_num(
            means / np.sqrt(np.maximum(squares, 0) / (count - 1)), nan=0.0, posinf=np.inf, neginf=-np.inf
        )
    tails = np.array(LEVELS) / 2
    low, high = np.quantile(t, [tails, 1 - tails], method="closest_observation")
    return high, -low


def missed(pair: Pair, count: int) -> np.ndarray:
    """How often an interval for one look misses the truth, at each of LEVELS."""
    students = stdtrit(count - 1, 1 - np.array(LEVELS) / 2)
    runs = RUNS if count >= BOOTSTRAP_BELOW else RUNS // 4
    misses = np.zeros(len(LEVELS))
    for block in draws(pair, count, runs, 2):
        means, errors = means_and_errors(block, [count])
        t = (means / errors)[:, 0]
        if count >= BOOTSTRAP_BELOW:
            misses += (abs(t)[:, None] > students).sum(axis=0)
            continue
        # The wider of both intervals is taken, so only where Student's misses does the other matter.
        for number in np.flatnonzero(abs(t) > students[0]):
            below, above = bootstrap_arms(block[number])
            misses += (t[number] > np.maximum(students, below)) | (-t[number] > np.maximum(students, above))
    return misses / runs


def ever_missed(pair: Pair, total: int, reach: Sequence[float]) -> tuple[float, float]:
    """How often the truth is ever outside an interval of ``reach`` errors, at any look; how often above."""
    grid = looks(total)
    outside = above = 0
    for block in draws(pair, total, RUNS, 3):
        means, errors = means_and_errors(block, grid)
        outside += (abs(means) > errors * reach).any(axis=1).sum()
        above += (means < -errors * reach).any(axis=1).sum()
    return outside / RUNS, above / RUNS


def show(title: str, headers: Sequence[str], rows: list[list[Any]]) -> None:
    """Print one table."""
    align = ("left", *["right"] * (len(headers) - 1))
    print(f"**{title}**\n")
    print(tabulate(rows, headers, tablefmt="pipe", colalign=align, disable_numparse=True), "\n")


def share(value: float, digits: int = 2) -> str:
    """A share in per cent; 0 % and 100 % are what never or always happened, and nothing else."""
    least = 10.0**-digits
    if 0 < value < least / 200:
        return f"< {least:g} %"
    if 1 > value > 1 - least / 200:
        return f"> {100 - least:g} %"
    return f"{100 * value:.{digits}f} %" if 0 < value < 1 else f"{100 * value:.0f} %"


def neighbours(windows: np.ndarray) -> tuple[float, float]:
    """Correlation of adjacent windows; variance of means of eight, where independence gives 1."""
    eights = windows[: len(windows) // 8 * 8].reshape(-1, 8).mean(axis=1)
    correlation = (windows[1:] * windows[:-1]).mean() / (windows**2).mean()
    return correlation, 8 * eights.var(ddof=1) / windows.var(ddof=1)


def windows_table(everything: list[Pair]) -> None:
    """What the windows are like, and whether neighbours are alike."""
    rows = []
    for pair in everything:
        x = pair.centred
        deviation = x.std(ddof=1)
        skewness, kurtosis = (x**3).mean() / deviation**3, (x**4).mean() / deviation**4 - 3
        row = [pair.title, f"{pair.windows.mean():+.5f}", f"{deviation:.5f}", f"{skewness:+.2f}"]
        correlation, eights = neighbours(x)
        rows.append([*row, f"{kurtosis:+.2f}", f"{correlation:+.2f}", f"{eights:.2f}"])
    generator, x = np.random.default_rng(4), everything[0].centred
    shuffled = np.array([neighbours(generator.permutation(x)) for _ in range(RUNS // 10)])
    ranges = (f"{low:.2f} to {high:.2f}" for low, high in np.quantile(shuffled, [0.025, 0.975], axis=0).T)
    rows.append(["95 % of shuffled texts", "", "", "", "", *ranges])
    title = f"{len(x)} windows in the order of the text, nats per token"
    headers = ("comparison", "mean", "deviation", "skewness", "excess kurtosis", "lag-1 correlation")
    show(title, (*headers, "variance of means of 8, × independent"), rows)


def coverage_tables(everything: list[Pair]) -> None:
    """Nominal beside measured."""
    rows = []
    for pair in everything:
        found = np.array([missed(pair, count) for count in COUNTS]).T
        for level, row in zip(LEVELS, found, strict=True):
            rows.append([pair.title, f"{100 * (1 - level):g} %", *(share(1 - x) for x in row)])
    headers = ("comparison", "nominal", *(f"{count} windows" for count in COUNTS))
    show("Coverage of the interval for one look (--tenpak-fixed)", headers, rows)

    rows = []
    grid = looks(max(BUDGETS))
    for pair in everything:
        row = [pair.title]
        for alpha in (0.01, 0.001):
            anytime = ever_missed(pair, grid[-1], [anytime_t(n, alpha) for n in grid])
            students = ever_missed(pair, grid[-1], [float(stdtrit(n - 1, 1 - alpha / 2)) for n in grid])
            row += [share(x, 3) for x in (*anytime, students[0])]
        rows.append(row)
    headers = [
        f"{what}, {alpha} %" for alpha in (1, 0.1) for what in ("anytime", "truth above", "Student's t")
    ]
    title = f"How often the truth is ever outside, at any of {len(grid)} looks at up to {grid[-1]} windows"
    show(title, ("comparison", *headers), rows)


def alarms_tables(everything: list[Pair], tokens: int) -> None:
    """False alarms: nothing got worse, or just as much as is tolerated."""
    tolerance = TOLERANCES[0]
    for effect, title in (
        (0.0, f"False alarms where nothing changed, tolerance {tolerance:.1%}"),
        (tolerance, f"Alarms where the true difference is the tolerance, {tolerance:.1%}, itself"),
    ):
        rows = []
        for pair in everything:
            for total in BUDGETS:
                row = [pair.title, str(total)]
                for rule in (Rule(), Rule(fixed=True)):
                    found = decide(pair, effect, tolerance, total, rule)
                    alarm = ~found.holds
                    by = (alarm & found.decisive).mean(), (alarm & ~found.decisive).mean()
                    row += [share(x, 3) for x in by]
                    if not rule.fixed:
                        row += [share(alarm.mean(), 3), f"{tokens * found.windows.mean():,.0f}"]
                rows.append(row if effect else [*row, *without_asking(pair, total, tolerance)])
        headers = ["comparison", "budget", "by interval", "by point estimate", "in all", "mean tokens"]
        headers += ["fixed, by interval", "fixed, by point estimate"]
        more = [] if effect else ["by the point alone", "least significant difference"]
        show(title, [*headers, *more], rows)


def without_asking(pair: Pair, total: int, tolerance: float) -> list[str]:
    """How often the point alone would alarm at the end, and the least difference told apart from none."""
    runs = [means_and_errors(block, [total]) for block in draws(pair, total, RUNS, 1)]
    means, errors = (np.concatenate(column) for column in zip(*runs, strict=True))
    least = float(stdtrit(total - 1, 1 - ALPHA / 2)) * np.median(errors)
    return [share((means > math.log1p(tolerance)).mean(), 3), f"{math.expm1(least):.2%}"]


def power_tables(everything: list[Pair], tokens: int) -> None:
    """Regressions found, and how soon."""
    for tolerance in TOLERANCES:
        rows, quarters = [], []
        for pair in everything:
            for total in BUDGETS:
                row, quarter = [pair.title, str(total)], [pair.title, str(total)]
                for effect in (0.0, *EFFECTS):
                    found = decide(pair, effect, tolerance, total, Rule())
                    clear = found.decisive & (found.windows <= total / 4)
                    quarter.append(share(clear.mean(), 1))
                    if effect:
                        alarm = ~found.holds
                        power = share(alarm.mean(), 1), share((alarm & found.decisive).mean(), 1)
                        row.append(f"{power[0]} ({power[1]}), {tokens * found.windows.mean():,.0f}")
                rows.append(row)
                quarters.append(quarter)
        headers = ("comparison", "budget", *(f"+{effect:.1%}" for effect in EFFECTS))
        title = (
            f"Power against a true difference, tolerance {tolerance:.1%}: alarms (by interval), mean tokens"
        )
        show(title, headers, rows)
        headers = ("comparison", "budget", *(f"+{effect:.1%}" for effect in (0.0, *EFFECTS)))
        show(
            f"Decided by interval within a quarter of the budget, tolerance {tolerance:.1%}",
            headers,
            quarters,
        )


def main() -> None:
    """Print every table."""
    everything, tokens = pairs()
    differences = [pair for pair in everything if "−" in pair.title]
    for pair in differences:
        check_against_the_plugin(pair, tokens)
    print(f"<!-- {RUNS:,} runs a figure, α = {ALPHA:g} unless said, {tokens} tokens a window -->\n")
    windows_table(everything)
    coverage_tables(everything)
    alarms_tables(differences, tokens)
    power_tables(differences, tokens)


if __name__ == "__main__":
    main()
