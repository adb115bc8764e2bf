"""What a temperature fitted on a few examples adds to the uncertainty of a mean score taken after it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from calib_bench.inference.arrays import Array
from calib_bench.metrics.conformal import neighbours


class Fitted(NamedTuple):
    """The part of a mean over S seeds that M calibration examples, which are not among those averaged over, decide.

    Attributes:
        influence_SM: first-order influence of each calibration example on each seed's value, mean 0 along M; None
            where every seed has calibration examples of its own, which the spread of seeds holds already.
        variance: of the second-order part of the mean over seeds.
        bias: expectation of the second-order part: how much too high the mean is expected to be.
        df: degrees of freedom of the influences' variance, where they are fewer than M - 1.
    """

    influence_SM: Array | None
    variance: float
    bias: float
    df: float = math.inf

    def negative(self) -> Fitted:
        """That of minus the mean."""
        influence = None if self.influence_SM is None else -self.influence_SM
        return self._replace(influence_SM=influence, bias=-self.bias)


def at_threshold(influence_SM: Array) -> Fitted:
    """What a threshold of conformal sets adds to a mean over them, by the influence of each calibration example.

    Few scores near the threshold tell how far it moves: with as many degrees of freedom as examples, limits of the size
    of one model's sets cover .86 to .93 in place of .95 for 100 to 500 examples, with these .94 to .99.
    """
    return Fitted(influence_SM, 0.0, 0.0, max(neighbours(influence_SM.shape[1]), 1.0))


def fitted(
    log_T_ASM: ArrayLike,
    slope_AS: ArrayLike,
    curvature_AS: ArrayLike,
    weights_A: Sequence[float] = (1.0,),
    shared: bool = True,
) -> Fitted:
    """What fitted temperatures add to the mean over seeds of a sum of arms' scores, by its expansion in log T.

    With Delta_s the error of seed s's log T, the value of seed s is off by slope Delta_s + curvature Delta_s^2 / 2, and
    Delta_s and Delta_t have covariance C_st = sum_m I_sm I_tm / (M (M - 1)), I the influence of example m. The first
    part is a mean of influences. Where the score is the one that T minimizes, its slope at the best T is 0 and the
    second part rules: its mean is curvature C_ss / 2 and its covariances, of a normal Delta, curvature^2 C_st^2 / 2.

    Args:
        log_T_ASM: log T of A arms plus the influence of each calibration example on it, whose row mean is log T; the
            arms of one seed have the same calibration examples (else see `apart`).
        slope_AS, curvature_AS: first and second derivative of each mean score in log T.
        weights_A: of the arms in the sum; (1, -1) is the first less the second.
        shared: whether all seeds have the same calibration examples.
    """
    log_T = np.asarray(log_T_ASM, np.float64)
    A, S, M = log_T.shape
    weights_A1 = np.asarray(weights_A, np.float64).reshape(A, 1)
    slopes, curvatures = (weights_A1 * np.asarray(v, np.float64) for v in (slope_AS, curvature_AS))
    influence_ASM = log_T - log_T.mean(-1, keepdims=True)
    first_SM = (slopes[..., None] * influence_ASM).sum(0)
    rows_FM, curvature_F = influence_ASM.reshape(A * S, M), curvatures.reshape(-1)
    if not shared:
        bias = curvature_F @ np.square(rows_FM).sum(1) / (M * (M - 1)) / (2 * S)
        return Fitted(None, 0.0, float(bias))
    covariance_FF = rows_FM @ rows_FM.T / (M * (M - 1))
    bias = curvature_F @ np.diag(covariance_FF) / (2 * S)
    variance = curvature_F @ np.square(covariance_FF) @ curvature_F / (2 * S**2)
    return Fitted(first_SM, max(float(variance), 0.0), float(bias))


def jackknifed(without_SF: ArrayLike) -> Fitted:
    """What calibration examples add to a mean over seeds after maps of any kind, by leaving out a fold at a time.

    The variance is (F - 1) / F sum_f (m_f - m)^2, m_f the mean after maps that were fitted without fold f (the grouped
    jackknife; Quenouille, 1956; Shao & Tu, 1995, section 2.3), with F - 1 degrees of freedom. Of a score that maps
    minimize the first-order part vanishes, and it is too large: two to three times at 300 examples and 5 folds, for a
    temperature, vector and matrix scaling and isotonic regression. What a map costs because it rests on so few examples
    is part of the mean, and no bias.

    Args:
        without_SF: each seed's mean score, or a sum of several arms', without each of F folds, the same in all seeds.
    """
    without = np.asarray(without_SF, np.float64)
    F = without.shape[1]
    return Fitted((1 - F) * (without - without.mean(1, keepdims=True)), 0.0, 0.0)


def refitted(
    log_T_SM: ArrayLike,
    slope_S: ArrayLike,
    curvature_S: ArrayLike,
    shared: bool = True,
    draws: int = 1000,
    seed: int = 0,
) -> Array:
    """What temperatures fitted on other calibration examples would add to an arm's mean over seeds: [B].

    With Delta_s the error of seed s's log T, normal with the covariance of `fitted`, the true mean is that of the data
    less slope Delta_s + curvature Delta_s^2 / 2: draws of it have the variance of the first part and are lower by the
    bias. Calls with as many calibration examples and the same `seed` draw the same ones, so that arms go together.

    Args:
        log_T_SM: log T plus the influence of each of M calibration examples on it, see `fitted`.
        slope_S, curvature_S: derivatives of each seed's mean score in log T.
        shared: whether all seeds have the same calibration examples; else the spread of seeds holds all but the bias.
        draws: B.
    """
    log_T, slope, curvature = (np.asarray(v, np.float64) for v in (log_T_SM, slope_S, curvature_S))
    M = log_T.shape[1]
    influence_SM = log_T - log_T.mean(1, keepdims=True)
    if not shared:
        return np.full(draws, -fitted(log_T[None], slope[None], curvature[None], shared=False).bias)
    generator = np.random.default_rng((seed, M))
    out_B = np.empty(draws)
    for part in np.array_split(np.arange(draws), max(1, draws * M // PART)):
        delta_BS = generator.standard_normal((len(part), M)) @ influence_SM.T / np.sqrt(M * (M - 1))
        out_B[part] = (delta_BS * slope - curvature * np.square(delta_BS) / 2).mean(1)
    return out_B


PART = 1 << 21
"""Random numbers held at a time."""


def apart(first_SM: ArrayLike, second_SM: ArrayLike) -> Array:
    """[2, S, M1 + M2] for `fitted`, of two arms whose calibration examples are not the same ones.

    Each arm has no influence from the other's examples; what it has is scaled so that its mean stays what it is.
    """
    one, two = (np.asarray(v, np.float64) for v in (first_SM, second_SM))
    S, M, L = len(one), one.shape[1], two.shape[1]
    out = np.zeros((2, S, M + L))
    for arm, values, columns in ((0, one, slice(0, M)), (1, two, slice(M, M + L))):
        centre = values.mean(1, keepdims=True)
        out[arm] = centre
        out[arm, :, columns] += (values - centre) * (M + L) / values.shape[1]
    return out
