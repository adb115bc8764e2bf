"""Intervals for means over seeds and examples, families of them, and what they let one say."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike

from calib_bench.inference.arrays import Array, SeedRows
from calib_bench.inference.fitted import Fitted


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence limits.

    Attributes:
        mean: the estimate, a mean over seeds (and examples) unless its maker says otherwise.
        low, high: confidence limits; NaN when there is no interval, infinite when the data bound nothing.
        n_seeds, n_examples: seeds, and examples per seed (their mean number, rounded, when seeds differ).
        df: degrees of freedom of the t distribution (of several sources, Satterthwaite's); NaN for the bootstrap.
        p: two-sided p-value of the estimated quantity being 0 (of a ratio of spreads being 1); NaN when there is none.
        method: how the limits were found, for people.
        doubt: why the limits may cover less than they say, SKEWED or FEW_ERRORS; empty where nothing tells so.
    """

    mean: float
    low: float
    high: float
    n_seeds: int
    n_examples: int
    df: float
    p: float
    method: str
    doubt: str = ""


SKEWED, FEW_ERRORS = "heavy tails", "few errors"
"""Reasons for `Interval.doubt`: see `skewed` and `few_errors`."""
FEWEST = 30
"""Wrong examples below which limits of calibration errors and of areas under risk are in doubt."""


def no_interval(mean: float, n: int, N: int, why: str) -> Interval:
    """An estimate without limits, and why."""
    return Interval(mean, math.nan, math.nan, n, N, math.nan, math.nan, f"none: {why}")


ROUNDING = 1e-12
"""A standard error that is smaller than this share of the mean is rounding, and says nothing about spread."""


def crossed_interval(
    d_SN: SeedRows,
    level: float = 0.95,
    nested: bool = False,
    scale: str = "identity",
    fit: Fitted | None = None,
) -> Interval:
    """Interval for the mean of paired per-example differences d [S, N], seeds and examples crossed.

    With row means r, column means c and residuals e of d: v_s = var(r) / S, v_e = var(c) / N, v_r = var(e) / (S N).
    The half width is the root of t_{S-1}^2 v_s + t_{N-1}^2 max(v_e - v_r, 0), and at least t_{N-1} sqrt(v_e): each
    source with the quantile of its own degrees of freedom, which covers at least its level from two seeds on (one t
    quantile with Satterthwaite's degrees covers .92 at three seeds). `p` is the level at which the limit meets 0. One
    seed leaves the examples alone; one example, the seeds alone.

    Args:
        d_SN: differences [S, N]; with `nested` also S rows of unequal lengths.
        nested: each seed has test examples of its own, so that seeds are the only independent units.
        scale: "share" for an accuracy: exact limits (Clopper & Pearson, 1934) with the effective number of examples,
            that which would give the half width above (Korn & Graubard, 1998); with no error at all, of N right
            answers. "log" for a positive quantity: limits symmetric on that scale. Both stay in their range, and p is
            that of the difference scale, "identity".
        fit: what a temperature fitted on calibration examples adds: their influence is a third source, crossed with the
            seeds, and a bias extends the limit that it threatens.

    Returns:
        The interval. A difference that is not finite gives NaN limits and a method that says so.
    """
    if scale not in SCALES:
        raise ValueError(f"a scale is one of {', '.join(SCALES)}, not {scale!r}")
    rows = _rows(d_SN)
    interval = _on_scale(_crossed(rows, level, nested, fit), scale, level)
    if scale == "share" or math.isnan(interval.low) or not (doubt := skewed(rows, nested)):
        return interval
    return replace(interval, doubt=doubt)


def skewed(d_SN: SeedRows, nested: bool = False) -> str:
    """SKEWED where there are fewer than 25 G^2 examples, G the skewness of their values: else empty.

    It is Cochran's rule (1977, Sampling Techniques, section 2.15) for when limits by the normal distribution err no
    more than .06 in place of .05. Skewness 2.8 asks for 200 examples; of right and wrong answers it asks for 25 of the
    rarer. The values are means over seeds, or with `nested` every seed's own.
    """
    rows = _rows(d_SN)
    if max(map(len, rows)) == 1:
        return ""
    values = np.concatenate(rows) if nested else np.mean(rows, axis=0)
    centred = values - values.mean()
    variance = float(np.square(centred).mean())
    if len(values) < 3 or not variance > (ROUNDING * values.mean()) ** 2:
        return ""
    skewness = float((centred / math.sqrt(variance)) ** 3 @ np.ones(len(values))) / len(values)
    return SKEWED if len(values) < 25 * skewness**2 else ""


