"""The stationary density of SGD in one dimension with constant gradient noise: a Gibbs distribution.

Small steps theta <- theta - eta (L'(theta) + xi), Var xi = s2, are a diffusion whose stationary density is proportional
to exp(-2 L / (eta s2)) (Mandt, Hoffman, Blei, 2017, arXiv 1704.04289). It is exact as eta -> 0 at fixed eta s2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from calib_bench.inference.arrays import Array


class Fit(NamedTuple):
    """A histogram beside a density.

    Attributes:
        edges: of the bins [B + 1], of equal probability under the density.
        shares: of the samples in each bin [B]; 1 / B each if the density is right.
        distance: total variation distance between shares and 1 / B.
        noise: what that distance would be on average with as many independent samples of the density.
    """

    edges: Array
    shares: Array
    distance: float
    noise: float


def gibbs(loss: Callable[[Array], Array], rate: float, noise: float, x_G: ArrayLike) -> Array:
    """Density exp(-2 L / (rate noise)) on an even grid x [G], normalized over it by the trapezoid rule.

    Args:
        loss: L, vectorized.
        rate: the learning rate times what averaging over a batch leaves of the variance: eta0.
        noise: s2, the variance of one example's gradient.
        x_G: the grid, which must hold all of the mass.
    """
    x = np.asarray(x_G, np.float64)
    exponent = -2 * loss(x) / (rate * noise)
    density = np.exp(exponent - exponent.max())
    return density / np.trapezoid(density, x)


def compare(samples: ArrayLike, x_G: ArrayLike, density_G: ArrayLike, bins: int = 20, independent: float = 1.0) -> Fit:
    """Samples against a density on a grid, in bins of equal probability under it.

    Args:
        samples: any shape.
        x_G: the grid [G], even.
        density_G: the density there [G].
        bins: their number.
        independent: the share of the samples that counts as independent, for `Fit.noise`.
    """
    x, density = np.asarray(x_G, np.float64), np.asarray(density_G, np.float64)
    cumulative = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(x))])
    inner = np.interp(np.arange(1, bins) / bins, cumulative / cumulative[-1], x)
    values = np.asarray(samples, np.float64).ravel()
    shares = np.bincount(np.searchsorted(inner, values), minlength=bins) / len(values)
    distance = float(np.abs(shares - 1 / bins).sum() / 2)
    noise = float(np.sqrt(bins * (1 - 1 / bins) / (2 * np.pi * independent * len(values))))
    return Fit(np.concatenate([x[:1], inner, x[-1:]]), shares, distance, noise)
