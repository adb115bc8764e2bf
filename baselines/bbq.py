"""Bayesian binning into quantiles: histogram binnings of every size, averaged by their evidence (Naeini et al., 2015).

One class against the rest, rows normalized; for K = 2 the one map of class 1. The binnings have B bins of equal count,
B from N^(1/3) / 10 to 10 N^(1/3), equally likely at first. Bin b's rate has a Beta(2 p_b / B, 2 (1 - p_b) / B) prior,
p_b the middle of the bin as probability; a binning is weighted by its marginal likelihood and predicts posterior means,
which are never 0. Equal scores share a bin. Binnings of less than 1e-8 of the best one's weight are left out.

When: histogram binning, and the number of bins is not to be chosen by hand. Cost: about 10 N^(1/3) binnings a class.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from calib_bench.baselines._one_vs_rest import scores
from calib_bench.baselines._tallies import Tally, fit_tallies, normalized, stepped
from calib_bench.core.baseline import Calibrator, Params

RANGE = 10.0
PRIOR = 2.0
LEAST = 1e-8


def fit_bbq(Z_NK: Tensor, y_N: Tensor) -> Params:
    """Fits a step function per class, or for class 1 alone if K = 2, to logits [N, K] and labels [N].

    Returns:
        edge and value, float64 [M], the upper ends (as log odds, inclusive) and values of the steps of all fits in
        turn; first, int64 [C + 1], where each fit's begin.

    Raises:
        UserError: NaN or +inf logits, or labels that do not match.
    """
    return fit_tallies(partial(_average, sizes=bin_counts(len(y_N))), Z_NK, y_N)


def bin_counts(N: int) -> NDArray:
    """The sizes of the binnings: from N^(1/3) / 10 to 10 N^(1/3), within 1 and N."""
    low, high = max(1, int(N ** (1 / 3) / RANGE)), min(N, int(np.ceil(RANGE * N ** (1 / 3))))
    return np.arange(low, high + 1)


def _average(tally: Tally, sizes: NDArray) -> dict[str, NDArray]:
    """edge and value of the average of all binnings of one class."""
    from scipy.special import expit, gammaln

    seen, hits = np.append(0, tally.number.cumsum()), np.append(0, tally.hits.cumsum())
    model = np.repeat(np.arange(len(sizes)), sizes)
    start = sizes.cumsum() - sizes
    within = np.arange(len(model)) - start[model]
    B = sizes[model]
    # A bin ends with the score of its last rank, and all that equal it.
    last = np.searchsorted(seen[1:], -((within + 1) * -seen[-1] // B))
    before = np.where(within == 0, -1, np.append(-1, last[:-1]))
    n, m = seen[last + 1] - seen[before + 1], hits[last + 1] - hits[before + 1]
    edge = expit(tally.score[last])
    high, low = np.where(within == B - 1, 1.0, edge), np.where(within == 0, 0.0, np.append(0.0, edge[:-1]))
    middle = np.clip((low + high) / 2, 1e-12, 1 - 1e-12)
    a, b = PRIOR * middle / B, PRIOR * (1 - middle) / B
    terms = gammaln(a + b) - gammaln(n + a + b) + gammaln(m + a) - gammaln(a) + gammaln(n - m + b) - gammaln(b)
    evidence = np.add.reduceat(terms, start)
    weight = np.exp(evidence - evidence.max())
    kept = np.flatnonzero(weight >= LEAST)
    weight /= weight[kept].sum()
    mean = (m + a) / (n + a + b)
    value = np.zeros(len(tally.score))
    for k in kept:
        bins = slice(start[k], start[k] + sizes[k])
        value += weight[k] * np.repeat(mean[bins], last[bins] - before[bins])
    ends = np.append(value[1:] != value[:-1], True)
    return {"edge": tally.score[ends], "value": value[ends]}


def apply_bbq(params: Params, Z_NK: Tensor) -> Tensor:
    """Log of the normalized probabilities, float64 [N, K]."""
    return normalized(stepped(params, scores(Z_NK)), Z_NK)


BASELINE = Calibrator(
    fit_bbq, apply_bbq, keeps_argmax=False, reference="naeini2015", title="Bayesian binning into quantiles"
)
