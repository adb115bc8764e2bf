"""Ensemble temperature scaling: w1 softmax(Z / T) + w2 softmax(Z) + w3 / K (Zhang et al., 2020, arXiv 2003.07329).

The weights are non-negative and sum to one. As in the paper's implementation T is fitted first, alone, and then the
weights at that T; both by log loss, each a convex problem, so that on its calibration data it is never worse than
temperature scaling.
"""

from __future__ import annotations

import torch
from torch import Tensor

from calib_bench import masks
from calib_bench.baseline import Calibrator
from calib_bench.baselines._solvers import Params, checked
from calib_bench.baselines._stacks import checked_stack
from calib_bench.baselines.temperature_scaling import fit_temperature, fit_temperatures


def fit_ensemble(Z_NK: Tensor, y_N: Tensor) -> Params:
    """Fits temperature [] and weight [3] (scaled, raw, uniform), float64, to logits [N, K] and labels [N].

    Raises:
        UserError: NaN or +inf logits, or labels that do not match.
    """
    Z_NK = checked(Z_NK, y_N)
    temperature = fit_temperature(Z_NK, y_N)["temperature"]
    return {"temperature": temperature, "weight": simplex_weights(_own(Z_NK, y_N, temperature))}


def fit_ensembles(Z_SNK: Tensor, y_SN: Tensor) -> Params:
    """`fit_ensemble` of S sets: temperature [S] and weight [S, 3].

    Raises:
        UserError: as `fit_ensemble`.
    """
    Z_SNK = checked_stack(Z_SNK, y_SN)
    temperature_S = fit_temperatures(Z_SNK, y_SN)["temperature"]
    weights = [simplex_weights(_own(*each)) for each in zip(Z_SNK, y_SN, temperature_S, strict=True)]
    return {"temperature": temperature_S, "weight": torch.stack(weights)}


def _own(Z_NK: Tensor, y_N: Tensor, temperature: Tensor) -> Tensor:
    """Log probability of each example's label under the three parts, float64 [N, 3]."""
    Z_NK = Z_NK.double()
    Z_NK = Z_NK - Z_NK.amax(1, keepdim=True)
    z_N = Z_NK.gather(1, y_N[:, None])[:, 0]
    uniform_N = _uniform(Z_NK)[:, 0]
    scaled_N = z_N / temperature - (Z_NK / temperature).exp_().sum(1).log()
    return torch.stack([scaled_N, z_N - Z_NK.exp_().sum(1).log(), uniform_N], 1)


def _uniform(Z_NK: Tensor) -> Tensor:
    """Log probability of each class under the uniform over those that a row offers, float64 [N, 1]."""
    return (-torch.inf < Z_NK).sum(1, keepdim=True).double().log_().neg_()


def simplex_weights(logp_NJ: Tensor) -> Tensor:
    """The weights [J] >= 0, of sum one, that minimize -mean log sum_j w_j p_nj (convex), found by SLSQP.

    The best single part is where it starts, and what it returns if that is best.
    """
    from scipy.optimize import minimize

    r_NJ = (logp_NJ - logp_NJ.amax(1, keepdim=True)).exp_()

    def loss(w: object) -> tuple[float, object]:
        mix_N = (r_NJ @ torch.as_tensor(w)).clamp_(min=1e-300)
        return -float(mix_N.log().mean()), -(r_NJ.T @ mix_N.reciprocal() / len(r_NJ)).numpy()

    J = r_NJ.shape[1]
    single = torch.eye(J, dtype=torch.float64)[int(logp_NJ.mean(0).argmax())]
    sums_to_one = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: [1.0] * J}
    start = (0.9 * single + 0.1 / J).numpy()
    found = minimize(
        loss, start, jac=True, method="SLSQP", bounds=[(0, 1)] * J, constraints=sums_to_one, options={"ftol": 1e-14}
    )
    w = torch.as_tensor(found.x).clamp(min=0)
    w = w / w.sum()
    return w if loss(w)[0] < loss(single)[0] else single


def apply_ensemble(params: Params, Z_NK: Tensor) -> Tensor:
    """Log of the mixture, float64 [N, K]."""
    Z_NK = checked(Z_NK).double()
    log_w = params["weight"].log()
    scaled_NK = torch.log_softmax(Z_NK / params["temperature"], 1) + log_w[0]
    logp_NK = torch.logaddexp(scaled_NK, torch.log_softmax(Z_NK, 1) + log_w[1])
    logp_NK = torch.log_softmax(masks.without(torch.logaddexp(logp_NK, log_w[2] + _uniform(Z_NK)), Z_NK), 1)
    # Every part keeps the order of the classes; rounding of the sum must not undo that.
    return logp_NK.scatter_(1, Z_NK.argmax(1, keepdim=True), logp_NK.amax(1, keepdim=True))


BASELINE = Calibrator(
    fit_ensemble,
    apply_ensemble,
    keeps_argmax=True,
    reference="zhang2020",
    title="Ensemble temperature scaling",
    fit_stack=fit_ensembles,
)
