"""Fits of affine maps of the logits: multinomial logistic regression with a Gaussian prior, to its optimum.

Every family here is base + D x + b, where base are logits already calibrated (temperature scaling), x the features
in units of order one, and (D, b), zero at the start, a departure with the prior's precisions, in units of total log
loss: f(D, b) = sum_n log loss_n + sum precision * departure^2 / 2. It is strictly convex. It is minimized by L-BFGS
whose first metric is an approximate Hessian from a sample of the rows, made again as the fit moves: exact in a small
problem; else exact in a class's own (diagonal weight, intercept) and, in the off-diagonal weights, a Kronecker product
of the classes' and the features' covariances (cf. Martens & Grosse, 2015, arXiv 1503.05671), both inverted exactly with
the prior. A full map starts from the diagonal one. Large problems begin in float32 and finish in float64. Memory is
constant in N.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

SAMPLE = 4096
"""Rows from which the metric is estimated."""
CACHE = 1 << 22
"""Features of so many entries or fewer are kept, larger ones computed anew in every pass."""
ENTRIES = 1 << 15
"""Entries of a block of rows: float64 temporaries of 256 KiB stay in the cache."""
ROWS = 1024
"""Rows of a block at least where they are multiplied by D: products pay for many rows at once."""
LARGE_DIAGONAL, LARGE_FULL = 1 << 22, 1 << 28
"""N K and N K^2 from which a fit begins in float32."""
EXACT_DIAGONAL, EXACT_FULL = 150, 12
"""Classes up to which the metric is the whole Hessian, of 2 K and K^2 + K unknowns."""
TOLERANCE = 1e-12
"""How far the mean log loss may end above its optimum, by the quadratic model."""
REFRESH = 5
"""Steps after which the metric is made anew."""
MEMORY = 10
"""Pairs of steps and gradient changes that L-BFGS keeps."""

Features = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Logits [R, K] -> base [R, K] and x [R, K], in float64."""
Loss = Callable[[Tensor, torch.dtype], tuple[float, Tensor]]
"""Unknowns, dtype to compute in -> value and gradient, float64."""
Solve = Callable[[Tensor], Tensor]
"""Gradient -> the metric's inverse times it."""


@dataclass(frozen=True)
class Precision:
    """Of the prior on each kind of departure, in units of total log loss; all positive."""

    diagonal: float
    intercept: float
    off_diagonal: float = 1.0

    def of_full(self, K: int) -> Tensor:
        """Those of every weight and, in the last column, intercept of a full map: float64 [K, K + 1]."""
        precision = torch.full((K, K + 1), self.off_diagonal, dtype=torch.float64)
        precision.diagonal().fill_(self.diagonal)
        precision[:, K] = self.intercept
        return precision