def few_errors(correct_SN: SeedRows, nested: bool = False) -> str:
    """FEW_ERRORS where an arm's wrong examples, in the mean over seeds (with `nested` in all), are under FEWEST."""
    wrong = [len(row) - float(row.sum()) for row in _rows(correct_SN)]
    return FEW_ERRORS if sum(wrong) / (1 if nested else len(wrong)) < FEWEST else ""


SCALES = ("identity", "log", "share")


def _on_scale(interval: Interval, scale: str, level: float) -> Interval:
    m, N = interval.mean, interval.n_examples
    if scale == "share" and m in (0.0, 1.0) and N > 1:
        return exact_interval(interval, level)
    if math.isnan(interval.low) or interval.high == interval.low:
        return interval
    if scale == "log" and m > 0:
        below, above = (m - interval.low) / m, (interval.high - m) / m
        return replace(interval, low=m / math.exp(min(below, 700.0)), high=m * math.exp(min(above, 700.0)))
    if scale == "share" and 0 < m < 1:
        low, high = _effective(m, (interval.high - interval.low) / 2, N, level)
        return replace(interval, low=low, high=high)
    return interval


def exact_interval(interval: Interval, level: float = 0.95) -> Interval:
    """Clopper and Pearson's limits of a share of 0 or 1."""
    N = interval.n_examples
    edge = ((1 - level) / 2) ** (1 / N)
    low, high = (edge, 1.0) if interval.mean == 1.0 else (0.0, 1 - edge)
    return replace(interval, low=low, high=high, method=f"exact over {N} examples, all the same")


def _effective(m: float, half: float, N: int, level: float) -> tuple[float, float]:
    """Clopper and Pearson's limits of a share m among as many examples as would give it this half width."""
    from scipy.special import ndtri, stdtrit

    tail = (1 - level) / 2
    quantile = float(stdtrit(N - 1, 1 - tail) if N > 1 else ndtri(1 - tail))
    n = m * (1 - m) * (quantile / half) ** 2
    return clopper_pearson(n * m, n * (1 - m), level)


def clopper_pearson(right: float, wrong: float, level: float) -> tuple[float, float]:
    """Exact limits of a share (1934), given how many examples have it and how many not; numbers need not be whole."""
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = float(betaincinv(right, wrong + 1, tail)) if right else 0.0
    high = float(betaincinv(right + 1, wrong, 1 - tail)) if wrong else 1.0
    return low, high


def _crossed(rows: Array | list[Array], level: float, nested: bool, fit: Fitted | None = None) -> Interval:
    n, N = _sizes(rows, nested)
    r_S = _row_means(rows)
    mean = float(r_S.mean())
    bad = 0 if np.isfinite(r_S).all() else _not_finite(rows)
    if bad:
        return no_interval(mean, n, N, f"{bad} values are not finite")
    if n == 1 and N == 1:
        return no_interval(mean, n, N, "one seed and one example")
    if n > 1 and (nested or N == 1):
        sampling, method = Sampling.of([(float(r_S.var(ddof=1)) / n, n - 1)]), "t over seeds"
    else:
        d_SN = np.asarray(rows)
        sampling = pool(variances(d_SN, d_SN), n, N, fit)
        method = "t over examples, one seed" if n == 1 else "t, seeds and examples crossed"
    if fit is not None:
        sampling, method = sampling._replace(bias=fit.bias), f"{method}{FIT}"
    return around(mean, sampling, level, n, N, method)


def _row_means(rows: Array | list[Array]) -> Array:
    return rows.mean(1) if isinstance(rows, np.ndarray) else np.array([row.mean() for row in rows])


def _not_finite(rows: Array | list[Array]) -> int:
    """How many values are not finite."""
    return sum(int((~np.isfinite(row)).sum()) for row in rows)


def _sizes(rows: Array | list[Array], nested: bool) -> tuple[int, int]:
    """Numbers of seeds, and of examples to a seed: their mean, rounded."""
    lengths = [len(row) for row in rows]
    if not lengths or not all(lengths):
        raise ValueError("an interval needs at least one seed and one example")
    if not nested and len(set(lengths)) > 1:
        raise ValueError("crossed seeds need the same examples: rows differ in length; use nested=True")
    return len(lengths), round(sum(lengths) / len(lengths))


