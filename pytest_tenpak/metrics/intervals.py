"""Window statistics: means per token of paired differences, and their confidence intervals.

The unit is the window, or the document where the corpus has enough of them: tokens of one window are not
independent, and iid-per-token errors come out several times too small. Sums use ``math.fsum``, so that
figures depend neither on the order of windows nor on the machine. Only an interval for one fixed look imports
scipy, and numpy below 30 units: cached figures are judged without either.

Computed by hand because scipy and statsmodels have no interval that holds at every look (anytime-valid) for a
ratio of sums over windows of unequal length.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

#: The error rate of every interval and decision, unless a run asks for another.
ALPHA = 0.001
#: Fewer units than this decide nothing: a variance of three figures is no evidence.
MIN_UNITS = 4
#: A corpus with at least so many documents among its windows is clustered by document.
MIN_DOCUMENTS = 10
#: From this number of units on Student's t is used alone; below, the bootstrap may widen it.
BOOTSTRAP_BELOW = 30
#: Variance of the effect size (in standard deviations of a unit) that the sequential test mixes over. Of
#: 0.3 to 100, 3 needs the fewest windows on real models: a narrower mixture cannot decide at the first look,
#: a wider one needs more windows at every later look.
MIXTURE = 3.0
_RESAMPLES = 20_000
#: Arrays of so many stay in the processor's cache: several times as fast as all at once.
_RESAMPLES_AT_ONCE = 500
_FIRST_LOOK = 8


class Rule(NamedTuple):
    """How decisions are made: at what error rate, and whether at one look or at any."""

    alpha: float = ALPHA
    fixed: bool = False


DEFAULT_RULE = Rule()


@dataclass(frozen=True)
class Estimate:
    """A mean per token with the evidence it rests on.

    ``windows`` and ``tokens`` are the numbers compared, ``units`` the number of independent pieces (windows
    or documents) among them, ``error`` the standard error. The interval from ``low`` to ``high`` covers the
    true mean with the rule's confidence; it is infinite where there is too little evidence. ``spread`` is the
    part of either arm that no further token reduces, as added by :meth:`widened`.
    """

    value: float
    windows: int
    tokens: int
    units: int
    low: float = -math.inf
    high: float = math.inf
    error: float = math.inf
    spread: float = 0.0

    @property
    def half_width(self) -> float:
        """The longer of the interval's two arms."""
        return max(self.value - self.low, self.high - self.value)

    def decides(self, bound: float) -> bool | None:
        """Return True if surely at most ``bound``, False if surely above, None if not decided."""
        if self.high <= bound:
            return True
        return False if self.low > bound else None

    def widened(self, spread: float) -> Estimate:
        """Add another, independent error of half-width ``spread`` to both arms in quadrature."""
        low = self.value - math.hypot(self.value - self.low, spread)
        high = self.value + math.hypot(self.high - self.value, spread)
        return replace(self, low=low, high=high, spread=math.hypot(self.spread, spread))

    def relative(self) -> Estimate:
        """Convert a difference in nats per token to the relative difference of perplexities, exp(x) − 1."""
        value = _expm1(self.value)
        error, spread = (x * (value + 1) if x else 0.0 for x in (self.error, self.spread))
        return replace(
            self, value=value, low=_expm1(self.low), high=_expm1(self.high), error=error, spread=spread
        )

    def tokens_to_decide(self, bound: float) -> float:
        """Estimate how many tokens would decide ``bound`` if the mean stayed: errors shrink with their root.

        Infinite where no number would: the mean is on the bound, or nearer to it than ``spread``.
        """
        arm = self.high - self.value if self.value <= bound else self.value - self.low
        distance = abs(self.value - bound)
        if not (arm < math.inf and distance > self.spread):
            return math.inf
        shrinks = max(0.0, arm**2 - self.spread**2)
        return self.tokens * shrinks / (distance**2 - self.spread**2)


