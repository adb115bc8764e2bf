"""Platt scaling: p_k proportional to sigmoid(a_k x_k + b_k), fitted one class against the rest (Platt, 1999).

The score x_k is the log odds of class k, z_k - logsumexp of the other logits. For K = 2 this is the classical
sigmoid(a (z1 - z0) + b), whose sum over the classes is one; for K > 2 the rows are normalized (Zadrozny & Elkan, 2002).

With Platt's targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2) in place of 1 and 0, which keep the fit finite on separable
data. A prior of precision 1e-6, in units of total log loss, on a times the scores' standard deviation decides a where
the scores are constant.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from calib_bench.baseline import Calibrator
from calib_bench.baselines._solvers import Params, checked, log_odds

RIDGE = 1e-6


def fit_platt(Z_NK: Tensor, y_N: Tensor, steps: int = 50) -> Params:
    """Fits slope and intercept, float64 [K] each, to logits [N, K] and labels [N].

    Raises:
        UserError: NaN or +inf logits, or labels that do not match.
    """
    x_NK = log_odds(checked(Z_NK, y_N))
    centre_K, unit_K = x_NK.mean(0), x_NK.std(0, correction=0)
    unit_K = torch.where(unit_K > 1e-12 * (1 + centre_K.abs()), unit_K, 1.0)  # else constant but for rounding
    x_NK = (x_NK - centre_K) / unit_K
    count_K = torch.bincount(y_N, minlength=x_NK.shape[1]).double()
    t_NK = (1 / (len(y_N) - count_K + 2)).repeat(len(y_N), 1)
    t_NK[torch.arange(len(y_N)), y_N] = ((count_K + 1) / (count_K + 2))[y_N]

    def loss(a_K: Tensor, b_K: Tensor) -> Tensor:
        f_NK = a_K * x_NK + b_K
        return (softplus(f_NK) - t_NK * f_NK).sum(0) + RIDGE / 2 * a_K.square()

    a_K, b_K = torch.zeros_like(unit_K), t_NK.mean(0).logit()
    value_K = loss(a_K, b_K)
    for _ in range(steps):  # Newton on K problems of two unknowns at once, each with its own step halving
        p_NK = torch.sigmoid(a_K * x_NK + b_K)
        r_NK, w_NK = p_NK - t_NK, p_NK * (1 - p_NK)
        g_a, g_b = (r_NK * x_NK).sum(0) + RIDGE * a_K, r_NK.sum(0)
        wx_NK = w_NK * x_NK
        h_aa, h_ab, h_bb = (wx_NK * x_NK).sum(0) + RIDGE, wx_NK.sum(0), w_NK.sum(0) + 1e-12
        determinant = (h_aa * h_bb - h_ab.square()).clamp(min=1e-300)
        step_a, step_b = (h_bb * g_a - h_ab * g_b) / determinant, (h_aa * g_b - h_ab * g_a) / determinant
        decrement = g_a * step_a + g_b * step_b
        if decrement.max() <= 1e-12:
            break
        rate_K = torch.ones_like(a_K)
        for _ in range(30):
            new = loss(a_K - rate_K * step_a, b_K - rate_K * step_b)
            worse = ~(new <= value_K - 0.25 * rate_K * decrement)
            if not worse.any():
                break
            rate_K = torch.where(worse, rate_K / 2, rate_K)
        rate_K = torch.where(worse, 0.0, rate_K)
        a_K, b_K = a_K - rate_K * step_a, b_K - rate_K * step_b
        value_K = loss(a_K, b_K)
        if (worse | (decrement <= 1e-12)).all():
            break
    return {"slope": a_K / unit_K, "intercept": b_K - a_K / unit_K * centre_K}


def apply_platt(params: Params, Z_NK: Tensor) -> Tensor:
    """Log of the normalized one-vs-rest probabilities, float64 [N, K]."""
    return torch.log_softmax(logsigmoid(params["slope"] * log_odds(checked(Z_NK)) + params["intercept"]), 1)


BASELINE = Calibrator(fit_platt, apply_platt, keeps_argmax=False, reference="platt1999", title="Platt scaling")
