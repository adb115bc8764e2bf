"""How calibration examples move a fitted temperature, and how a temperature moves test scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from calib_bench.metrics.masks import offered, zeroed


def log_kappa_n(Z_NK: Tensor, y_N: Tensor, kappa: float) -> Tensor:
    """log kappa plus the first-order influence of each calibration example on it: [N], whose mean is log kappa.

    kappa minimizes the mean log loss of softmax(Z / kappa), so that with s = 1 / kappa the mean of
    a_n = E_p[Z_n] - Z_n,y is zero, and an example moves log kappa by a_n / (s mean Var_p[Z]): one Newton step. An
    example whose label is not offered is no part of the fit and has no influence.
    """
    Z_NK = offered(Z_NK)
    in_fit_N = ~Z_NK.gather(-1, y_N[:, None])[:, 0].isneginf()
    p_NK = (Z_NK / kappa).softmax(-1)
    Z_NK = zeroed(Z_NK)  # a class that is not offered has no part in it
    mean_N = (p_NK * Z_NK).sum(-1)
    a_N = (mean_N - Z_NK.gather(-1, y_N[:, None])[:, 0]) * in_fit_N
    variance = (((p_NK * Z_NK.square()).sum(-1) - mean_N.square()) * in_fit_N).mean()
    influence_N = (a_N - a_N.mean()) * kappa / variance
    return math.log(kappa) + torch.where(influence_N.isfinite(), influence_N, 0.0)


def temperature_slopes(logp_NK: Tensor, y_N: Tensor) -> dict[str, tuple[float, float]]:
    """First and second derivative in log T of mean log loss and Brier score of softmax(Z / T), at log p [N, K].

    With l = log p less its mean under p and v the variance, d p / d log T = -p l and d l / d log T = -l + v.
    """
    log_NK = logp_NK.double().clamp(min=-800.0)  # exp(-800) is zero, and 0 * -inf is not
    p_NK = log_NK.exp()
    l_NK = log_NK - (p_NK * log_NK).sum(-1, keepdim=True)
    v_N = (p_NK * l_NK.square()).sum(-1, keepdim=True)
    moved_NK = -p_NK * l_NK
    again_NK = p_NK * (l_NK.square() + l_NK - v_N)
    slope_N = l_NK.gather(-1, y_N[:, None])[:, 0]
    p_NK.scatter_add_(-1, y_N[:, None], torch.full((len(y_N), 1), -1.0, dtype=torch.float64))
    brier_N = 2 * (p_NK * moved_NK).sum(-1)
    curved_N = 2 * (moved_NK.square() + p_NK * again_NK).sum(-1)
    log_loss = float(slope_N.mean()), float((v_N[:, 0] - slope_N).mean())
    return {"log_loss": log_loss, "brier": (float(brier_N.mean()), float(curved_N.mean()))}