def _expm1(nats: float) -> float:
    try:
        return math.expm1(nats)
    except OverflowError:
        return math.inf


def perplexity(nll: Sequence[float], tokens: Sequence[int]) -> float:
    """Return exp(ΣNLL / Σtokens): ``nll`` in nats per window, ``tokens`` scored per window.

    NaN when nothing was scored, infinity where exp overflows.
    """
    count = sum(tokens)
    return _expm1(math.fsum(nll) / count) + 1 if count else math.nan


def units_of(documents: Sequence[int]) -> list[int] | None:
    """Return the unit of each window: the document it begins in; None where each window is a unit of its own.

    Documents are units where there are at least MIN_DOCUMENTS, worth at least half as many of equal length:
    ten documents, one of which is nearly all of the text, give no interval, where their windows do. Decided
    for the whole plan, so that every look at a prefix of it uses the same units.
    """
    sizes = list(Counter(documents).values())
    many = len(sizes) >= MIN_DOCUMENTS and 2 * sum(sizes) ** 2 >= MIN_DOCUMENTS * sum(n * n for n in sizes)
    return list(documents) if many else None


def estimate(
    sums: Sequence[float],
    tokens: Sequence[int],
    rule: Rule = DEFAULT_RULE,
    units: Sequence[int] | None = None,
) -> Estimate:
    """Return the mean per token of ``sums`` (a figure summed per window) over ``tokens``, with its interval.

    ``units`` numbers the piece that each window belongs to, in order, and may be longer than ``sums``; None
    makes each window a piece of its own. The interval has confidence ``1 − rule.alpha``: at any and every
    look, or, with ``rule.fixed``, at one. If all pieces are alike it has no width: ``low`` and ``high`` are
    the mean. Raises ValueError when lengths do not fit or nothing was scored.
    """
    if len(sums) != len(tokens) or not sum(tokens) or (units is not None and len(units) < len(sums)):
        raise ValueError("windows need sums, tokens and units of equal, non-empty lengths")
    pieces = _pieces(sums, tokens, units)
    total = sum(tokens)
    mean = math.fsum(sums) / total
    found = Estimate(mean, len(tokens), total, len(pieces))
    worth = _worth(pieces)
    if worth < MIN_UNITS:
        return found
    error = _error(pieces, mean)
    if not error:
        return replace(found, low=mean, high=mean, error=0.0)
    if rule.fixed:
        below, above = _fixed_t(pieces, mean, worth, rule.alpha)
    else:
        below = above = anytime_t(worth, rule.alpha)
    return replace(found, low=mean - below * error, high=mean + above * error, error=error)


def _worth(pieces: Sequence[tuple[float, int]]) -> float:
    """Return the effective number of pieces: how many of equal length would be worth as much as these.

    (Σtokens)² / Σtokens² (Kish, Survey Sampling, 1965). Ten documents, one of which is half of the text, are
    not ten independent figures.
    """
    total = sum(tokens for _, tokens in pieces)
    return total**2 / sum(tokens**2 for _, tokens in pieces)


def _error(pieces: Sequence[tuple[float, int]], mean: float) -> float:
    """Return the jackknife's standard error of a ratio of sums (Efron & Tibshirani, ch. 11).

    For pieces of equal length it is s/√n. Where one piece is much longer, the mean is close to it, and the
    plain error of a ratio, which is computed from the residuals, comes out too small.
    """
    n, total = len(pieces), sum(tokens for _, tokens in pieces)
    left_out = (((sums - mean * tokens) / (total - tokens)) ** 2 for sums, tokens in pieces)
    return math.sqrt((n - 1) / n * math.fsum(left_out))


def _pieces(
    sums: Sequence[float], tokens: Sequence[int], units: Sequence[int] | None
) -> list[tuple[float, int]]:
    """Return (sum, tokens) of each independent piece; pieces without scored tokens are dropped."""
    rows = list(zip(sums, tokens, strict=True))
    if units is not None:
        keyed = zip(units, rows, strict=False)  # units cover the plan, rows perhaps a prefix of it
        groups = ([row for _, row in group] for _, group in groupby(keyed, key=lambda pair: pair[0]))
        rows = [(math.fsum(s for s, _ in group), sum(t for _, t in group)) for group in groups]
    return [row for row in rows if row[1]]


