"""The fits of `_linear` for many small calibration sets at once, every set by the steps that its own fit would take.

Sets here are small and of few classes, so that the first metric is the whole Hessian (`stackable`). One that has come
to its end waits, unchanged, until all have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from calib_bench.baselines._linear import EXACT_FULL, MEMORY, REFRESH, SAMPLE, TOLERANCE, Precision
from calib_bench.baselines._stacks import small

ENTRIES = 1 << 20
"""Entries of the features of all unknowns in a part of a stack: 8 MiB."""

Loss = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Unknowns [S, P] -> values [S] and gradients [S, P]."""
Solve = Callable[[Tensor], Tensor]
"""Gradients [S, P] -> the metrics' inverses times them."""


def stackable(Z_SNK: Tensor) -> bool:
    """Whether sets of this shape are fitted together here."""
    return small(Z_SNK) and Z_SNK.shape[2] <= EXACT_FULL and Z_SNK.shape[1] <= SAMPLE


def fit_diagonals(
    base_SNK: Tensor, x_SNK: Tensor, y_SN: Tensor, prior: Precision, tolerance: float = TOLERANCE
) -> tuple[Tensor, Tensor]:
    """`_linear.fit_diagonal` of S sets of base and features: departures v and b, [S, K] each."""
    S, N, K = x_SNK.shape
    base_SNK = base_SNK - base_SNK.amax(2, keepdim=True)
    precision = torch.tensor([prior.diagonal, prior.intercept], dtype=torch.float64).repeat_interleave(K)

    def logits(theta: Tensor) -> Tensor:
        return (base_SNK + theta[:, None, K:]).addcmul_(x_SNK, theta[:, None, :K])

    def loss(theta: Tensor) -> tuple[Tensor, Tensor]:
        r, value = residuals(logits(theta), y_SN)
        gradient = precision * theta
        value += (gradient * theta).sum(1) / 2
        gradient[:, K:] += r.sum(1)
        gradient[:, :K] += r.mul_(x_SNK).sum(1)
        return value, gradient

    def metric(theta: Tensor) -> Solve:
        p = logits(theta).softmax(2)
        u = torch.cat([p * x_SNK, p], 2)
        H = torch.bmm(u.mT, u).neg_()
        cross = u[:, :, :K].sum(1)
        H.diagonal(dim1=1, dim2=2).add_(torch.cat([(u[:, :, :K] * x_SNK).sum(1), p.sum(1)], 1) + precision)
        H.diagonal(K, 1, 2).add_(cross)
        H.diagonal(-K, 1, 2).add_(cross)
        return cholesky(H)

    theta = minimize(loss, torch.zeros(S, 2 * K, dtype=torch.float64), metric, tolerance * N)
    return theta[:, :K].clone(), theta[:, K:].clone()