FIT = ", calibration examples counted"
"""What the method of an interval says where the examples that a temperature was fitted on are a source of variance."""


def _rows(d_SN: SeedRows) -> Array | list[Array]:
    """Differences as one array where they are one already, else row by row."""
    if getattr(d_SN, "ndim", 0) == 2:
        return np.asarray(d_SN, np.float64)
    return [np.asarray(row, np.float64).reshape(-1) for row in cast("Sequence[ArrayLike]", d_SN)]


def variances(a_SN: Array, b_SN: Array) -> Array:
    """(v_s, v_e, v_r) of `crossed_interval` for the covariance of two means [3]; with a = b, their variances."""
    n, N = a_SN.shape
    a = a_SN - a_SN.mean()
    b = a if b_SN is a_SN else b_SN - b_SN.mean()
    seeds = float(a.mean(1) @ b.mean(1))
    examples = float(a.mean(0) @ b.mean(0))
    residual = float(np.vdot(a, b)) - N * seeds - n * examples
    # One row or one column leaves nothing to estimate that source from.
    parts = (seeds / n, n - 1), (examples / N, N - 1), (residual / (n * N), (n - 1) * (N - 1))
    return np.array([value / df if df else 0.0 for value, df in parts])


Source = tuple[float, float]
"""A variance of a mean, and the degrees of freedom that it was estimated with."""


class Sampling(NamedTuple):
    """How a mean varies: sums of independent sources; of several alternative sums the one that is widest counts.

    Attributes:
        sums: each a tuple of sources with positive variance.
        bias: how much too high the mean is expected to be.
    """

    sums: tuple[tuple[Source, ...], ...]
    bias: float = 0.0

    @classmethod
    def of(cls, *sums: Sequence[Source]) -> Sampling:
        """Without the sources that have no variance."""
        return cls(tuple(tuple((v, df) for v, df in sources if v > 0 and df > 0) for sources in sums))

    @property
    def variance(self) -> float:
        """That of the mean."""
        return max(math.fsum(v for v, _ in sources) for sources in self.sums)

    @property
    def df(self) -> float:
        """Satterthwaite's (1946) degrees of freedom of the variance; NaN of none."""
        sources = max(self.sums, key=lambda one: math.fsum(v for v, _ in one))
        total = self.variance
        return 1 / math.fsum((v / total) ** 2 / df for v, df in sources) if total > 0 else math.nan

    def half(self, tail: float) -> float:
        """The half width of an interval that leaves out `tail` on either side: the root of sum t_df^2 v."""
        return self._halves()(tail)

    def _halves(self) -> Callable[[float], float]:
        """`half` as a function, for many calls."""
        from scipy.special import stdtrit

        roots = [[(df, math.sqrt(v)) for v, df in one] for one in self.sums]
        return lambda tail: max(math.hypot(*[float(stdtrit(df, tail)) * root for df, root in one]) for one in roots)

    def limits(self, mean: float, level: float) -> tuple[float, float]:
        """mean +- the half width, and further by the bias on the side where the truth then is."""
        half = self.half((1 - level) / 2)
        return mean - half - max(self.bias, 0.0), mean + half - min(self.bias, 0.0)

    def p(self, mean: float) -> float:
        """Of the truth being 0: one less the level at which a limit meets 0."""
        toward = max(self.bias, 0.0) if mean > 0 else max(-self.bias, 0.0)
        return self._p(max(abs(mean) - toward, 0.0))

    def _p(self, distance: float) -> float:
        from scipy.optimize import brentq
        from scipy.special import stdtr

        if all(len(sources) < 2 for sources in self.sums):
            return float(max(2 * stdtr(df, -distance / math.sqrt(v)) for one in self.sums for v, df in one))
        half = self._halves()
        if distance == 0 or half(LEAST_TAIL) <= distance:
            return 2 * LEAST_TAIL if distance else 1.0
        log_tail = brentq(
            lambda u: half(math.exp(u)) - distance, math.log(LEAST_TAIL), math.log(0.5), xtol=1e-13, rtol=1e-13
        )
        return min(1.0, 2 * math.exp(float(log_tail)))


LEAST_TAIL = 1e-100
"""No p-value of several sources is solved for below twice this; quantiles further out are not finite."""


