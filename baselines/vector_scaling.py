"""Vector scaling: softmax(w * Z + b), one factor and one intercept per class (Guo et al., 2017, arXiv 1706.04599).

Maximum likelihood with a Gaussian prior of precision 0.1, in units of total log loss, on the departure of w times the
logits' spread, and of b, from temperature scaling (w = 1/T, b = 0): its pull vanishes as N grows, and it keeps the fit
finite where a class has no examples or the data are separable. The spread is that of `_solvers.spread`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from calib_bench.baselines._linear import Precision, fit_diagonal, unseen
from calib_bench.baselines._linear_stacks import fit_diagonals, stackable
from calib_bench.baselines._solvers import WILDEST, Params, checked, spread
from calib_bench.baselines._stacks import checked_stack, one_by_one, per_set, spreads
from calib_bench.baselines.temperature_scaling import fit_temperature, fit_temperatures
from calib_bench.core.baseline import Calibrator
from calib_bench.metrics import masks

PRECISION = 0.1
FEW = 10
"""Examples to a parameter, 2 K of these, below which noise in the fit often costs more than the fit repairs."""


def fit_vector(Z_NK: Tensor, y_N: Tensor, precision: float = PRECISION) -> Params:
    """Fits weight w and bias b, float64 [K] each, to logits [N, K] and labels [N].

    Raises:
        UserError: NaN or +inf logits, or labels that do not match.
    """
    Z_NK = checked(Z_NK, y_N)
    unit, slope = spread(Z_NK), 1 / float(fit_temperature(Z_NK, y_N)["temperature"])

    def features(z: Tensor) -> tuple[Tensor, Tensor]:
        z = z.double()
        return slope * z, (masks.zeroed(z) / unit).clamp(-WILDEST, WILDEST)

    v, b = fit_diagonal(Z_NK, y_N, features, Precision(precision, precision))
    return {"weight": slope + v / unit, "bias": b}


def fit_vectors(Z_SNK: Tensor, y_SN: Tensor) -> Params:
    """`fit_vector` of S sets: weight and bias, [S, K] each.

    Raises:
        UserError: as `fit_vector`.
    """
    if not stackable(Z_SNK):
        return one_by_one(fit_vector, Z_SNK, y_SN)
    Z_SNK = checked_stack(Z_SNK, y_SN).double()
    unit_S, slope_S = spreads(Z_SNK), 1 / fit_temperatures(Z_SNK, y_SN)["temperature"]
    v_SK, b_SK = fit_diagonals(
        per_set(slope_S) * Z_SNK,
        (Z_SNK / per_set(unit_S)).clamp(-WILDEST, WILDEST),
        y_SN,
        Precision(PRECISION, PRECISION),
    )
    return {"weight": slope_S[:, None] + v_SK / unit_S[:, None], "bias": b_SK}


def apply_vector(params: Params, Z_NK: Tensor) -> Tensor:
    """log softmax(w * Z + b), float64 [N, K]."""
    Z_NK = checked(Z_NK).double()
    return torch.log_softmax(masks.without(params["weight"] * masks.zeroed(Z_NK) + params["bias"], Z_NK), 1)


def warn(Z_NK: Tensor, y_N: Tensor) -> str | None:
    """What to know where classes have no examples, or parameters few: None where neither is so."""
    N, K = Z_NK.shape
    few = None
    if N < FEW * 2 * K:
        few = (
            f"{N:,} calibration examples for {2 * K:,} parameters: with fewer than {FEW} each it is often worse than"
            " no calibration; temperature or structured vector scaling needs fewer"
        )
    return "; ".join(warning for warning in (unseen(Z_NK, y_N), few) if warning) or None


BASELINE = Calibrator(
    fit_vector,
    apply_vector,
    keeps_argmax=False,
    reference="guo2017",
    title="Vector scaling",
    shift_invariant=False,
    fit_stack=fit_vectors,
    warn=warn,
)
