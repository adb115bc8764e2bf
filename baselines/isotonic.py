"""Isotonic regression of [y = k] on class k's probability, one class against the rest (Zadrozny & Elkan, 2002).

Each class's fit is linear between the ends of its steps, on the scale of log odds; rows are normalized. The result is
mixed with a share 1 / (N + 1) of the uniform, as if one more example had been seen, of every label at once: without it
a probability of zero gives an infinite log loss. `isotonic_multiclass` fits one function for all classes instead.

When: the curve of reliability has no simple shape, with hundreds of examples a class. Cost: a sort of N a class.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calib_bench.baselines._one_vs_rest import scores, scores_stack
from calib_bench.baselines._solvers import uniform_share
from calib_bench.baselines._stacks import small
from calib_bench.baselines._tallies import Tally, fit_tallies, mixed, tallied, unpacked
from calib_bench.core.baseline import Calibrator, Params
from calib_bench.metrics import masks

TOGETHER = 1 << 20
"""Logits at most of the sets that are fitted together."""


def steps(tally: Tally) -> dict[str, NDArray]:
    """score and value: the ends of the steps of the non-decreasing least-squares fit."""
    from scipy.optimize import isotonic_regression

    value = isotonic_regression(tally.hits / tally.number, weights=tally.number).x
    step = value[1:] != value[:-1]
    keep = np.append(True, step) | np.append(step, True)
    return {"score": tally.score[keep], "value": value[keep]}


def fit_isotonic(Z_NK: Tensor, y_N: Tensor) -> Params:
    """Fits a non-decreasing function per class, or for class 1 alone if K = 2, to logits [N, K] and labels [N].

    Returns:
        score and value, float64 [M], the ends of the steps of all fits in turn; first, int64 [C + 1], where each
        fit's begin; uniform [], the uniform's share.

    Raises:
        UserError: NaN or +inf logits, or labels that do not match.
    """
    return {**fit_tallies(steps, Z_NK, y_N), "uniform": uniform_share(y_N)}


def fit_isotonics(Z_SNK: Tensor, y_SN: Tensor) -> list[Params]:
    """`fit_isotonic` of each of S sets: all their fits as one, each far above those before it.

    Raises:
        UserError: as `fit_isotonic`.
    """
    from scipy.optimize import isotonic_regression

    S, N, K = Z_SNK.shape
    if not small(Z_SNK) or Z_SNK.numel() > TOGETHER or masks.any_masked(Z_SNK):
        return [fit_isotonic(*one) for one in zip(Z_SNK, y_SN, strict=True)]
    C = 1 if K == 2 else K
    x_RN = scores_stack(Z_SNK, y_SN)
    hit_RN = y_SN[:, None] == torch.arange(K - C, K)[:, None]
    tally, first = tallied(x_RN, hit_RN.reshape(S * C, N))
    row = np.repeat(np.arange(S * C), np.diff(first))
    blocks = isotonic_regression(tally.hits / tally.number + 2.0 * row, weights=tally.number).blocks
    hits, number = np.add.reduceat(tally.hits, blocks[:-1]), np.add.reduceat(tally.number, blocks[:-1])
    value = np.repeat(hits / number, np.diff(blocks))
    step = (value[1:] != value[:-1]) | (row[1:] != row[:-1])
    keep = np.append(True, step) | np.append(step, True)
    ends = np.append(0, keep.cumsum())[first].reshape(-1)
    score, value = tally.score[keep], value[keep]
    fits = []
    for s in range(S):
        first = ends[s * C : (s + 1) * C + 1]
        here = slice(first[0], first[-1])
        arrays = {"score": score[here].copy(), "value": value[here].copy(), "first": first - first[0]}
        params = {name: torch.from_numpy(array) for name, array in arrays.items()}
        fits.append({**params, "uniform": uniform_share(y_SN[s])})
    return fits


def apply_isotonic(params: Params, Z_NK: Tensor) -> Tensor:
    """Log of the normalized, mixed probabilities, float64 [N, K]; beyond the fitted scores, the value at the end."""
    x_CN = scores(Z_NK)
    q_CN = torch.empty_like(x_CN)
    for c, (score, value) in enumerate(unpacked(params, "score", "value")):
        q_CN[c] = torch.from_numpy(np.interp(x_CN[c].numpy(force=True), score, value))
    return mixed(q_CN, params, Z_NK)


BASELINE = Calibrator(
    fit_isotonic,
    apply_isotonic,
    keeps_argmax=False,
    reference="zadrozny2002",
    title="Isotonic regression",
    fit_stack=fit_isotonics,
)