def fit_fulls(base_SNK: Tensor, x_SNK: Tensor, y_SN: Tensor, prior: Precision) -> tuple[Tensor, Tensor]:
    """`_linear.fit_full` of S sets of base and features: departures D [S, K, K] and b [S, K]."""
    _, N, K = x_SNK.shape
    sets = max(1, ENTRIES // (N * K * (K + 1)))
    parts = zip(base_SNK.split(sets), x_SNK.split(sets), y_SN.split(sets), strict=True)
    theta = torch.cat([_fit_fulls(*part, prior) for part in parts])
    return theta[:, :, :K].contiguous(), theta[:, :, K].contiguous()


def _fit_fulls(base_SNK: Tensor, x_SNK: Tensor, y_SN: Tensor, prior: Precision) -> Tensor:
    """D and b [S, K, K + 1]."""
    S, N, K = x_SNK.shape
    shape = S, K, K + 1
    base_SNK = base_SNK - base_SNK.amax(2, keepdim=True)
    precision = prior.of_full(K).flatten()
    start = torch.zeros(shape, dtype=torch.float64)
    start[:, :, :K].diagonal(dim1=1, dim2=2)[:], start[:, :, K] = fit_diagonals(base_SNK, x_SNK, y_SN, prior, 1e-6)
    with_one = torch.cat([x_SNK, torch.ones_like(x_SNK[:, :, :1])], 2)

    def logits(theta: Tensor) -> Tensor:
        return torch.baddbmm(base_SNK, with_one, theta.view(shape).mT)

    def loss(theta: Tensor) -> tuple[Tensor, Tensor]:
        r, value = residuals(logits(theta), y_SN)
        gradient = precision * theta
        value += (gradient * theta).sum(1) / 2
        return value, gradient.view(shape).baddbmm_(r.mT, with_one).flatten(1)

    def metric(theta: Tensor) -> Solve:
        p = logits(theta).softmax(2)
        u = (p[:, :, :, None] * with_one[:, :, None, :]).flatten(2)
        H = torch.bmm(u.mT, u).neg_()
        blocks = torch.bmm(u.mT, with_one).view(S, K, K + 1, K + 1)
        torch.einsum("skikj->skij", H.view(S, K, K + 1, K, K + 1)).add_(blocks)
        H.diagonal(dim1=1, dim2=2).add_(precision)
        return cholesky(H)

    return minimize(loss, start.flatten(1), metric, TOLERANCE * N).view(shape)


def residuals(logits_SNK: Tensor, y_SN: Tensor) -> tuple[Tensor, Tensor]:
    """softmax - one-hot [S, N, K] and the total log losses [S]."""
    logp = logits_SNK.log_softmax(2)
    y_SN1 = y_SN[:, :, None]
    total = -logp.gather(2, y_SN1).sum((1, 2))
    r = logp.exp_()
    return r.scatter_add_(2, y_SN1, -torch.ones_like(r[:, :, :1])), total


def cholesky(H_SPP: Tensor) -> Solve:
    """The inverses of positive definite matrices."""
    jitter = H_SPP.diagonal(dim1=1, dim2=2).mean(1) * 1e-14
    L, failed = torch.linalg.cholesky_ex(H_SPP)
    while bool(failed.any()):  # rounding of features with a large common shift; any metric will do
        jitter = jitter * 10
        more = torch.where(failed > 0, jitter, 0.0)[:, None, None] * torch.eye(L.shape[1], dtype=L.dtype)
        again, failed_again = torch.linalg.cholesky_ex(H_SPP + more)
        L = torch.where((failed > 0)[:, None, None], again, L)
        failed = torch.where(failed > 0, failed_again, failed)
    return lambda g: torch.cholesky_solve(g[:, :, None], L)[:, :, 0]


def minimize(loss: Loss, x: Tensor, metric: Callable[[Tensor], Solve], tolerance: float) -> Tensor:
    """`_linear.minimize` of S strictly convex losses, in float64, from x [S, P]."""
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    solve = metric(x)
    value, gradient = loss(x)
    going = torch.ones(len(x), dtype=torch.bool)
    for step in range(1000):
        if step and step % REFRESH == 0:
            solve = metric(x)
        d = direction(gradient, pairs, solve)
        going = going & ~(-dot(gradient, d) / 2 <= tolerance)
        if not going.any():
            break
        steps = search(loss, x, value, gradient, torch.where(going[:, None], d, 0.0), going)
        going = steps.met  # where it is not, rounding leaves no decrease to find
        if not going.any():
            break
        here = going[:, None]
        # One that waits has a pair that harms nobody.
        s, y = (torch.where(here, change, 1.0) for change in (steps.x - x, steps.gradient - gradient))
        pairs = [*pairs[1 - MEMORY :], (s, y, 1 / dot(s, y))]
        x, gradient = torch.where(here, steps.x, x), torch.where(here, steps.gradient, gradient)
        value = torch.where(going, steps.value, value)
    return x


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products [S] of rows."""
    return torch.linalg.vecdot(a, b)


def direction(gradient: Tensor, pairs: Sequence[tuple[Tensor, Tensor, Tensor]], solve: Solve) -> Tensor:
    """-B^-1 gradient, B the metric updated by the pairs (Nocedal & Wright, 2006, algorithm 7.4)."""
    q = gradient.clone()
    used = []
    for s, y, rho in reversed(pairs):
        alpha = (rho * dot(s, q))[:, None]
        q.addcmul_(y, alpha, value=-1)
        used.append((s, y, rho, alpha))
    r = solve(q)
    for s, y, rho, alpha in reversed(used):
        r = r.addcmul(s, alpha - (rho * dot(y, r))[:, None])
    return r.neg()


class Found(NamedTuple):
    """Points [S, P], their values [S] and gradients [S, P], and where the search came to its end [S]."""

    x: Tensor
    value: Tensor
    gradient: Tensor
    met: Tensor


def search(loss: Loss, x: Tensor, value: Tensor, gradient: Tensor, d: Tensor, going: Tensor) -> Found:
    """`_linear.search` along every row of d that is `going`."""
    blur = 4 * torch.finfo(x.dtype).eps * value.abs()
    slope = dot(gradient, d)
    low = high = slope_high = torch.zeros_like(slope)
    slope_low, t = slope, torch.ones_like(slope)
    best = Found(x, value, gradient, torch.zeros_like(going))
    for _ in range(40):
        new = x + t[:, None] * d
        new_value, new_gradient = loss(new)
        new_slope = dot(new_gradient, d)
        fell = (new_slope <= 0) | (new_value <= value + 1e-4 * t * slope)
        enough = fell | ((new_slope <= -slope / 2) & (new_value <= value + blur))
        met = going & ~best.met & (new_slope >= 0.9 * slope) & enough
        here = met[:, None]
        best = Found(
            torch.where(here, new, best.x),
            torch.where(met, new_value, best.value),
            torch.where(here, new_gradient, best.gradient),
            best.met | met,
        )
        if bool((best.met | ~going).all()):
            break
        short = new_slope < 0.9 * slope
        low, slope_low = torch.where(short, t, low), torch.where(short, new_slope, slope_low)
        high, slope_high = torch.where(short, high, t), torch.where(short, slope_high, new_slope)
        secant = low + (high - low) * slope_low / (slope_low - slope_high)
        margin = 0.1 * (high - low)
        t = torch.where(high == 0, 4 * t, secant.maximum(low + margin).minimum(high - margin))
    return best
