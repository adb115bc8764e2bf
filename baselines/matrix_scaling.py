"""Matrix scaling: softmax(W Z + b) with off-diagonal and intercept regularization (ODIR, Kull et al., 2019).

Maximum likelihood with Gaussian priors, in units of total log loss and of logits divided by their spread, so that they
mean the same at every beta: precision 100 on the off-diagonal weights, 1 on the intercepts, and 0.1 on the diagonal
about temperature scaling, which matters on separable data alone. Kull et al. (arXiv 1910.12656) choose the first two by
cross-validation; here they are fixed, so that a fit takes milliseconds and its pull vanishes as N grows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from calib_bench.baseline import Calibrator
from calib_bench.baselines._solvers import Params, blocks, checked, lbfgs, newton, spread
from calib_bench.baselines.temperature_scaling import fit_temperature

OFF_DIAGONAL = 100.0
INTERCEPT = 1.0
DIAGONAL = 0.1
ENTRIES = 1 << 21
"""Entries of a block of rows: products with W pay for many rows at once."""
NEWTON_CLASSES = 15
"""Up to so many classes the Hessian of all K^2 + K unknowns is formed; beyond, limited-memory BFGS."""


def fit_matrix(
    Z_NK: Tensor,
    y_N: Tensor,
    off_diagonal: float = OFF_DIAGONAL,
    intercept: float = INTERCEPT,
    diagonal: float = DIAGONAL,
) -> Params:
    """Fits weight W [K, K] and bias b [K], float64, to logits [N, K] and labels [N]; the rest are precisions.

    Raises:
        UserError: NaN or +inf logits, or labels that do not match.
    """
    Z_NK = checked(Z_NK, y_N)
    K, unit = Z_NK.shape[1], spread(Z_NK)
    start = torch.zeros(K, K + 1, dtype=torch.float64)
    start.diagonal().fill_(unit / float(fit_temperature(Z_NK, y_N)["temperature"]))
    prior = torch.full_like(start, off_diagonal)
    prior.diagonal().fill_(diagonal)
    prior[:, K] = intercept
    start, prior = start.flatten(), prior.flatten()

    def total(theta: Tensor, hessian: bool) -> tuple[Tensor, Tensor, Tensor]:
        pull = prior * (theta - start)
        value = (pull * (theta - start)).sum() / 2
        W = theta.view(K, K + 1)
        H = torch.diag(prior) if hessian else prior
        gradient = pull.view(K, K + 1)
        for z, y in blocks(Z_NK, y_N, ENTRIES):
            x = with_one(z / unit)
            logp = torch.log_softmax(x @ W.T, 1)
            value -= logp.gather(1, y[:, None]).sum()
            p = logp.exp()
            if hessian:
                u = (p[:, :, None] * x[:, None, :]).flatten(1)
                H.addmm_(u.T, u, alpha=-1)
                own = (u.T @ x).view(K, K + 1, K + 1)
                torch.einsum("kikj->kij", H.view(K, K + 1, K, K + 1)).add_(own)
            p.scatter_add_(1, y[:, None], -torch.ones_like(p[:, :1]))
            gradient.addmm_(p.T, x)
        return value, gradient.flatten(), H

    if K <= NEWTON_CLASSES:
        theta = newton(lambda v: total(v, True), start)
    else:
        curvature = prior.view(K, K + 1).clone()
        for z, _ in blocks(Z_NK, y_N, ENTRIES):
            x = with_one(z / unit)
            p = torch.softmax(x @ start.view(K, K + 1).T, 1)
            curvature.addmm_((p * (1 - p)).T, x.square())
        theta = lbfgs(lambda v: total(v, False)[:2], start, curvature.flatten(), tolerance=1e-3)
    W = theta.view(K, K + 1)
    return {"weight": W[:, :K] / unit, "bias": W[:, K].clone()}


def with_one(x_NK: Tensor) -> Tensor:
    """The rows with a last column of ones, [N, K + 1]."""
    return torch.cat([x_NK, torch.ones_like(x_NK[:, :1])], 1)


def apply_matrix(params: Params, Z_NK: Tensor) -> Tensor:
    """log softmax(W Z + b), float64 [N, K]."""
    return torch.log_softmax(checked(Z_NK).double() @ params["weight"].T + params["bias"], 1)


BASELINE = Calibrator(fit_matrix, apply_matrix, keeps_argmax=False, reference="kull2019", title="Matrix scaling")
