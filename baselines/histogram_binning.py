"""Histogram binning: class k's probability becomes the share of k among like examples (Zadrozny & Elkan, 2001).

One class against the rest, 15 bins of equal count (fewer where scores are equal), rows normalized. The result is mixed
with a share 1 / (N + 1) of the uniform, as if one more example had been seen, of every label at once: without it a
probability of zero gives an infinite log loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from calib_bench.baseline import Calibrator
from calib_bench.baselines._solvers import Params, checked, log_odds, mix_uniform

BINS = 15


def fit_histogram(Z_NK: Tensor, y_N: Tensor, bins: int = BINS) -> Params:
    """Fits the bins of every class to logits [N, K] and labels [N].

    Returns:
        edge [K, bins - 1], the upper ends of all bins but the last, as log odds; value [K, bins]; uniform [], the
        uniform's share; float64.

    Raises:
        UserError: NaN or +inf logits, or labels that do not match.
    """
    x_KN = log_odds(checked(Z_NK, y_N)).T.contiguous()
    K, N = x_KN.shape
    rank = (torch.arange(1, bins) * N + bins - 1) // bins - 1
    edge_Kb = x_KN.sort(1).values[:, rank.clamp(0, N - 1)].contiguous()
    index_KN = torch.searchsorted(edge_Kb, x_KN)
    count_Kb = torch.zeros(K, bins, dtype=torch.float64).scatter_add_(1, index_KN, torch.ones_like(x_KN))
    hit_KN = (torch.arange(K)[:, None] == y_N).double()
    hits_Kb = torch.zeros_like(count_Kb).scatter_add_(1, index_KN, hit_KN)
    # A bin that equal scores left empty takes the value of the nearest filled one below it.
    filled_Kb = torch.where(count_Kb > 0, torch.arange(bins), 0).cummax(1).values
    value_Kb = (hits_Kb / count_Kb.clamp(min=1)).gather(1, filled_Kb)
    return {"edge": edge_Kb, "value": value_Kb, "uniform": torch.tensor(1 / (N + 1), dtype=torch.float64)}


def apply_histogram(params: Params, Z_NK: Tensor) -> Tensor:
    """Log of the normalized, mixed probabilities, float64 [N, K]."""
    x_KN = log_odds(checked(Z_NK)).T.contiguous()
    q_KN = params["value"].gather(1, torch.searchsorted(params["edge"], x_KN))
    return mix_uniform(q_KN.T, params["uniform"])


BASELINE = Calibrator(
    fit_histogram, apply_histogram, keeps_argmax=False, reference="zadrozny2001", title="Histogram binning"
)