@dataclass
class Rows:
    """The calibration set as blocks of (base [R, K] with row maxima of zero, x [R, K], y [R, 1])."""

    Z_NK: Tensor
    y_N: Tensor
    features: Features
    least: int = 1
    kept: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def blocks(self, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Every block, base and x in the dtype."""
        if self.Z_NK.numel() > CACHE:
            yield from self._made(dtype)
            return
        if not self.kept or self.kept[0][0].dtype != dtype:
            self.kept = list(self._made(dtype))
        yield from self.kept

    def _made(self, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        step = max(self.least, ENTRIES // self.Z_NK.shape[1], 1)
        for z, y in zip(self.Z_NK.split(step), self.y_N.split(step), strict=True):
            base, x = self.features(z)
            yield (base - base.amax(1, keepdim=True)).to(dtype), x.to(dtype), y[:, None]

    def sample(self) -> tuple[Tensor, Tensor, float]:
        """base [R, K] and x [R, K] of some of the rows, evenly spaced, and how many rows each stands for."""
        stride = -(-len(self.Z_NK) // SAMPLE)
        base, x = self.features(self.Z_NK[::stride])
        return base, x, len(self.Z_NK) / len(x)


def fit_diagonal(
    Z_NK: Tensor, y_N: Tensor, features: Features, prior: Precision, tolerance: float = TOLERANCE
) -> tuple[Tensor, Tensor]:
    """The optimal departures (v [K], b [K]) of logits base + v * x + b, float64."""
    rows, (N, K) = Rows(Z_NK, y_N, features), Z_NK.shape
    precision = torch.tensor([[prior.diagonal], [prior.intercept]], dtype=torch.float64).expand(2, K)

    def loss(theta: Tensor, dtype: torch.dtype) -> tuple[float, Tensor]:
        gradient = precision * theta
        value = float((gradient * theta).sum()) / 2
        v, b = theta.to(dtype)
        for base, x, y in rows.blocks(dtype):
            r, total = residual((base + b).addcmul_(x, v), y)
            value += total
            gradient[1] += r.sum(0)
            gradient[0] += r.mul_(x).sum(0)
        return value, gradient

    base, x, weight = rows.sample()

    def metric(theta: Tensor) -> Solve:
        p = torch.softmax((base + theta[1]).addcmul_(x, theta[0]), 1)
        return diagonal_metric(p, x, weight, precision)

    v, b = minimize(loss, torch.zeros(2, K, dtype=torch.float64), metric, tolerance * N, N * K > LARGE_DIAGONAL)
    return v, b


def fit_full(Z_NK: Tensor, y_N: Tensor, features: Features, prior: Precision) -> tuple[Tensor, Tensor]:
    """The optimal departures (D [K, K], b [K]) of logits base + D x + b, float64."""
    N, K = Z_NK.shape
    rows = Rows(Z_NK, y_N, features, least=ROWS)
    precision = prior.of_full(K)
    start = torch.zeros_like(precision)
    v, b = fit_diagonal(Z_NK, y_N, features, prior, tolerance=1e-6)
    start.diagonal().copy_(v)
    start[:, K] = b

    def loss(theta: Tensor, dtype: torch.dtype) -> tuple[float, Tensor]:
        gradient = precision * theta
        value = float((gradient * theta).sum()) / 2
        D, b = theta[:, :K].to(dtype), theta[:, K].to(dtype)
        for base, x, y in rows.blocks(dtype):
            r, total = residual((base + b).addmm_(x, D.T), y)
            value += total
            gradient[:, :K] += r.T @ x
            gradient[:, K] += r.sum(0)
        return value, gradient

    base, x, weight = rows.sample()
    basis = torch.linalg.eigh((x.T @ x / len(x)).float()) if K > EXACT_FULL else None

    def metric(theta: Tensor) -> Solve:
        p = torch.softmax((base + theta[:, K]).addmm_(x, theta[:, :K].T), 1)
        return kronecker_metric(p, x, weight, precision, *basis) if basis else full_metric(p, x, weight, precision)

    theta = minimize(loss, start, metric, TOLERANCE * N, N * K * K > LARGE_FULL)
    return theta[:, :K].clone(), theta[:, K].clone()


def residual(logits_RK: Tensor, y_R1: Tensor) -> tuple[Tensor, float]:
    """softmax - one-hot [R, K] and the total log loss."""
    logp = torch.log_softmax(logits_RK, 1)
    total = -float(logp.gather(1, y_R1).sum(dtype=torch.float64))
    r = logp.exp_()
    return r.scatter_add_(1, y_R1, -torch.ones_like(r[:, :1])), total


def diagonal_metric(p: Tensor, x: Tensor, weight: float, precision: Tensor) -> Solve:
    """Of weights v and intercepts b, gradients and precisions [2, K]: the Hessian, or each class's block of it."""
    K = p.shape[1]
    if K <= EXACT_DIAGONAL:
        u = torch.cat([p * x, p], 1)
        H = (u.T @ u).mul_(-weight)
        cross = weight * u[:, :K].sum(0)
        H.diagonal().add_(torch.cat([weight * (u[:, :K] * x).sum(0), weight * p.sum(0)]) + precision.flatten())
        H.diagonal(K).add_(cross)
        H.diagonal(-K).add_(cross)
        return cholesky(H)
    q = weight * p * (1 - p)
    qx = q * x
    aa, ab, bb = (qx * x).sum(0) + precision[0], qx.sum(0), q.sum(0) + precision[1]
    determinant = (aa * bb - ab.square()).maximum(1e-14 * aa * bb)
    return lambda g: torch.stack([(bb * g[0] - ab * g[1]) / determinant, (aa * g[1] - ab * g[0]) / determinant])


def full_metric(p: Tensor, x: Tensor, weight: float, precision: Tensor) -> Solve:
    """The Hessian of all K (K + 1) unknowns; gradients and precisions [K, K + 1]."""
    K = p.shape[1]
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    u = (p[:, :, None] * x[:, None, :]).flatten(1)
    H = (u.T @ u).mul_(-weight)
    blocks = (u.T @ x).mul_(weight).view(K, K + 1, K + 1)
    torch.einsum("kikj->kij", H.view(K, K + 1, K, K + 1)).add_(blocks)
    H.diagonal().add_(precision.flatten())
    return cholesky(H)


def kronecker_metric(p: Tensor, x: Tensor, weight: float, precision: Tensor, s: Tensor, V: Tensor) -> Solve:
    """Diagonal weights and intercepts by `diagonal_metric`; off-diagonal ones by cov(y) (x) E[x x'] + precision.

    s and V are the eigenvalues and vectors of E[x x'], float32 as suffices for a metric.
    """
    K = p.shape[1]
    diagonals = diagonal_metric(p, x, weight, torch.stack([precision.diagonal(), precision[:, K]]))
    p = p.float()
    a, U = torch.linalg.eigh(torch.diag(p.sum(0)).addmm_(p.T, p, alpha=-1))
    scale = weight * a.clamp(min=0)[:, None] * s.clamp(min=0) + precision[0, 1]

    def solve(g: Tensor) -> Tensor:
        off = g[:, :K].float()
        off.diagonal().zero_()
        off = U @ ((U.T @ off @ V) / scale) @ V.T
        out = torch.cat([off.to(g.dtype), g[:, K:]], 1)
        out.diagonal()[:], out[:, K] = diagonals(torch.stack([g.diagonal(), g[:, K]]))
        return out

    return solve


def cholesky(H: Tensor) -> Solve:
    """The inverse of a positive definite matrix, as a map of tensors of any shape."""
    jitter = float(H.diagonal().mean()) * 1e-14
    L, failed = torch.linalg.cholesky_ex(H)
    while failed:  # rounding of features with a large common shift; any metric will do
        jitter *= 10
        L, failed = torch.linalg.cholesky_ex(H + jitter * torch.eye(len(H), dtype=H.dtype))
    return lambda g: torch.cholesky_solve(g.reshape(-1, 1), L).view_as(g)


def minimize(loss: Loss, x: Tensor, metric: Callable[[Tensor], Solve], tolerance: float, large: bool) -> Tensor:
    """The minimizer of a smooth, strictly convex loss, from x, until about so much is left to gain: g' B^-1 g / 2.

    Args:
        large: whether to begin in float32, until its rounding hides the decrease.
    """
    pairs: list[tuple[Tensor, Tensor]] = []
    solve = metric(x)
    phases = [(torch.float32, max(tolerance, 1e-6))] if large else []
    for dtype, enough in (*phases, (torch.float64, tolerance)):
        value, gradient = loss(x, dtype)
        for step in range(1000):
            if step and step % REFRESH == 0:
                solve = metric(x)
            d = direction(gradient, pairs, solve)
            if -float((gradient * d).sum()) / 2 <= enough:
                break
            progress = search(loss, x, value, gradient, d, dtype)
            if progress is None:  # rounding leaves no decrease to find
                break
            new, value, changed = progress
            pairs = [*pairs[1 - MEMORY :], ((new - x).to(dtype), (changed - gradient).to(dtype))]
            x, gradient = new, changed
    return x


def direction(gradient: Tensor, pairs: list[tuple[Tensor, Tensor]], solve: Solve) -> Tensor:
    """-B^-1 gradient, B the metric updated by the pairs (Nocedal & Wright, 2006, algorithm 7.4)."""
    q = gradient.clone()
    used = []
    for s, y in reversed(pairs):
        rho = 1 / float((s * y).sum(dtype=torch.float64))
        alpha = rho * float((s * q).sum())
        q.sub_(y, alpha=alpha)
        used.append((s, y, rho, alpha))
    r = solve(q)
    for s, y, rho, alpha in reversed(used):
        r.add_(s, alpha=alpha - rho * float((y * r).sum()))
    return r.neg_()


def search(
    loss: Loss, x: Tensor, value: float, gradient: Tensor, d: Tensor, dtype: torch.dtype
) -> tuple[Tensor, float, Tensor] | None:
    """The point x + t d, its value and gradient, where the loss fell and its slope did; None if there is no such t.

    The slope along d rises with t, the loss being convex, so its sign decides where rounding blurs the value.
    """
    blur = 4 * torch.finfo(dtype).eps * abs(value)
    slope = float((gradient * d).sum())
    low, slope_low, high, slope_high, t = 0.0, slope, 0.0, 0.0, 1.0
    for _ in range(40):
        new = x + t * d
        new_value, new_gradient = loss(new, dtype)
        new_slope = float((new_gradient * d).sum())
        fell = new_slope <= 0 or new_value <= value + 1e-4 * t * slope
        if new_slope >= 0.9 * slope and (fell or (new_slope <= -slope / 2 and new_value <= value + blur)):
            return new, new_value, new_gradient
        if new_slope < 0.9 * slope:
            low, slope_low = t, new_slope
        else:
            high, slope_high = t, new_slope
        if not high:
            t *= 4
        else:
            secant = low + (high - low) * slope_low / (slope_low - slope_high)
            t = min(max(secant, low + 0.1 * (high - low)), high - 0.1 * (high - low))
    return None
