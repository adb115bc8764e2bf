"""Ensemble temperature scaling: w1 softmax(Z / T) + w2 softmax(Z) + w3 / K (Zhang et al., 2020, arXiv 2003.07329).

The weights are non-negative and sum to one. As in the paper's implementation T is fitted first, alone, and then the
weights at that T; both by log loss, each a convex problem, so that on its calibration data it is never worse than
temperature scaling.

The best weights often lie on the border of the simplex, and whether a weight is zero or 1e-15 decides every probability
below that. The problem is therefore solved exactly on each face (corners, edges, interior), and a weight that the best
of them leaves out is zero, exactly.

When: one temperature is too little, and answers must not change. Cost: three free numbers, a few convex fits.
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor

from calib_bench.baselines._solvers import checked, with_answers_of
from calib_bench.baselines._stacks import checked_stack
from calib_bench.baselines.temperature_scaling import fit_temperature, fit_temperatures
from calib_bench.core.baseline import Calibrator, Params
from calib_bench.metrics import masks

SLACK = 5e-11
"""Nats by which a smaller face may lose to a larger one and still be taken: parts that all but agree on the labels
leave the weights undetermined, to rounding, along an edge; its end is then their value."""


def fit_ensemble(Z_NK: Tensor, y_N: Tensor) -> Params:
    """Fits temperature [] and weight [3] (scaled, raw, uniform), float64, to logits [N, K] and labels [N].

    Raises:
        UserError: NaN or +inf logits, or labels that do not match.
    """
    Z_NK = checked(Z_NK, y_N)
    temperature = fit_temperature(Z_NK, y_N)["temperature"]
    return {"temperature": temperature, "weight": simplex_weights(_own(Z_NK, y_N, temperature))}


def fit_ensembles(Z_SNK: Tensor, y_SN: Tensor) -> Params:
    """`fit_ensemble` of S sets: temperature [S] and weight [S, 3].

    Raises:
        UserError: as `fit_ensemble`.
    """
    Z_SNK = checked_stack(Z_SNK, y_SN)
    temperature_S = fit_temperatures(Z_SNK, y_SN)["temperature"]
    weights = [simplex_weights(_own(*each)) for each in zip(Z_SNK, y_SN, temperature_S, strict=True)]
    return {"temperature": temperature_S, "weight": torch.stack(weights)}


def _own(Z_NK: Tensor, y_N: Tensor, temperature: Tensor) -> Tensor:
    """Log probability of each example's label under the three parts, float64 [N, 3]."""
    Z_NK = Z_NK.double()
    Z_NK = Z_NK - Z_NK.amax(1, keepdim=True)
    z_N = Z_NK.gather(1, y_N[:, None])[:, 0]
    uniform_N = _uniform(Z_NK)[:, 0]
    scaled_N = z_N / temperature - (Z_NK / temperature).exp_().sum(1).log()
    return torch.stack([scaled_N, z_N - Z_NK.exp_().sum(1).log(), uniform_N], 1)


def _uniform(Z_NK: Tensor) -> Tensor:
    """Log probability of each class under the uniform over those that a row offers, float64 [N, 1]."""
    return (-torch.inf < Z_NK).sum(1, keepdim=True).double().log_().neg_()


def simplex_weights(logp_N3: Tensor) -> Tensor:
    """The weights [3] >= 0, of sum one, that minimize the convex f(w) = -mean log sum_j w_j p_nj.

    The minimum over the simplex is the least of the minima inside its faces, where they exist. Of the faces that reach
    it within SLACK the first of the smallest is taken, parts in their order. The interior is entered only where the
    best of the border misses the optimality conditions, mean(p_j / sum_i w_i p_i) <= 1 for every part j: the largest
    excess over one bounds what is still to gain.
    """
    corners = torch.eye(3, dtype=torch.float64)
    faces = list(corners)
    for i, j in combinations(range(3), 2):
        share = edge_minimum(logp_N3[:, i], logp_N3[:, j])
        if share is not None:
            faces.append((1 - share) * corners[i] + share * corners[j])
    losses = [_loss(logp_N3, w) for w in faces]
    border = faces[losses.index(min(losses))]
    inside = interior_minimum(logp_N3, border) if _excess(logp_N3, border) > SLACK else None
    if inside is not None:
        faces.append(inside)
        losses.append(_loss(logp_N3, inside))
    return next(w for w, loss in zip(faces, losses, strict=True) if loss <= min(losses) + SLACK)


