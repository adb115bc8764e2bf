"""Quadratic scaling of two classes: p = sigmoid(a + b x + c x^2) of the log odds x = z1 - z0 (Berta et al., 2026).

Where each class's scores are normal, true log odds are quadratic in them, and linear only if the variances are equal:
Platt scaling with one parameter more. It is what the authors' package, probmetrics, fits to two classes unless told
otherwise ("logistic"; arXiv 2605.30188 has it beside other methods), by maximum likelihood without a penalty. With c
other than 0 the map turns at x = -b / (2 c), often beyond the data: it need not keep the order of examples.

The labels are mixed with a share 1 / (N + 1) of the uniform, as if one more example had been seen, of every label at
once (`_one_vs_rest.targets`): where data are separable the fit to the labels alone is infinite. A prior of precision
1e-6, in units of total log loss, on slopes of standardized features decides where scores are constant.

When: two classes whose scores spread unequally, with hundreds of examples. Cost: three numbers, Newton steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from calib_bench.baselines._one_vs_rest import RIDGE, Regressions, joined_logits, logistic, scores, standardized
from calib_bench.core.baseline import Calibrator, Params
from calib_bench.errors import UserError

LARGEST = 1e100
"""Standardized scores beyond it are taken for it, so that their squares are finite."""


def _two_classes(Z: Tensor) -> None:
    if Z.ndim > 1 and Z.shape[-1] > 2:
        raise UserError(
            f"quadratic_scaling is for two classes, and there are {Z.shape[-1]}: structured_matrix_scaling is the"
            " nearest for more."
        )


def fit_classes(x_CN: Tensor, t_CN: Tensor, sets: int = 1) -> Params:
    """Fits a, b and c, in standardized log odds, to each row of scores and targets [C, N], of any number of sets.

    Returns:
        centre and unit, of the log odds; intercept, slope and bend: [C] each, float64.
    """
    u_CN, centre_C, unit_C = standardized(x_CN)
    square_CN, middle_C, width_C = standardized(u_CN.square())
    X_CPN = torch.stack([torch.ones_like(u_CN), u_CN, square_CN], 1)
    penalty_CP = torch.tensor([0.0, RIDGE, RIDGE], dtype=torch.float64).expand(len(x_CN), 3)
    start_CP = torch.zeros(len(x_CN), 3, dtype=torch.float64)
    start_CP[:, 0] = t_CN.mean(1).logit()
    theta_CP = logistic(X_CPN, t_CN, penalty_CP, start_CP).theta
    bend_C = theta_CP[:, 2] / width_C
    return {
        "centre": centre_C,
        "unit": unit_C,
        "intercept": theta_CP[:, 0] - bend_C * middle_C,
        "slope": theta_CP[:, 1].clone(),
        "bend": bend_C,
    }


REGRESSIONS = Regressions(3, fit_classes)


def fit_quadratic(Z_NK: Tensor, y_N: Tensor) -> Params:
    """What `fit_classes` gives, [1] each, of logits [N, 2] and labels [N].

    Raises:
        UserError: more than two classes, NaN or +inf logits, or labels that do not match.
    """
    _two_classes(Z_NK)
    return REGRESSIONS.fit(Z_NK, y_N)


def fit_quadratics(Z_SNK: Tensor, y_SN: Tensor) -> Params:
    """`fit_quadratic` of S sets, [S, 1] each.

    Raises:
        UserError: as `fit_quadratic`.
    """
    _two_classes(Z_SNK)
    return REGRESSIONS.fit_stack(Z_SNK, y_SN)


def apply_quadratic(params: Params, Z_NK: Tensor) -> Tensor:
    """log p, float64 [N, 2].

    Raises:
        UserError: as `fit_quadratic`.
    """
    _two_classes(Z_NK)
    a, b, c, centre, unit = (params[name][:, None] for name in ("intercept", "slope", "bend", "centre", "unit"))
    u_CN = ((scores(Z_NK) - centre) / unit).clamp(-LARGEST, LARGEST)
    return joined_logits(a + u_CN * (b + c * u_CN), Z_NK)


BASELINE = Calibrator(
    fit_quadratic,
    apply_quadratic,
    keeps_argmax=False,
    reference="berta2026",
    title="Quadratic scaling",
    fit_stack=fit_quadratics,
    classes=2,
)
