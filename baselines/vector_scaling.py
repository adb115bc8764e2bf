"""Vector scaling: softmax(w * Z + b), one factor and one intercept per class (Guo et al., 2017, arXiv 1706.04599).

Maximum likelihood with a Gaussian prior of precision 0.1, in units of total log loss, on the departure of w times the
logits' spread, and of b, from temperature scaling (w = 1/T, b = 0): its pull vanishes as N grows, and it keeps the fit
finite where a class has no examples or the data are separable.
"""

from __future__ import annotations

import torch
from torch import Tensor

from calib_bench.baseline import Calibrator
from calib_bench.baselines._solvers import Params, blocks, checked, lbfgs, newton, spread
from calib_bench.baselines.temperature_scaling import fit_temperature

PRECISION = 0.1
NEWTON_CLASSES = 150
"""Up to so many classes the (2K)^2 Hessian is formed; beyond, limited-memory BFGS."""


def fit_vector(Z_NK: Tensor, y_N: Tensor, precision: float = PRECISION) -> Params:
    """Fits weight w and bias b, float64 [K] each, to logits [N, K] and labels [N].

    Raises:
        UserError: NaN or +inf logits, or labels that do not match.
    """
    Z_NK = checked(Z_NK, y_N)
    K, unit = Z_NK.shape[1], spread(Z_NK)
    start = torch.zeros(2 * K, dtype=torch.float64)
    start[:K] = unit / fit_temperature(Z_NK, y_N)["temperature"]

    def total(theta: Tensor, hessian: bool) -> tuple[Tensor, Tensor, Tensor]:
        value = precision / 2 * (theta - start).square().sum()
        gradient = precision * (theta - start)
        H = torch.zeros(2 * K, 2 * K if hessian else 0, dtype=torch.float64)
        for z, y in blocks(Z_NK, y_N):
            z = z / unit
            logp = torch.log_softmax(theta[:K] * z + theta[K:], 1)
            value -= logp.gather(1, y[:, None]).sum()
            p = logp.exp()
            if hessian:
                u = torch.cat([p * z, p], 1)
                H.addmm_(u.T, u, alpha=-1)
                H.diagonal().add_(torch.cat([(u[:, :K] * z).sum(0), p.sum(0)]))
                cross = u[:, :K].sum(0)
                H.diagonal(K).add_(cross)
                H.diagonal(-K).add_(cross)
            p.scatter_add_(1, y[:, None], -torch.ones_like(p[:, :1]))
            gradient = gradient + torch.cat([(p * z).sum(0), p.sum(0)])
        if hessian:
            H.diagonal().add_(precision)
        return value, gradient, H

    if K <= NEWTON_CLASSES:
        theta = newton(lambda v: total(v, True), start)
    else:
        curvature = torch.full_like(start, precision)
        for z, _ in blocks(Z_NK, y_N):
            z = z / unit
            p = torch.softmax(start[:K] * z, 1)
            w = p * (1 - p)
            curvature += torch.cat([(w * z.square()).sum(0), w.sum(0)])
        theta = lbfgs(lambda v: total(v, False)[:2], start, curvature, tolerance=1e-3)
    return {"weight": theta[:K] / unit, "bias": theta[K:].clone()}


def apply_vector(params: Params, Z_NK: Tensor) -> Tensor:
    """log softmax(w * Z + b), float64 [N, K]."""
    return torch.log_softmax(params["weight"] * checked(Z_NK).double() + params["bias"], 1)


BASELINE = Calibrator(fit_vector, apply_vector, keeps_argmax=False, reference="guo2017", title="Vector scaling")
