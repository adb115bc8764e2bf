"""Histogram binning: class k's probability becomes the share of k among like examples (Zadrozny & Elkan, 2001).

One class against the rest, 15 bins of equal count (fewer where scores are equal), rows normalized; for K = 2 the one
map of class 1. The result is mixed with a share 1 / (N + 1) of the uniform, as if one more example had been seen, of
every label at once: without it a probability of zero gives an infinite log loss.

When: a plain baseline is wanted; it loses the order of examples within a bin. Cost: 15 numbers a class, a sort.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from calib_bench.baselines._one_vs_rest import scores
from calib_bench.baselines._solvers import uniform_share
from calib_bench.baselines._tallies import Tally, fit_tallies, mixed, stepped
from calib_bench.core.baseline import Calibrator, Params

BINS = 15


def fit_histogram(Z_NK: Tensor, y_N: Tensor, bins: int = BINS) -> Params:
    """Fits the bins of every class, or of class 1 alone if K = 2, to logits [N, K] and labels [N].

    Returns:
        edge and value, float64 [M], the upper ends (as log odds, inclusive) and values of the bins of all fits in turn;
        first, int64 [C + 1], where each fit's begin; uniform [], the uniform's share.

    Raises:
        UserError: NaN or +inf logits, or labels that do not match.
    """
    return {**fit_tallies(partial(_bins, bins=bins), Z_NK, y_N), "uniform": uniform_share(y_N)}


def _bins(tally: Tally, bins: int) -> dict[str, NDArray]:
    """edge and value of one class's bins: each ends with the score of its last rank, and all that equal it."""
    seen, hits = tally.number.cumsum(), tally.hits.cumsum()
    rank = -(np.arange(1, bins + 1) * -seen[-1] // bins)
    last = np.unique(np.searchsorted(seen, rank))
    return {"edge": tally.score[last], "value": np.diff(hits[last], prepend=0) / np.diff(seen[last], prepend=0)}


def apply_histogram(params: Params, Z_NK: Tensor) -> Tensor:
    """Log of the normalized, mixed probabilities, float64 [N, K]."""
    return mixed(stepped(params, scores(Z_NK)), params, Z_NK)


BASELINE = Calibrator(
    fit_histogram, apply_histogram, keeps_argmax=False, reference="zadrozny2001", title="Histogram binning"
)
