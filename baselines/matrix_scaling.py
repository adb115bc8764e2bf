"""Matrix scaling: softmax(W Z + b) with off-diagonal and intercept regularization (ODIR, Kull et al., 2019).

Maximum likelihood with Gaussian priors, in units of total log loss and of logits divided by their spread, so that they
mean the same at every beta: precision 10 K on the off-diagonal weights, so that together they may move a logit as far
whatever the number of classes, 1 on the intercepts, and 0.1 on the diagonal about temperature scaling, which matters on
separable data alone. Kull et al. (arXiv 1910.12656) choose the first two by cross-validation; here they are fixed, so
that a fit takes milliseconds and its pull vanishes as N grows. A class that a row does not offer adds nothing to the
other classes' logits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from calib_bench.baselines._linear import Precision, fit_full, unknowns_of_full, unseen
from calib_bench.baselines._linear_stacks import fit_fulls, stackable
from calib_bench.baselines._solvers import WILDEST, Params, checked, spread
from calib_bench.baselines._stacks import checked_stack, one_by_one, per_set, spreads
from calib_bench.baselines.temperature_scaling import fit_temperature, fit_temperatures
from calib_bench.core.baseline import Calibrator
from calib_bench.metrics import masks

OFF_DIAGONAL = 10.0
"""Per class."""
INTERCEPT = 1.0
DIAGONAL = 0.1


def fit_matrix(
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
    unit, slope = spread(Z_NK), 1 / float(fit_temperature(Z_NK, y_N)["temperature"])

    def features(z: Tensor) -> tuple[Tensor, Tensor]:
        z = z.double()
        return slope * z, (masks.zeroed(z) / unit).clamp(-WILDEST, WILDEST)

    prior = Precision(diagonal, intercept, K * OFF_DIAGONAL if off_diagonal is None else off_diagonal)
    D, b = fit_full(Z_NK, y_N, features, prior)
    D /= unit
    D.diagonal().add_(slope)
    return {"weight": D, "bias": b}


def fit_matrices(Z_SNK: Tensor, y_SN: Tensor) -> Params:
    """`fit_matrix` of S sets: weight [S, K, K] and bias [S, K].

    Raises:
        UserError: as `fit_matrix`.
    """
    if not stackable(Z_SNK):
        return one_by_one(fit_matrix, Z_SNK, y_SN)
    Z_SNK = checked_stack(Z_SNK, y_SN).double()
    unit_S, slope_S = spreads(Z_SNK), 1 / fit_temperatures(Z_SNK, y_SN)["temperature"]
    prior = Precision(DIAGONAL, INTERCEPT, Z_SNK.shape[2] * OFF_DIAGONAL)
    D_SKK, b_SK = fit_fulls(per_set(slope_S) * Z_SNK, (Z_SNK / per_set(unit_S)).clamp(-WILDEST, WILDEST), y_SN, prior)
    D_SKK /= per_set(unit_S)
    D_SKK.diagonal(dim1=1, dim2=2).add_(slope_S[:, None])
    return {"weight": D_SKK, "bias": b_SK}


def apply_matrix(params: Params, Z_NK: Tensor) -> Tensor:
    """log softmax(W Z + b), float64 [N, K]."""
    Z_NK = checked(Z_NK).double()
    return torch.log_softmax(masks.without(masks.zeroed(Z_NK) @ params["weight"].T + params["bias"], Z_NK), 1)


BASELINE = Calibrator(
    fit_matrix,
    apply_matrix,
    keeps_argmax=False,
    reference="kull2019",
    title="Matrix scaling",
    shift_invariant=False,
    fit_stack=fit_matrices,
    unknowns=unknowns_of_full,
    warn=unseen,
)
