"""Platt scaling: p_k proportional to sigmoid(a_k x_k + b_k), fitted one class against the rest (Platt, 1999).

The score x_k is the log odds of class k, z_k - logsumexp of the other logits. For K = 2 this is the classical
sigmoid(a (z1 - z0) + b), whose sum over the classes is one; for K > 2 the rows are normalized (Zadrozny & Elkan, 2002).

Targets in place of 1 and 0 keep the fit finite on separable data. For K = 2 they are Platt's own, (N+ + 1) / (N+ + 2)
and 1 / (N- + 2), so that the fit is the published one: together they are one more example of each label. Platt's method
is for two classes. Applied to each of K > 2 against the rest they would be one more example of each label a class, 2 K
in all, and keep p_k below (N+ + 1) / (N+ + 2) however good the model is, N+ the few examples of class k; there the
labels are mixed with a share 1 / (N + 1) of the uniform, one more example in all (`_one_vs_rest.targets`).

A prior of precision 1e-6, in units of total log loss, on a times the scores' standard deviation decides a where the
scores are constant. Rows that do not offer a class, or no other, are no part of its fit. All classes advance together
by Newton's method, on a sample of the rows and then on all, streamed in blocks.

When: two classes whose log odds are off by a factor and a constant. Cost: two numbers a class, Newton steps over all
rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from calib_bench.baselines._one_vs_rest import RIDGE
from calib_bench.baselines._solvers import blocks, checked, finite, log_odds, moments
from calib_bench.baselines._stacks import checked_stack, one_by_one, small
from calib_bench.core.baseline import Calibrator, Params
from calib_bench.metrics import masks

SAMPLE = 4096
"""Rows, or 16 a class if that is more, of the sample on which a fit four times as long is first made."""
CACHE = 1 << 22
"""Scores of so many entries or fewer are kept, larger ones computed anew in every pass."""
TOLERANCE = 1e-10
"""Decrease of the mean loss still to come at which a Newton step, whose error is of its square, is the last."""


@dataclass
class Scores:
    """Blocks of log odds [R, K], centred and scaled, with labels [R, 1]; small sets are kept.

    With each comes where it is no part of a fit, [R, K] or None: classes that a row does not offer, or no other.
    """

    Z_NK: Tensor
    y_N: Tensor
    centre_K: Tensor
    unit_K: Tensor
    kept: list[tuple[Tensor, Tensor, Tensor | None]] = field(default_factory=list)

    def blocks(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Every block, once."""
        if self.Z_NK.numel() > CACHE:
            yield from self._made()
            return
        self.kept = self.kept or list(self._made())
        yield from self.kept

    def _made(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        for z, y in blocks(self.Z_NK, self.y_N):
            odds = log_odds(z)
            certain = odds.isinf() if masks.masked(z) is not None else None
            odds = odds.sub_(self.centre_K).div_(self.unit_K)
            yield odds if certain is None else odds.masked_fill_(certain, 0.0), y[:, None], certain


def fit_platt(Z_NK: Tensor, y_N: Tensor) -> Params:
    """Fits slope and intercept, float64 [K] each, to logits [N, K] and labels [N].

    Raises:
        UserError: NaN or +inf logits, or labels that do not match.
    """
    Z_NK = checked(Z_NK, y_N)
    K = Z_NK.shape[1]
    stride = -(-len(y_N) // max(SAMPLE, 16 * K))
    odds = log_odds(Z_NK[:: -(-len(y_N) // SAMPLE)])
    centre_K, unit_K = (moment[0] for moment in moments(odds))
    unit_K = torch.where(unit_K > 1e-12 * (1 + centre_K.abs()), unit_K, 1.0)  # else constant but for rounding
    theta = torch.stack([unit_K, centre_K])  # the logits as they are
    for step in (stride, 1) if stride >= 4 else (1,):
        thinned = Scores(Z_NK[::step], y_N[::step], centre_K, unit_K)
        theta = newton(thinned, theta, TOLERANCE if step == 1 else 1e-5, targets(thinned, K))
    slope_K = theta[0] / unit_K
    return {"slope": slope_K, "intercept": theta[1] - slope_K * centre_K}


def fit_platts(Z_SNK: Tensor, y_SN: Tensor) -> Params:
    """`fit_platt` of S sets: slope and intercept, [S, K] each.

    Raises:
        UserError: as `fit_platt`.
    """
    S, N, K = Z_SNK.shape
    if not small(Z_SNK) or max(SAMPLE, 16 * K) < N or Z_SNK.numel() > CACHE or masks.any_masked(Z_SNK):
        return one_by_one(fit_platt, Z_SNK, y_SN)
    odds_SNK = log_odds(checked_stack(Z_SNK, y_SN).reshape(S * N, K)).view(S, N, K)
    centre_SK, unit_SK = odds_SNK.mean(1), odds_SNK.std(1, correction=0)
    unit_SK = torch.where(unit_SK > 1e-12 * (1 + centre_SK.abs()), unit_SK, 1.0)
    x_SNK = (odds_SNK - centre_SK[:, None]) / unit_SK[:, None]

    def kept(x: Tensor, y_N: Tensor) -> Scores:
        return Scores(x, y_N, torch.zeros(1), torch.ones(1), [(x, y_N[:, None], None)])

    pull = torch.cat([targets(kept(x, y), K) for x, y in zip(x_SNK, y_SN, strict=True)], 1)
    side_by_side = kept(x_SNK.transpose(0, 1).reshape(N, S * K), y_SN[0])
    start = torch.stack([unit_SK.flatten(), centre_SK.flatten()])
    a, b = newton(side_by_side, start, TOLERANCE, pull).view(2, S, K)
    slope_SK = a / unit_SK
    return {"slope": slope_SK, "intercept": b - slope_SK * centre_SK}


def newton(scores: Scores, theta: Tensor, tolerance: float, pull: Tensor, steps: int = 50) -> Tensor:
    """The optimal a and b [2, K] of K problems of two unknowns at once, each with its own step halving.

    Args:
        pull: what `targets` gives.
    """
    N = len(scores.y_N)
    value, gradient, (aa, ab, bb) = derivatives(scores, theta, pull)
    lost = value > N * math.log(2)  # worse than a = b = 0
    if lost.any():
        theta = torch.where(lost, 0.0, theta)
        value, gradient, (aa, ab, bb) = derivatives(scores, theta, pull)
    for _ in range(steps):
        determinant = (aa * bb - ab.square()).clamp(min=1e-300)
        step = torch.stack([bb * gradient[0] - ab * gradient[1], aa * gradient[1] - ab * gradient[0]]) / determinant
        decrement = (gradient * step).sum(0)
        going = decrement > tolerance * N
        if not going.any():
            return torch.where(decrement >= 0, theta - step, theta)
        rate = going.double()
        for _ in range(30):
            trial = theta - rate * step
            new = derivatives(scores, trial, pull)
            worse = going & ~(new[0] <= value - 0.25 * rate * decrement + 1e-13 * value.abs())
            if not worse.any():
                break
            rate = torch.where(worse, rate / 2, rate)
        theta, (value, gradient, (aa, ab, bb)) = trial, new
    return theta


def targets(scores: Scores, K: int) -> Tensor:
    """Sums over examples of target times score and of target [2, K]: the part of the loss linear in (a, b)."""
    number_K, count_K, all_K, own_K, even_K, even_score_K = torch.zeros(6, K, dtype=torch.float64)
    for x, y, certain in scores.blocks():
        free = torch.ones_like(x) if certain is None else (~certain).to(x.dtype)  # x is 0 where certain
        even = free.sum(1, keepdim=True).clamp(min=1).reciprocal()  # the uniform over the classes that a row offers
        number_K += free.sum(0)
        count_K.scatter_add_(0, y[:, 0], free.gather(1, y)[:, 0].double())
        all_K += x.sum(0)
        own_K.scatter_add_(0, y[:, 0], x.gather(1, y)[:, 0])
        even_K += (even * free).sum(0)
        even_score_K += (even * x).sum(0)
    if K == 2:
        low_K, high_K = 1 / (number_K - count_K + 2), (count_K + 1) / (count_K + 2)
        lift_K = high_K - low_K
        return torch.stack([low_K * all_K + lift_K * own_K, low_K * number_K + lift_K * count_K])
    return torch.stack([even_score_K + number_K * own_K, even_K + number_K * count_K]) / (number_K + 1)


def derivatives(scores: Scores, theta: Tensor, pull: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [K], gradient in (a, b) [2, K] and Hessian (aa, ab, bb) [3, K]."""
    a, b = theta
    value = RIDGE / 2 * a.square() - (theta * pull).sum(0)
    gradient = -pull
    gradient[0] += RIDGE * a
    hessian = torch.tensor([[RIDGE], [0.0], [1e-12]], dtype=torch.float64).repeat(1, len(a))
    for x, _, certain in scores.blocks():
        f = torch.addcmul(b, x, a)
        if certain is not None:
            f.masked_fill_(certain, -torch.inf)  # adds nothing: its loss and derivatives are zero
        e = f.abs().neg_().exp_()
        value += f.clamp(min=0).add_(e.log1p()).sum(0)
        q = e + 1
        p = torch.where(f > 0, 1.0, e).div_(q)
        w = e.div_(q.square_())  # p (1 - p), exact in the tails
        gradient[1] += p.sum(0)
        gradient[0] += p.mul_(x).sum(0)
        hessian[2] += w.sum(0)
        hessian[1] += w.mul_(x).sum(0)
        hessian[0] += w.mul_(x).sum(0)
    return value, gradient, hessian


def apply_platt(params: Params, Z_NK: Tensor) -> Tensor:
    """Log of the normalized one-vs-rest probabilities, float64 [N, K]."""
    Z_NK = checked(Z_NK)
    odds_NK = params["slope"] * finite(log_odds(Z_NK)) + params["intercept"]
    return torch.log_softmax(masks.without(logsigmoid(odds_NK), Z_NK), 1)


BASELINE = Calibrator(
    fit_platt, apply_platt, keeps_argmax=False, reference="platt1999", title="Platt scaling", fit_stack=fit_platts
)
