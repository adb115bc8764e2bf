"""Beta calibration: p_k proportional to sigmoid(a ln s - b ln(1 - s) + c), a, b >= 0 (Kull, Silva Filho & Flach, 2017).

s is the model's probability of class k, one class against the rest, rows normalized; for K = 2 the one map of class 1.
Where the unconstrained optimum has a or b below zero, the constrained one is taken: the loss is convex, so it lies on a
face where one or both are zero. ln s and ln(1 - s) are exact however close s is to 0 or 1, since they come from logits.

The labels are mixed with a share 1 / (N + 1) of the uniform, as if one more example had been seen, of every label at
once (`_one_vs_rest.targets`): where data are separable the published fit, to the labels alone, is infinite. A prior of
precision 1e-6, in units of total log loss, on slopes of standardized features decides where scores are constant.
netcal's multi-class variant is another model: one softmax over all classes' a ln s - b ln(1 - s) + c.

When: two classes and scores that are skewed to one side, or probabilities alone. Cost: three numbers a class.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from calib_bench.baselines._one_vs_rest import (
    RIDGE,
    Logistic,
    Regressions,
    joined_logits,
    logistic,
    scores,
    standardized,
)
from calib_bench.baselines._solvers import finite
from calib_bench.core.baseline import Params


def fit_classes(x_CN: Tensor, t_CN: Tensor, sets: int = 1) -> Params:
    """a, b >= 0 and c, float64 [C] each, of scores and targets [C, N]; of how many sets does not matter."""
    log_s, centre_a, unit_a = standardized(-softplus(-x_CN))
    minus_log_rest, centre_b, unit_b = standardized(softplus(x_CN))
    X_CPN = torch.stack([log_s, minus_log_rest, torch.ones_like(x_CN)], 1)
    penalty_CP = torch.tensor([RIDGE, RIDGE, 0.0], dtype=torch.float64).expand(len(x_CN), 3)
    start_CP = torch.zeros(len(x_CN), 3, dtype=torch.float64)
    start_CP[:, 2] = t_CN.mean(1).logit()
    fitted = logistic(X_CPN, t_CN, penalty_CP, start_CP)
    theta_CP = fitted.theta
    low = (theta_CP[:, :2] < 0).any(1).nonzero()[:, 0]
    if len(low):
        theta_CP[low] = _on_a_face(X_CPN[low], t_CN[low], penalty_CP[low], start_CP[low]).theta
    a, b = theta_CP[:, 0] / unit_a, theta_CP[:, 1] / unit_b
    return {"a": a, "b": b, "c": theta_CP[:, 2] - a * centre_a - b * centre_b}


def _on_a_face(X_CPN: Tensor, t_CN: Tensor, penalty_CP: Tensor, start_CP: Tensor) -> Logistic:
    """The best of the fits with a = 0, with b = 0 and with both, among those that have neither below zero."""
    best: Logistic | None = None
    for free in ((False, False, True), (True, False, True), (False, True, True)):
        fitted = logistic(X_CPN, t_CN, penalty_CP, start_CP, torch.tensor(free).expand_as(start_CP))
        if best is None:
            best = fitted
            continue
        better = (fitted.theta[:, :2] >= 0).all(1) & (fitted.value < best.value)
        theta = torch.where(better[:, None], fitted.theta, best.theta)
        best = Logistic(theta, torch.where(better, fitted.value, best.value), fitted.hessian)
    assert best is not None
    return best


def apply_beta(params: Params, Z_NK: Tensor) -> Tensor:
    """Log of the normalized one-vs-rest probabilities, float64 [N, K]."""
    x_CN = finite(scores(Z_NK))
    a, b, c = (params[name][:, None] for name in "abc")
    return joined_logits(c - a * softplus(-x_CN) + b * softplus(x_CN), Z_NK)


BASELINE = Regressions(3, fit_classes).calibrator(apply_beta, reference="kull2017", title="Beta calibration")
