"""Matrix scaling: softmax(W Z + b) with off-diagonal and intercept regularization (ODIR; Kull et al., 2019, arXiv 1910.12656).

The mean log loss plus lam times the mean of the squared off-diagonal weights, plus lam times the mean of the squared
intercepts, lam = 0.01, with the logits divided by their spread, so that lam means the same at every beta. The diagonal
has a Gaussian prior of precision 0.1, in units of total log loss, about temperature scaling: it matters on
separable data alone. Kull et al. choose lam by cross-validation; here it is fixed, so that a fit takes milliseconds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from calib_bench.baseline import Calibrator
from calib_bench.baselines._solvers import Params, blocks, checked, lbfgs, newton, spread
from calib_bench.baselines.temperature_scaling import fit_temperature

ODIR = 0.01
PRECISION = 0.1
NEWTON_CLASSES = 15
"""Up to so many classes the Hessian of all K^2 + K unknowns is formed; beyond, limited-memory BFGS."""


def fit_matrix(Z_NK: Tensor, y_N: Tensor, odir: float = ODIR) -> Params:
    """Fits weight W [K, K] and bias b [K], float64, to logits [N, K] and labels [N].

    Raises:
        UserError: NaN or +inf logits, or labels that do not match.
    """
    Z_NK = checked(Z_NK, y_N)
    (N, K), unit = Z_NK.shape, spread(Z_NK)
    start = torch.zeros(K, K + 1, dtype=torch.float64)
    start.diagonal().fill_(unit / float(fit_temperature(Z_NK, y_N)["temperature"]))
    prior = torch.full_like(start, 2 * odir * N / (K * (K - 1)))
    prior.diagonal().fill_(PRECISION)
    prior[:, K] = 2 * odir * N / K
    start, prior = start.flatten(), prior.flatten()

    def total(theta: Tensor, hessian: bool) -> tuple[Tensor, Tensor, Tensor]:
        pull = prior * (theta - start)
        value = (pull * (theta - start)).sum() / 2
        W = theta.view(K, K + 1)
        gradient = pull.view(K, K + 1)
        H = torch.diag(prior) if hessian else pull
        for z, y in blocks(Z_NK, y_N):
            x = torch.cat([z / unit, torch.ones_like(z[:, :1])], 1)
            logp = torch.log_softmax(x @ W.T, 1)
            value -= logp.gather(1, y[:, None]).sum()
            p = logp.exp()
            if hessian:
                u = (p[:, :, None] * x[:, None, :]).flatten(1)
                H.addmm_(u.T, u, alpha=-1)
                own = (u.T @ x).view(K, K + 1, K + 1)
                torch.einsum("kikj->kij", H.view(K, K + 1, K, K + 1)).add_(own)
            p.scatter_add_(1, y[:, None], -torch.ones_like(p[:, :1]))
            gradient = gradient + p.T @ x
        return value, gradient.flatten(), H

    if K <= NEWTON_CLASSES:
        theta = newton(lambda v: total(v, True), start)
    else:
        theta = lbfgs(lambda v: total(v, False)[:2], start, scale=1 / N)
    W = theta.view(K, K + 1)
    return {"weight": W[:, :K] / unit, "bias": W[:, K].clone()}


def apply_matrix(params: Params, Z_NK: Tensor) -> Tensor:
    """log softmax(W Z + b), float64 [N, K]."""
    return torch.log_softmax(checked(Z_NK).double() @ params["weight"].T + params["bias"], 1)


BASELINE = Calibrator(fit_matrix, apply_matrix, keeps_argmax=False, reference="kull2019", title="Matrix scaling")
