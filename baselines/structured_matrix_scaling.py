"""Structured matrix scaling (SMS): softmax((I + D) x + b) of tempered log probabilities x (Berta et al., 2025).

As structured vector scaling, with a full matrix D: ridge penalties (K / N) on its diagonal and on the intercepts and
K (K - 1) / N on its off-diagonal entries, times the square, on the mean log loss: precisions 2 K and 2 K (K - 1) in
units of total log loss. Penalties and their strength 1 are the defaults of the authors' package (arXiv 2511.03685).
"""

from __future__ import annotations

import torch
from torch import Tensor

from calib_bench.baselines._linear import Precision, fit_full, unknowns_of_full, unseen
from calib_bench.baselines._linear_stacks import fit_fulls, stackable
from calib_bench.baselines._solvers import Params, checked
from calib_bench.baselines._stacks import one_by_one
from calib_bench.baselines.structured_vector_scaling import fit_tempered, fit_tempered_stack, tempered
from calib_bench.core.baseline import Calibrator
from calib_bench.metrics import masks

STRENGTH = 1.0
"""lambda of the diagonal, the intercept and the off-diagonal weights."""


def fit_structured_matrix(
    Z_NK: Tensor, y_N: Tensor, strength: float = STRENGTH, off_diagonal: float | None = None
) -> Params:
    """Fits to logits [N, K] and labels [N].

    Args:
        Z_NK: logits.
        y_N: labels.
        strength: lambda of the diagonal and the intercept.
        off_diagonal: lambda of the off-diagonal weights, if not `strength`.

    Returns:
        temperature and uniform, [] each, weight I + D [K, K] and bias b [K]; float64.

    Raises:
        UserError: NaN or +inf logits, or labels that do not match.
    """
    Z_NK = checked(Z_NK, y_N)
    K = Z_NK.shape[1]
    params = fit_tempered(Z_NK, y_N)

    def features(z: Tensor) -> tuple[Tensor, Tensor]:
        x = tempered(params, z)
        return x, masks.zeroed(x)

    diagonal = 2 * K * strength
    off = 2 * K * (K - 1) * (strength if off_diagonal is None else off_diagonal)
    D, b = fit_full(Z_NK, y_N, features, Precision(diagonal, diagonal, off))
    D.diagonal().add_(1.0)
    return {**params, "weight": D, "bias": b}


def fit_structured_matrices(Z_SNK: Tensor, y_SN: Tensor) -> Params:
    """`fit_structured_matrix` of S sets, every tensor with a leading axis S.

    Raises:
        UserError: as `fit_structured_matrix`.
    """
    if not stackable(Z_SNK):
        return one_by_one(fit_structured_matrix, Z_SNK, y_SN)
    params, x_SNK = fit_tempered_stack(Z_SNK, y_SN)
    diagonal = 2 * Z_SNK.shape[2] * STRENGTH
    D_SKK, b_SK = fit_fulls(x_SNK, x_SNK, y_SN, Precision(diagonal, diagonal, diagonal * (Z_SNK.shape[2] - 1)))
    D_SKK.diagonal(dim1=1, dim2=2).add_(1.0)
    return {**params, "weight": D_SKK, "bias": b_SK}


def apply_structured_matrix(params: Params, Z_NK: Tensor) -> Tensor:
    """log softmax((I + D) x + b), float64 [N, K]."""
    x = tempered(params, checked(Z_NK))
    return torch.log_softmax(masks.without(masks.zeroed(x) @ params["weight"].T + params["bias"], x), 1)


BASELINE = Calibrator(
    fit_structured_matrix,
    apply_structured_matrix,
    keeps_argmax=False,
    reference="berta2025structured",
    title="Structured matrix scaling",
    fit_stack=fit_structured_matrices,
    unknowns=unknowns_of_full,
    warn=unseen,
)
