"""Multi-class isotonic regression: one function for all classes (Zhang, Kailkhura & Han, 2020, arXiv 2003.07329).

The least-squares fit of [y = k] on p_k over all N K pairs, linear between the ends of its steps on the scale of log
odds, plus 1e-6 p_k, which makes it strictly increasing so that it keeps the order of the classes; rows are normalized.
The result is mixed with a share 1 / (N + 1) of the uniform: without it a probability of zero gives an infinite log
loss. Classes that a row does not offer, and an only one that it does, are no part of the fit.

When: the curve has no simple shape, and answers must not change. Cost: one sort of N K pairs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from calib_bench.baselines._solvers import checked, log_odds, mix_uniform, uniform_share, with_answers_of
from calib_bench.baselines._tallies import tally
from calib_bench.baselines.isotonic import steps
from calib_bench.core.baseline import Calibrator, Params
from calib_bench.metrics import masks

STRICT = 1e-6


def fit_isotonic_multiclass(Z_NK: Tensor, y_N: Tensor) -> Params:
    """Fits one non-decreasing function to logits [N, K] and labels [N].

    Returns:
        score and value, float64 [M], the ends of its steps; uniform [], the uniform's share.

    Raises:
        UserError: NaN or +inf logits, or labels that do not match.
    """
    x_NK = log_odds(checked(Z_NK, y_N))
    ordered = np.sort(x_NK[x_NK.isfinite()].numpy(force=True))
    of_label = x_NK.gather(1, y_N[:, None])[:, 0].numpy(force=True)
    arrays = steps(tally(ordered, of_label))
    return {**{name: torch.from_numpy(array) for name, array in arrays.items()}, "uniform": uniform_share(y_N)}


def apply_isotonic_multiclass(params: Params, Z_NK: Tensor) -> Tensor:
    """Log of the normalized, mixed probabilities, float64 [N, K]; beyond the fitted scores, the value at the end."""
    Z_NK = checked(Z_NK)
    x_NK = log_odds(Z_NK).numpy(force=True)
    q_NK = np.interp(x_NK, params["score"].numpy(force=True), params["value"].numpy(force=True))
    logp_NK = mix_uniform(
        torch.from_numpy(q_NK) + STRICT * Z_NK.double().softmax(1), params["uniform"], masks.masked(Z_NK)
    )
    return with_answers_of(Z_NK, logp_NK)  # rounding may undo that the function keeps the order of the classes


BASELINE = Calibrator(
    fit_isotonic_multiclass,
    apply_isotonic_multiclass,
    keeps_argmax=True,
    reference="zhang2020",
    title="Multi-class isotonic regression",
)
