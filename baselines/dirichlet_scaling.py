"""Dirichlet calibration: softmax(W log p + b), p = softmax(Z) (Kull et al., 2019, arXiv 1910.12656).

The linear form of their equation 5, with their off-diagonal and intercept regularization (ODIR): Gaussian priors, in
units of total log loss and of log p divided by its root mean square, of precision 10 K on the off-diagonal weights,
which together may then move a logit as far whatever the number of classes, and 1 on the intercepts. The diagonal is
left free in the paper; a precision of 0.1 about temperature scaling keeps it finite on separable data. Kull et al.
choose the strengths by cross-validation on a mean loss; here they are fixed, and their pull vanishes as N grows.
For two classes this is beta calibration without its sign constraints. A class that a row does not offer adds nothing
to the other classes' logits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from calib_bench.baselines._linear import Precision, fit_full, unknowns_of_full, unseen
from calib_bench.baselines._linear_stacks import fit_fulls, stackable
from calib_bench.baselines._solvers import Params, blocks, checked
from calib_bench.baselines._stacks import checked_stack, one_by_one, per_set
from calib_bench.baselines.temperature_scaling import fit_temperature, fit_temperatures
from calib_bench.core.baseline import Calibrator
from calib_bench.metrics import masks

OFF_DIAGONAL = 10.0
"""Per class."""
INTERCEPT = 1.0
DIAGONAL = 0.1


def fit_dirichlet(
    Z_NK: Tensor,
    y_N: Tensor,
    off_diagonal: float | None = None,
    intercept: float = INTERCEPT,
    diagonal: float = DIAGONAL,
) -> Params:
    """Fits weight W [K, K] and bias b [K], float64, to logits [N, K] and labels [N].

    Args:
        Z_NK: logits.
        y_N: labels.
        off_diagonal: precision of the prior, K times OFF_DIAGONAL unless given, as are the others.
        intercept: see above.
        diagonal: see above.

    Raises:
        UserError: NaN or +inf logits, or labels that do not match.
    """
    Z_NK = checked(Z_NK, y_N)
    K = Z_NK.shape[1]
    slope = 1 / float(fit_temperature(Z_NK, y_N)["temperature"])
    unit = _unit(Z_NK, y_N)

    def features(z: Tensor) -> tuple[Tensor, Tensor]:
        logp = torch.log_softmax(z.double(), 1)
        return slope * logp, masks.zeroed(logp) / unit

    prior = Precision(diagonal, intercept, K * OFF_DIAGONAL if off_diagonal is None else off_diagonal)
    D, b = fit_full(Z_NK, y_N, features, prior)
    D /= unit
    D.diagonal().add_(slope)
    return {"weight": D, "bias": b}


def _unit(Z_NK: Tensor, y_N: Tensor) -> float:
    """Root mean square of the offered classes' log p, without overflow; at least log(K), that of uniform p."""
    number, squares, unit = 0, 0.0, 1.0
    for z, _ in blocks(Z_NK, y_N):
        logp = torch.log_softmax(z, 1)
        number += int((logp > -torch.inf).sum())
        logp = masks.zeroed(logp)
        largest = -float(logp.min())
        if largest > 1e150 * unit:
            squares, unit = squares * (unit / largest) ** 2, largest
        squares += float((logp / unit).square().sum())
    return unit * (squares / number) ** 0.5 or 1.0


def fit_dirichlets(Z_SNK: Tensor, y_SN: Tensor) -> Params:
    """`fit_dirichlet` of S sets: weight [S, K, K] and bias [S, K].

    Raises:
        UserError: as `fit_dirichlet`.
    """
    if not stackable(Z_SNK):
        return one_by_one(fit_dirichlet, Z_SNK, y_SN)
    Z_SNK = checked_stack(Z_SNK, y_SN)
    slope_S = 1 / fit_temperatures(Z_SNK, y_SN)["temperature"]
    logp_SNK = Z_SNK.double().log_softmax(2)
    unit_S = logp_SNK.square().mean((1, 2)).sqrt()
    prior = Precision(DIAGONAL, INTERCEPT, Z_SNK.shape[2] * OFF_DIAGONAL)
    D_SKK, b_SK = fit_fulls(per_set(slope_S) * logp_SNK, logp_SNK / per_set(unit_S), y_SN, prior)
    D_SKK /= per_set(unit_S)
    D_SKK.diagonal(dim1=1, dim2=2).add_(slope_S[:, None])
    return {"weight": D_SKK, "bias": b_SK}


def apply_dirichlet(params: Params, Z_NK: Tensor) -> Tensor:
    """log softmax(W log p + b), float64 [N, K]."""
    logp = torch.log_softmax(checked(Z_NK).double(), 1)
    return torch.log_softmax(masks.without(masks.zeroed(logp) @ params["weight"].T + params["bias"], logp), 1)


BASELINE = Calibrator(
    fit_dirichlet,
    apply_dirichlet,
    keeps_argmax=False,
    reference="kull2019",
    title="Dirichlet calibration",
    fit_stack=fit_dirichlets,
    unknowns=unknowns_of_full,
    warn=unseen,
)
