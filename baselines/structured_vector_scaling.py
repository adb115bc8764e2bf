"""Structured vector scaling (SVS): softmax((1 + v) * x + b) of tempered log probabilities x (Berta et al., 2025).

x is the log of temperature scaling's probabilities mixed with a share 1 / (N + 1) of the uniform, and v, b carry ridge
penalties (K / N) v^2 and (K / N) b^2 on the mean log loss: precision 2 K in units of total log loss, so that the fit
tends to temperature scaling where examples per class are few. Penalties and their strength 1 are the defaults of the
authors' package (arXiv 2511.03685).
"""

from __future__ import annotations

import torch
from torch import Tensor

from calib_bench.baselines._linear import Precision, fit_diagonal, unseen
from calib_bench.baselines._linear_stacks import fit_diagonals, stackable
from calib_bench.baselines._solvers import Params, checked, mix_uniform
from calib_bench.baselines._stacks import checked_stack, one_by_one
from calib_bench.baselines.temperature_scaling import fit_temperature, fit_temperatures
from calib_bench.core.baseline import Calibrator
from calib_bench.metrics import masks

STRENGTH = 1.0
"""lambda of the diagonal and of the intercept."""


def fit_structured_vector(Z_NK: Tensor, y_N: Tensor, strength: float = STRENGTH) -> Params:
    """Fits to logits [N, K] and labels [N].

    Returns:
        temperature and uniform, [] each, and weight 1 + v and bias b, [K] each; float64.

    Raises:
        UserError: NaN or +inf logits, or labels that do not match.
    """
    Z_NK = checked(Z_NK, y_N)
    params = fit_tempered(Z_NK, y_N)

    def features(z: Tensor) -> tuple[Tensor, Tensor]:
        x = tempered(params, z)
        return x, masks.zeroed(x)

    precision = 2 * Z_NK.shape[1] * strength
    v, b = fit_diagonal(Z_NK, y_N, features, Precision(precision, precision))
    return {**params, "weight": 1 + v, "bias": b}


def fit_structured_vectors(Z_SNK: Tensor, y_SN: Tensor) -> Params:
    """`fit_structured_vector` of S sets, every tensor with a leading axis S.

    Raises:
        UserError: as `fit_structured_vector`.
    """
    if not stackable(Z_SNK):
        return one_by_one(fit_structured_vector, Z_SNK, y_SN)
    params, x_SNK = fit_tempered_stack(Z_SNK, y_SN)
    precision = 2 * Z_SNK.shape[2] * STRENGTH
    v_SK, b_SK = fit_diagonals(x_SNK, x_SNK, y_SN, Precision(precision, precision))
    return {**params, "weight": 1 + v_SK, "bias": b_SK}


def apply_structured_vector(params: Params, Z_NK: Tensor) -> Tensor:
    """log softmax((1 + v) * x + b), float64 [N, K]."""
    x = tempered(params, checked(Z_NK))
    return torch.log_softmax(masks.without(params["weight"] * masks.zeroed(x) + params["bias"], x), 1)


def fit_tempered(Z_NK: Tensor, y_N: Tensor) -> Params:
    """The temperature and the uniform's share 1 / (N + 1), float64 []."""
    return {
        "temperature": fit_temperature(Z_NK, y_N)["temperature"],
        "uniform": torch.tensor(1 / (len(y_N) + 1), dtype=torch.float64),
    }


def fit_tempered_stack(Z_SNK: Tensor, y_SN: Tensor) -> tuple[Params, Tensor]:
    """`fit_tempered` of S sets, [S] each, and their tempered log probabilities [S, N, K]."""
    Z_SNK = checked_stack(Z_SNK, y_SN)
    S, N, K = Z_SNK.shape
    params = {
        "temperature": fit_temperatures(Z_SNK, y_SN)["temperature"],
        "uniform": torch.full((S,), 1 / (N + 1), dtype=torch.float64),
    }
    rows = {name: values.repeat_interleave(N)[:, None] for name, values in params.items()}
    return params, tempered(rows, Z_SNK.reshape(S * N, K)).view(S, N, K)


def tempered(params: Params, Z_NK: Tensor) -> Tensor:
    """x: log of softmax(Z / T) mixed with the uniform over the classes offered, float64 [N, K]."""
    p_NK = torch.softmax(Z_NK.double() / params["temperature"], 1)
    return mix_uniform(p_NK, params["uniform"], masks.masked(Z_NK))


BASELINE = Calibrator(
    fit_structured_vector,
    apply_structured_vector,
    keeps_argmax=False,
    reference="berta2025structured",
    title="Structured vector scaling",
    fit_stack=fit_structured_vectors,
    warn=unseen,
)