def _loss(logp_N3: Tensor, w: Tensor) -> float:
    return -float(torch.logsumexp(logp_N3 + w.log(), 1).mean())


def _excess(logp_N3: Tensor, w: Tensor) -> float:
    mix_N1 = torch.logsumexp(logp_N3 + w.log(), 1, keepdim=True)
    return float((logp_N3 - mix_N1).exp().mean(0).amax()) - 1


def edge_minimum(logp_N: Tensor, other_N: Tensor) -> float | None:
    """The share t of the other part, 0 < t < 1, that minimizes -mean log((1 - t) p + t q); None if an end does.

    The root of mean((q - p) / ((1 - t) p + t q)), which falls in t, by Newton's method within a bracket.
    """
    top_N = torch.maximum(logp_N, other_N)
    p_N, q_N = (logp_N - top_N).exp(), (other_N - top_N).exp()
    gap_N = q_N - p_N
    if not (gap_N / p_N).mean() > 0 > (gap_N / q_N).mean():
        return None
    low, high, t = 0.0, 1.0, 0.5
    for _ in range(200):
        slope_N = gap_N / (p_N + t * gap_N)
        slope = float(slope_N.mean())
        low, high = (t, high) if slope > 0 else (low, t)
        new = t + slope / float(slope_N.square().mean())
        if not low < new < high:
            new = (low + high) / 2
        step, t = abs(new - t), new
        if step <= 1e-15:
            break
    return t


def interior_minimum(logp_N3: Tensor, border: Tensor) -> Tensor | None:
    """The weights [3], all positive, where f has its minimum; None if that is not inside the simplex.

    Newton's method with step halving on the plane of sum one, from a point next to the best of the border: f is convex
    and finite wherever every mixture is positive, also beyond the simplex, and if the simplex has its minimum inside,
    that is the plane's.
    """
    ratio_N3 = (logp_N3 - logp_N3.amax(1, keepdim=True)).exp()
    plane_32 = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    w, last = 0.9 * border + 0.1 / 3, math.inf
    for _ in range(200):
        mix_N = ratio_N3 @ w
        slope_N2 = ratio_N3 @ plane_32 / mix_N[:, None]
        ascent_2 = slope_N2.mean(0)
        step_2 = torch.linalg.pinv(slope_N2.T @ slope_N2 / len(mix_N), hermitian=True) @ ascent_2
        gain, rate = float(ascent_2 @ step_2), 1.0
        if gain <= 1e-30 or (gain < 1e-12 and gain >= last):  # what is left is rounding
            break
        last = gain
        while rate > 1e-12:
            trial = w + rate * (plane_32 @ step_2)
            relative_N = ratio_N3 @ trial / mix_N
            if (relative_N > 0).all() and float(relative_N.log().mean()) >= 0.25 * rate * gain - 1e-15:
                break
            rate /= 2
        w = trial
    return w / w.sum() if bool((w > 0).all()) else None


def apply_ensemble(params: Params, Z_NK: Tensor) -> Tensor:
    """Log of the mixture, float64 [N, K]."""
    Z_NK = checked(Z_NK).double()
    log_w = params["weight"].log()
    scaled_NK = torch.log_softmax(Z_NK / params["temperature"], 1) + log_w[0]
    logp_NK = torch.logaddexp(scaled_NK, torch.log_softmax(Z_NK, 1) + log_w[1])
    logp_NK = torch.log_softmax(masks.without(torch.logaddexp(logp_NK, log_w[2] + _uniform(Z_NK)), Z_NK), 1)
    # Every part keeps the order of the classes, but the uniform, which may be left alone, tells of none.
    return with_answers_of(Z_NK, logp_NK)


BASELINE = Calibrator(
    fit_ensemble,
    apply_ensemble,
    keeps_argmax=True,
    reference="zhang2020",
    title="Ensemble temperature scaling",
    fit_stack=fit_ensembles,
)
