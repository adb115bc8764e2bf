"""Isotonic regression of [y = k] on class k's probability, one class against the rest (Zadrozny & Elkan, 2002).

Each class's fit is linear between the ends of its steps, on the scale of log odds; rows are normalized. The result is
mixed with a share 1 / (N + 1) of the uniform, as if one more example had been seen, of every label at once: without it
a probability of zero gives an infinite log loss.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from calib_bench.baseline import Calibrator
from calib_bench.baselines._solvers import Params, checked, log_odds, mix_uniform


def fit_isotonic(Z_NK: Tensor, y_N: Tensor) -> Params:
    """Fits a non-decreasing function per class to logits [N, K] and labels [N].

    Returns:
        score and value, float64 [M], the ends of the steps of all classes in turn; first, int64 [K + 1], where each
        class's begin; uniform [], the uniform's share.

    Raises:
        UserError: NaN or +inf logits, or labels that do not match.
    """
    from scipy.optimize import isotonic_regression

    x_NK = log_odds(checked(Z_NK, y_N)).numpy(force=True)
    y = y_N.numpy(force=True)
    scores, values, first = [], [], [0]
    for k in range(x_NK.shape[1]):
        x, inverse, count = np.unique(x_NK[:, k], return_inverse=True, return_counts=True)
        hits = np.bincount(inverse[y == k], minlength=len(x))
        value = isotonic_regression(hits / count, weights=count).x
        step = value[1:] != value[:-1]
        keep = np.append(True, step) | np.append(step, True)
        scores.append(x[keep])
        values.append(value[keep])
        first.append(first[-1] + int(keep.sum()))
    return {
        "score": torch.from_numpy(np.concatenate(scores)),
        "value": torch.from_numpy(np.concatenate(values)),
        "first": torch.tensor(first),
        "uniform": torch.tensor(1 / (len(y) + 1), dtype=torch.float64),
    }


def apply_isotonic(params: Params, Z_NK: Tensor) -> Tensor:
    """Log of the normalized, mixed probabilities, float64 [N, K]; beyond the fitted scores, the value at the end."""
    x_NK = log_odds(checked(Z_NK)).numpy(force=True)
    score, value, first = (params[name].numpy(force=True) for name in ("score", "value", "first"))
    q_NK = np.empty_like(x_NK)
    for k, part in enumerate(map(slice, first[:-1], first[1:])):
        q_NK[:, k] = np.interp(x_NK[:, k], score[part], value[part])
    return mix_uniform(torch.from_numpy(q_NK), params["uniform"])


BASELINE = Calibrator(
    fit_isotonic, apply_isotonic, keeps_argmax=False, reference="zadrozny2002", title="Isotonic regression"
)
