"""Spline calibration: p_k proportional to sigmoid(f_k(x_k)), f_k a smoothing spline (Lucena, 2018, arXiv 1809.07751).

x_k is the log odds of class k. One class against the rest, rows normalized; for K = 2 the one map of class 1. f is the
natural cubic spline that minimizes total log loss plus lambda / 2 times the integral of f''^2: Platt scaling as lambda
grows, plus what departure the data support. Lucena's spline is a function of the probability and its lambda found by
cross-validation; here it is one of the log odds, so that it is linear in them beyond the data, and lambda maximizes the
Laplace approximation of the marginal likelihood, by the updates of Wood & Fasiolo (2017, arXiv 1606.04802): no folds,
hence no dependence on the order of examples.

10 knots at quantiles of the scores (evenly spaced where quantiles coincide). The labels are mixed with a share
1 / (N + 1) of the uniform, as if one more example had been seen, of every label at once (`_one_vs_rest.targets`).

When: the curve of reliability is smooth and of unknown shape, with hundreds of examples. Cost: ten numbers a class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from calib_bench.baselines._one_vs_rest import (
    RIDGE,
    Regressions,
    class_blocks,
    joined_logits,
    logistic,
    scores,
    standardized,
)
from calib_bench.baselines._solvers import finite
from calib_bench.core.baseline import Params

KNOTS = 10
UPDATES = 20
"""At most so many updates of lambda; fewer once it changes by less than a twentieth or the bends all but vanish."""
FAR = 1e3
"""Standardized scores so far above the last knot are mapped by the line that the spline ends in."""
SMOOTHNESS = (1e-3, 1e9)
"""Bounds of lambda, for scores of standard deviation one."""


def fit_classes(x_CN: Tensor, t_CN: Tensor, sets: int = 1) -> Params:
    """Fits C splines to scores and targets [C, N], of the classes of one set after another's.

    The lambdas of a set are settled together.

    Returns:
        centre and unit [C], of the scores; knot [C, knots], in standardized scores; curvature [C, knots - 2], f'' at
        the inner knots; slope and intercept [C]; smoothness [C], lambda. All float64.
    """
    u_CN, centre_C, unit_C = standardized(x_CN)
    knot_Cm = knots(u_CN)
    root_Crr = torch.linalg.cholesky(gram(knot_Cm))
    bends_CrN = torch.linalg.solve_triangular(root_Crr, hats(knot_Cm, u_CN), upper=False)
    X_CPN = torch.cat([torch.ones_like(u_CN)[:, None], u_CN[:, None], bends_CrN], 1)
    C, P, _ = X_CPN.shape
    theta_CP = torch.zeros(C, P, dtype=torch.float64)
    theta_CP[:, 0] = t_CN.mean(1).logit()
    smoothness_C = torch.ones(C, dtype=torch.float64)
    penalty_CP = torch.tensor([0.0, RIDGE, *[1.0] * (P - 2)], dtype=torch.float64).repeat(C, 1)
    theta_CP[:, :2] = logistic(X_CPN[:, :2].contiguous(), t_CN, penalty_CP[:, :2], theta_CP[:, :2]).theta
    open_C = torch.ones(C, dtype=torch.bool)
    for _ in range(UPDATES):
        fitted = logistic(X_CPN, t_CN, penalty_CP, theta_CP, steps=1)
        theta_CP = torch.where(open_C[:, None], fitted.theta, theta_CP)
        new_C, spent_C = smoother(fitted.hessian, theta_CP, smoothness_C)
        settled_C = ((new_C / smoothness_C).log().abs() < 0.05) | (spent_C < 0.05)
        smoothness_C = torch.where(open_C, new_C, smoothness_C)
        penalty_CP[:, 2:] = smoothness_C[:, None]
        open_C = open_C & ~settled_C.view(sets, -1).all(1).repeat_interleave(C // sets)
        if not open_C.any():
            break
    theta_CP = logistic(X_CPN, t_CN, penalty_CP, theta_CP).theta
    curvature_Cr = torch.linalg.solve_triangular(root_Crr.mT, theta_CP[:, 2:, None], upper=True)[:, :, 0]
    return {
        "centre": centre_C,
        "unit": unit_C,
        "knot": knot_Cm,
        "curvature": curvature_Cr,
        "slope": theta_CP[:, 1].clone(),
        "intercept": theta_CP[:, 0].clone(),
        "smoothness": smoothness_C,
    }


def smoother(H_CPP: Tensor, theta_CP: Tensor, smoothness_C: Tensor) -> tuple[Tensor, Tensor]:
    """Wood & Fasiolo's next lambda [C], (r - lambda tr (H^-1)_bb) / |theta_b|^2 for the r bends b, within bounds.

    The numerator [C], the degrees of freedom that the bends spend, comes with it.
    """
    bends = theta_CP[:, 2:]
    trace_C = torch.linalg.inv(H_CPP).diagonal(dim1=1, dim2=2)[:, 2:].sum(1)
    spent_C = (bends.shape[1] - smoothness_C * trace_C).clamp(min=1e-6)
    return (spent_C / bends.square().sum(1).clamp(min=1e-300)).clamp(*SMOOTHNESS), spent_C


def knots(u_CN: Tensor, count: int = KNOTS) -> Tensor:
    """Knots [C, m], increasing: quantiles of the scores, evenly spaced in their range where quantiles coincide."""
    N = u_CN.shape[1]
    rank = torch.linspace(0, N - 1, count).round().long()
    quantile_Cm = u_CN.sort(1).values[:, rank]
    low, high = quantile_Cm[:, :1], quantile_Cm[:, -1:]
    flat = high - low < 1e-9
    low, high = torch.where(flat, low - 1, low), torch.where(flat, high + 1, high)
    even_Cm = low + (high - low) * torch.linspace(0, 1, count, dtype=torch.float64)
    apart = (quantile_Cm.diff(dim=1) > 1e-6 * (high - low)).all(1, keepdim=True)
    return torch.where(apart, quantile_Cm, even_Cm)


def gram(knot_Cm: Tensor) -> Tensor:
    """Integrals [C, r, r] of products of the hat functions of inner knots: f'' of a natural spline is their sum."""
    h = knot_Cm.diff(dim=1)
    G = torch.diag_embed((h[:, :-1] + h[:, 1:]) / 3)
    between = torch.diag_embed(h[:, 1:-1] / 6, offset=1)
    return G + between + between.mT


def hats(knot_Cm: Tensor, u_CN: Tensor) -> Tensor:
    """Twice-integrated hat functions of the inner knots at u, [C, r, N]: 0 before the hat and linear after it."""
    last_C1 = knot_Cm[:, -1:]
    if torch.compiler.is_exporting() or bool((u_CN > last_C1 + FAR).any()):  # cubes would cancel, or overflow
        end_CN = u_CN.minimum(last_C1)
        slope = _cubes(knot_Cm, last_C1 + 1) - _cubes(knot_Cm, last_C1)
        return _cubes(knot_Cm, end_CN) + slope * (u_CN - end_CN)[:, None]
    return _cubes(knot_Cm, u_CN)


def _cubes(knot_Cm: Tensor, u_CN: Tensor) -> Tensor:
    """`hats` where u is not far beyond the last knot."""
    h = knot_Cm.diff(dim=1)[:, :, None]
    cubes_CmN = (u_CN[:, None] - knot_Cm[:, :, None]).clamp_(min=0)
    cubes_CmN = cubes_CmN * cubes_CmN.square() / 6
    slopes = (cubes_CmN[:, :-1] - cubes_CmN[:, 1:]) / h
    return slopes[:, :-1] - slopes[:, 1:]


def apply_spline(params: Params, Z_NK: Tensor) -> Tensor:
    """Log of the normalized one-vs-rest probabilities, float64 [N, K]."""
    x_CN = finite(scores(Z_NK))
    u_CN = (x_CN - params["centre"][:, None]) / params["unit"][:, None]
    f_CN = params["intercept"][:, None] + params["slope"][:, None] * u_CN
    for part in class_blocks(len(x_CN), KNOTS * x_CN.shape[1]):
        bends = hats(params["knot"][part], u_CN[part])
        f_CN[part] += torch.bmm(params["curvature"][part][:, None], bends)[:, 0]
    return joined_logits(f_CN, Z_NK)


BASELINE = Regressions(KNOTS, fit_classes).calibrator(apply_spline, reference="lucena2018", title="Spline calibration")
