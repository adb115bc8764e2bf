"""What constant-rate SGD settles to: whether it has, how hot it is, and what a quadratic loss predicts.

The temperature of SGD on mean gradients of batches of B with heavy-ball momentum mu is eta0 = eta / ((1 - mu) B). At
small eta0 and with batches drawn independently, the loss stays (eta0 / 4) E||g_b||^2 above a minimum, g_b the gradient
of one example there (Mandt, Hoffman, Blei, 2017, arXiv 1704.04289; Yaida, 2018, arXiv 1810.00004).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from calib_bench.inference import Interval
from calib_bench.inference.interval import no_interval, t_interval

FLAT, DRIFTS, UNDECIDED = "flat", "drifts", "undecided"
WINDOW = 5.0
"""Sokal's (1997) factor: autocorrelations are summed up to this many autocorrelation times."""


def eta0(rate: float, batch: int, momentum: float = 0.0) -> float:
    """The rate as a temperature: rate / ((1 - momentum) batch).

    >>> eta0(0.1, 10, 0.9)
    0.1
    """
    return float(f"{rate / ((1 - momentum) * batch):.12g}")


def rate_at(temperature: float, batch: int, momentum: float = 0.0) -> float:
    """The learning rate that has this eta0; the inverse of `eta0`."""
    return float(f"{temperature * (1 - momentum) * batch:.12g}")


@dataclass(frozen=True)
class Plateau:
    """The mean of series that should have become stationary.

    Attributes:
        mean: over series and times.
        error: its standard error, from the autocorrelation within series or the spread between them, the larger.
        tau: integrated autocorrelation time, in samples; 0.5 where samples are independent.
        drift: mean of the second half less that of the first.
        drift_error: its standard error.
        verdict: FLAT when the drift's 95% limits lie within the margin, else DRIFTS when they leave out 0, else
            UNDECIDED.
    """

    mean: float
    error: float
    tau: float
    drift: float
    drift_error: float
    verdict: str


def plateau(x_ST: ArrayLike, margin: float) -> Plateau:
    """Whether S series of T samples each are stationary, and their mean.

    Args:
        x_ST: samples [S, T], T >= 8, of independent runs.
        margin: the largest drift between halves that does not matter, in units of x, positive.

    Raises:
        ValueError: there are fewer than 8 samples, or the margin is not positive.
    """
    x = np.asarray(x_ST, np.float64)
    S, T = x.shape
    if T < 8 or not margin > 0:
        raise ValueError(f"a plateau needs 8 samples and a positive margin, not {T} and {margin}")
    if not np.isfinite(x).all():
        return Plateau(math.nan, math.nan, math.nan, math.nan, math.nan, DRIFTS)
    tau, variance = autocorrelation_time(x)
    half = T // 2
    first_S, second_S = x[:, :half].mean(1), x[:, -half:].mean(1)
    drift_S = second_S - first_S
    error = math.sqrt(max(2 * tau * variance / (S * T), x.mean(1).var(ddof=1) / S if S > 1 else 0.0))
    within = 2 * 2 * tau * variance / (S * half)
    drift_error = math.sqrt(max(within, drift_S.var(ddof=1) / S if S > 1 else 0.0))
    drift = float(drift_S.mean())
    verdict = UNDECIDED
    if abs(drift) + 1.96 * drift_error <= margin:
        verdict = FLAT
    elif abs(drift) > 1.96 * drift_error:
        verdict = DRIFTS
    return Plateau(float(x.mean()), error, tau, drift, drift_error, verdict)


def autocorrelation_time(x_ST: ArrayLike) -> tuple[float, float]:
    """Integrated autocorrelation time 1/2 + sum_t rho_t, in samples, and the variance, series pooled.

    Each series is taken about its own mean. The sum ends at the first t >= `WINDOW` times itself (Sokal, 1997,
    doi 10.1007/978-1-4899-0319-8_6). The variance of a mean of n samples is 2 tau variance / n.
    """
    x = np.asarray(x_ST, np.float64)
    T = x.shape[1]
    x = x - x.mean(1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(x, 2 * T, axis=1)) ** 2
    covariance_T = np.fft.irfft(spectrum, axis=1)[:, :T].mean(0) / (T - np.arange(T))
    variance = float(covariance_T[0])
    if not variance > 0:
        return 0.5, 0.0
    tau_T = 0.5 + np.cumsum(covariance_T[1:] / variance)
    ends = np.flatnonzero(np.arange(1, T) >= WINDOW * tau_T)
    tau = float(tau_T[ends[0]]) if len(ends) else float(tau_T.max(initial=0.5))
    return max(tau, 0.5), variance


def small_rate_slope(eta0_R: ArrayLike, excess_RS: ArrayLike, level: float = 0.95) -> Interval:
    """The slope of the stationary excess loss over eta0 at 0, its curvature allowed for.

    For each seed excess / eta0 = a + b eta0 by least squares, which gives every rate the same relative weight; the
    interval of a is Student's over seeds. With two rates or fewer, b = 0.

    Args:
        eta0_R: temperatures [R].
        excess_RS: stationary loss less that of the minimum [R, S].
    """
    x_R, y_RS = np.asarray(eta0_R, np.float64), np.asarray(excess_RS, np.float64)
    R, S = y_RS.shape
    design = np.stack([np.ones(R), x_R], 1) if R > 2 else np.ones((R, 1))
    a_S = np.linalg.lstsq(design, y_RS / x_R[:, None], rcond=None)[0][0]
    mean = float(a_S.mean())
    if S < 2:
        return no_interval(mean, S, R, "one seed")
    return t_interval(mean, a_S.var(ddof=1) / S, S - 1, level, S, R, "t over seeds")


def heat_capacity(mean_square: float) -> float:
    """E||g_b||^2 at the minimum -> slope of the stationary excess loss over eta0 at small rates: a quarter of it."""
    return mean_square / 4


def finite_rate(eta0: float, batch: int, momentum: float, curvature: float) -> float:
    """Factor on the small-rate excess loss of a mode of this curvature h, exact for a quadratic with constant noise.

    1 / (1 - eta h / (2 (1 + mu))) with eta = (1 - mu) B eta0: the larger the batch at fixed eta0 the larger eta, until
    eta h = 2 (1 + mu), where there is no stationary state any more (inf).
    """
    rest = 1 - rate_at(eta0, batch, momentum) * curvature / (2 * (1 + momentum))
    return 1 / rest if rest > 0 else math.inf


def breaking_batch(eta0: float, momentum: float, curvature: float, change: float = 0.1) -> float:
    """The batch size at which `finite_rate` is 1 + change at fixed eta0; `change` inf gives that of divergence."""
    share = 1.0 if math.isinf(change) else change / (1 + change)
    return 2 * (1 + momentum) * share / ((1 - momentum) * eta0 * curvature)