def pool(v: Array, n: int, N: int, fit: Fitted | None = None, m: int = 1) -> Sampling:
    """How a mean varies whose (v_s, v_e, v_r) are `v` [3], over n seeds and N examples.

    Args:
        fit: calibration examples as a third source; what their influence varies by between seeds is in v_s already.
        m: what the degrees of freedom of the variance between seeds are divided by.
    """
    v_s, v_e, v_r = (float(part) for part in v)
    crossed: list[Source] = [(v_s, (n - 1) / m), (v_e - v_r, N - 1)]
    shared: list[Source] = [(v_e, N - 1)]
    bias = 0.0
    if fit is not None:
        bias = fit.bias
        if fit.influence_SM is not None:
            _, of_examples, of_both = (float(part) for part in variances(fit.influence_SM, fit.influence_SM))
            df = min(fit.influence_SM.shape[1] - 1, fit.df)
            crossed.append((max(of_examples - of_both, 0.0) + fit.variance, df))
            shared.append((of_examples + fit.variance, df))
    return Sampling.of(crossed, shared)._replace(bias=bias)


def around(mean: float, sampling: Sampling, level: float, n: int, N: int, method: str) -> Interval:
    """A mean with its limits and the p-value of its being 0."""
    v, df = sampling.variance, float(sampling.df)
    if v == 0 and mean == 0:
        return Interval(mean, mean, mean, n, N, df, 1.0, method)
    if math.sqrt(max(v, 0.0)) <= abs(ROUNDING * mean):  # squares of what is large overflow
        return no_interval(mean, n, N, "all values are the same")
    low, high = sampling.limits(mean, level)
    return Interval(mean, low, high, n, N, df, sampling.p(mean), method)


def t_interval(mean: float, v: float, df: float, level: float, n: int, N: int, method: str) -> Interval:
    """mean +- t sqrt(v)."""
    return around(mean, Sampling.of([(float(v), float(df))]), level, n, N, method)


def simultaneous(differences: Sequence[SeedRows], level: float = 0.95, nested: bool = False) -> list[Interval]:
    """Intervals of several arms' differences [S, N] that hold all at once, so also for the arm that looks best.

    Each is a `crossed_interval` at level 1 - (1 - level) / A, and its p-value is A times as large (Bonferroni): valid
    whatever the arms' correlation, hence after any choice among them on the same data.
    """
    share = 1 - (1 - level) / max(len(differences), 1)
    intervals = [crossed_interval(d, share, nested) for d in differences]
    method = f"simultaneous over {len(intervals)}"
    return [
        replace(i, p=float(np.minimum(1.0, len(intervals) * i.p)), method=f"{i.method}, {method}") for i in intervals
    ]


def holm(p: ArrayLike, from_best: bool = False) -> Array:
    """Holm's (1979) step-down adjusted p-values of a family, in the given order.

    A NaN stays NaN and still counts as a member, which can only make the others larger.

    Args:
        p: p-values.
        from_best: they are of differences from the one that the same data show as the best. Each then counts for all
            pairs among those not yet told apart, as in a model confidence set (Hansen, Lunde & Nason, 2011): of 16 that
            are alike some are called worse in 5% of draws, in 20% where the choice of the best is forgotten.

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    left = len(values) - np.arange(len(values))
    factors = left * (left + 1) / 2 if from_best else left
    adjusted = np.minimum(1.0, np.maximum.accumulate(values[order] * factors))
    out = np.empty_like(values)
    out[order] = adjusted
    return out


EQUAL, DIFFERS, UNDECIDED = "equal within margin", "differs", "undecided"


def equivalence(interval: Interval, margin: float) -> str:
    """What an interval says of a difference, given the largest one that does not matter.

    EQUAL when the interval lies strictly inside (-margin, margin): two one-sided tests, each at half the interval's
    error (Schuirmann, 1987), so that a small difference is "equal" even when it is surely not 0. Else DIFFERS when it
    leaves 0 out, else UNDECIDED, as without an interval.

    Raises:
        ValueError: the margin is not positive.
    """
    if not margin > 0:
        raise ValueError(f"a margin is a positive number, not {margin}")
    if -margin < interval.low and interval.high < margin:
        return EQUAL
    return DIFFERS if interval.low > 0 or interval.high < 0 else UNDECIDED
