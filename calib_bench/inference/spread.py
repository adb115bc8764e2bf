"""How much results vary from seed to seed, and how often training diverges."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from calib_bench.inference.interval import Interval, clopper_pearson, no_interval

KURTOSIS = 3.0
"""Excess kurtosis that intervals of spreads allow for: that of the double exponential. A handful of seeds cannot show
their own, and limits for normal values, at 0, cover .77 (exponential values) to .87 (t with 5 degrees) at S = 10.
"""


def _df(S: int, lost: int) -> float:
    """Degrees of freedom, S - lost for normal values, of a variance of S values with excess kurtosis KURTOSIS."""
    return (S - lost) / (1 + KURTOSIS / 2 * (S - 1) / S)


def spread(values_S: ArrayLike, level: float = 0.95) -> Interval:
    """Standard deviation across seeds of a result, say the accuracy on this test set at one beta.

    The limits are s sqrt(df / chi2_df) with df = (S - 1) / (1 + kappa (S - 1) / (2 S)), at which s^2 has the variance
    that excess kurtosis kappa = KURTOSIS gives it (Box, 1953): wide, because few seeds tell little of a spread.

    Returns:
        The interval; `mean` is s, and `p` is NaN, no spread being positive by chance.
    """
    values = np.asarray(values_S, np.float64).reshape(-1)
    S = len(values)
    s = float(values.std(ddof=1)) if S > 1 else math.nan
    why = _unfit(values, 2)
    if why:
        return no_interval(s, S, 1, why)
    from scipy.special import chdtri

    df = _df(S, 1)
    # chdtri takes the upper tail.
    low, high = (s * math.sqrt(df / float(chdtri(df, tail))) for tail in ((1 - level) / 2, (1 + level) / 2))
    return Interval(s, low, high, S, 1, df, math.nan, "chi-square over seeds, allowing for heavy tails")


def spread_ratio(values_S: ArrayLike, others_S: ArrayLike, level: float = 0.95) -> Interval:
    """Ratio of two standard deviations across the same seeds, values over others.

    Sums and differences of the scaled results are uncorrelated at the true ratio (Pitman, 1939; Morgan, 1939): with F
    the ratio of variances and r the correlation, the limits of the variance ratio are F (K +- sqrt(K^2 - 1)),
    K = 1 + 2 (1 - r^2) t^2 / df, df lowered for heavy tails as in `spread`.

    Returns:
        The interval; `p` is that of a ratio of 1.

    Raises:
        ValueError: the two have different numbers of seeds.
    """
    x, y = (np.asarray(v, np.float64).reshape(-1) for v in (values_S, others_S))
    if len(x) != len(y):
        raise ValueError(f"spreads are compared over the same seeds, not {len(x)} and {len(y)}")
    S = len(x)
    why = _unfit(x, 3) or _unfit(y, 3)
    if why:
        return no_interval(math.nan, S, 1, why)
    from scipy.special import stdtr, stdtrit

    ratio = float(x.std(ddof=1) / y.std(ddof=1))
    ratio = 1.0 if math.isclose(ratio, 1) else ratio  # another last digit is no other spread
    r = float(np.corrcoef(x, y)[0, 1])
    df = _df(S, 2)
    rest = max(1 - r * r, 0.0)
    K = 1 + 2 * rest * float(stdtrit(df, (1 + level) / 2)) ** 2 / df
    factor = math.sqrt(K + math.sqrt(K * K - 1))
    t = abs(ratio - 1 / ratio) / 2 * math.sqrt(df / rest) if rest else math.inf
    p = float(2 * stdtr(df, -t)) if ratio != 1 else 1.0
    return Interval(
        ratio, ratio / factor, ratio * factor, S, 1, df, p, "Pitman-Morgan over seeds, allowing for heavy tails"
    )


def _unfit(values: np.ndarray, least: int) -> str:
    """Why values have no interval for their spread; empty when they do."""
    if len(values) < least:
        return f"{len(values)} seeds, where {least} are needed"
    if not np.isfinite(values).all():
        return f"{int((~np.isfinite(values)).sum())} values are not finite"
    return "" if np.ptp(values) > 1e-12 * np.abs(values).max() else "all values are the same"


def rate(events: int, trials: int, level: float = 0.95) -> Interval:
    """Share of trials with some event, say divergence, with exact limits (Clopper & Pearson, 1934).

    They never cover less than nominally, at the price of width: Wilson's dip below at rates near 0 and 1.

    Raises:
        ValueError: not 0 <= events <= trials with trials >= 1.
    """
    if not 0 <= events <= trials or trials < 1:
        raise ValueError(f"a rate needs 0 <= events <= trials and trials >= 1, not {events} of {trials}")
    low, high = clopper_pearson(events, trials - events, level)
    return Interval(events / trials, low, high, trials, 1, math.nan, math.nan, "Clopper-Pearson over trials")