def anytime_t(n: float, alpha: float) -> float:
    """Return how many standard errors a mean of ``n`` may be off, at every n at once, 1 − alpha of the time.

    The bound of the t-test's likelihood ratio mixed over normal effect sizes of variance ``MIXTURE``: with
    ν = n − 1 and w = 1 + n·MIXTURE it is e = w^(−½) · ((1 + t²/ν) / (1 + t²/(νw)))^(n/2) (Gönen et
    al., The American Statistician 59, 2005). Under the null hypothesis that is a martingale of the sequence
    of t, so e ≥ 1/alpha ever happens with probability at most alpha (Ville; Lai 1976; Wang & Ramdas, arXiv
    2310.03722). Infinite where no t, however large, is enough.
    """
    degrees, widening = n - 1, 1 + n * MIXTURE
    factor = (math.sqrt(widening) / alpha) ** (2 / n)
    if factor >= widening:
        return math.inf
    return math.sqrt(degrees * (factor - 1) / (1 - factor / widening))


def _fixed_t(
    pieces: Sequence[tuple[float, int]], mean: float, worth: float, alpha: float
) -> tuple[float, float]:
    """Return standard errors below and above the mean, at one look: Student's t, or bootstrap-t if wider."""
    from scipy.special import stdtrit

    student = float(stdtrit(worth - 1, 1 - alpha / 2))
    if len(pieces) >= BOOTSTRAP_BELOW:
        return student, student
    lower, upper = _bootstrap_t(pieces, mean, alpha)
    # A high bootstrapped t means that the mean is often over-estimated: it widens the lower arm.
    return max(student, upper), max(student, -lower)


def _bootstrap_t(pieces: Sequence[tuple[float, int]], mean: float, alpha: float) -> tuple[float, float]:
    """Return the alpha/2 and 1 − alpha/2 quantiles of t over resampled pieces (Efron & Tibshirani, 12.5)."""
    import numpy as np

    sums, tokens = (np.array(column, dtype=float) for column in zip(*pieces, strict=True))
    generator, shape = np.random.default_rng(0), (_RESAMPLES_AT_ONCE, len(pieces))
    chosen = (generator.integers(len(pieces), size=shape) for _ in range(_RESAMPLES // _RESAMPLES_AT_ONCE))
    t = np.concatenate([_resampled_t(sums[one], tokens[one], mean) for one in chosen])
    low, high = np.quantile(t, [alpha / 2, 1 - alpha / 2], method="closest_observation")
    return float(low), float(high)


def _resampled_t(sums: Any, tokens: Any, mean: float) -> Any:
    """Return t of each resample (a row of sums and of tokens) about the mean that is resampled."""
    import numpy as np

    n = sums.shape[1]
    totals = tokens.sum(1, keepdims=True)
    means = sums.sum(1, keepdims=True) / totals
    left_out = ((sums - means * tokens) / (totals - tokens)) ** 2
    errors = np.sqrt((n - 1) / n * left_out.sum(1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num((means[:, 0] - mean) / errors, nan=0.0, posinf=np.inf, neginf=-np.inf)


def looks(total: int) -> list[int]:
    """Return after how many windows to look whether a verdict is clear.

    Each is at most twice, mostly 1.3 to 1.5 times the one before, and the first at most a quarter of
    ``total`` where that is possible. The grid depends only on the plan's length, not on batch size or speed.
    """
    grid = [min(total, _FIRST_LOOK if total >= 4 * _FIRST_LOOK else MIN_UNITS)]
    while grid[-1] < total:
        step = 1 << max(2, grid[-1].bit_length() - 2)
        grid.append(min(total, grid[-1] + step))
    return grid
