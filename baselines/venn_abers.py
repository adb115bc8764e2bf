"""Inductive Venn-Abers predictors, merged to one probability (Vovk & Petej, 2014, arXiv 1211.0025).

For a new score s, isotonic regression of the calibration set with (s, 0) added gives p0 at s, with (s, 1) added p1; one
of the two is calibrated whatever the scores' distribution. p1 / (1 - p0 + p1) loses the least log loss against either.
One class against the rest, rows normalized; for K = 2 the one map of class 1. The added example keeps p0 < 1 and p1 >
0, so that the result lies strictly between 0 and 1. (Manokhin, 2017, goes from two classes to many through all pairs
instead: K (K - 1) / 2 fits, each to the examples of its two classes.)

p0 and p1 are kept at every distinct score (Vovk, Petej & Fedorova, 2015, arXiv 1511.00213, precompute them likewise), 3
N K numbers in all, hence a limit of 2^24 on N K.

When: two classes, and validity counts more than sharpness. Cost: it keeps 3 N K numbers, so that N K is limited.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calib_bench.baselines._one_vs_rest import scores
from calib_bench.baselines._tallies import Tally, fit_tallies, normalized, unpacked
from calib_bench.core.baseline import Calibrator, Params
from calib_bench.errors import UserError

LIMIT = 1 << 24


def fit_venn_abers(Z_NK: Tensor, y_N: Tensor) -> Params:
    """Precomputes p0 and p1 per class, or for class 1 alone if K = 2, from logits [N, K] and labels [N].

    Returns:
        score, float64 [M], the distinct scores of all fits in turn, the last of each twice; p1 of a new score above all
        before it and at most this one (or above all); p0 of one at least all before it and below this one (or at least
        all); first, int64 [C + 1], where each fit's begin.

    Raises:
        UserError: NaN or +inf logits, labels that do not match, or more than 2^24 logits.
    """
    if Z_NK.numel() > LIMIT:
        N, K = Z_NK.shape
        raise UserError(
            f"venn_abers keeps every calibration score: {N} examples of {K} classes are more than its limit of {LIMIT}"
            f" logits. Give it at most {LIMIT // K} examples, or choose isotonic, which keeps steps only."
        )
    return fit_tallies(_extremes, Z_NK, y_N)


def _extremes(tally: Tally) -> dict[str, NDArray]:
    return {
        "score": np.append(tally.score, tally.score[-1]),
        "p0": 1 - _with_one_added(tally.number[::-1], (tally.number - tally.hits)[::-1])[::-1],
        "p1": _with_one_added(tally.number, tally.hits),
    }


def _with_one_added(count_M: NDArray, hits_M: NDArray) -> NDArray:
    """p1 [M + 1]: isotonic regression's value at an added example of label 1, just before each score and after all.

    With P_i the sums of (counts, hits) before score i, and Q_i = P_i - (1, 1), p1[j] is the slope at Q_j of the lower
    hull of Q_0..Q_j, P_j..P_M. As j moves right the edge over Q_j keeps its start, until a Q_j below it becomes the new
    start; the corners to the right are those of the first hull. Integers, so exact; each point enters and leaves once.
    """
    from scipy.optimize import isotonic_regression

    M = len(count_M)
    W, S = np.append(0, count_M.cumsum()), np.append(0, hits_M.cumsum())
    weights = count_M + np.append(1, np.zeros(M - 1, int))
    ends = isotonic_regression((hits_M + (weights - count_M)) / weights, weights=weights).blocks[:0:-1]
    corners = list(zip(W[ends].tolist(), S[ends].tolist(), strict=True))
    w0, s0 = -1, -1
    w1, s1 = corners.pop()
    slope = (s1 + 1) / (w1 + 1)
    value = [slope]
    for w, s in zip((W[1:] - 1).tolist(), (S[1:] - 1).tolist(), strict=True):
        if (s - s0) * (w1 - w0) < (s1 - s0) * (w - w0):
            w0, s0 = w, s
            while corners and (corners[-1][1] - s0) * (w1 - w0) <= (s1 - s0) * (corners[-1][0] - w0):
                w1, s1 = corners.pop()
            slope = (s1 - s0) / (w1 - w0)
        value.append(slope)
    return np.array(value)


def bounds(params: Params, Z_NK: Tensor) -> tuple[Tensor, Tensor]:
    """p0 and p1, float64 [C, N] each, of logits [N, K]: their gap says how much the calibration set leaves open."""
    x_CN = scores(Z_NK)
    p0_CN, p1_CN = torch.empty_like(x_CN), torch.empty_like(x_CN)
    for c, (score, p0, p1) in enumerate(unpacked(params, "score", "p0", "p1")):
        x = x_CN[c].numpy(force=True)
        p0_CN[c] = torch.from_numpy(p0[np.searchsorted(score[:-1], x, side="right")])
        p1_CN[c] = torch.from_numpy(p1[np.searchsorted(score[:-1], x, side="left")])
    return p0_CN, p1_CN


def apply_venn_abers(params: Params, Z_NK: Tensor) -> Tensor:
    """Log of the normalized merged probabilities, float64 [N, K]."""
    p0_CN, p1_CN = bounds(params, Z_NK)
    return normalized(p1_CN / (1 - p0_CN + p1_CN), Z_NK)


BASELINE = Calibrator(
    fit_venn_abers, apply_venn_abers, keeps_argmax=False, reference="vovk2014", title="Venn-Abers predictor"
)
