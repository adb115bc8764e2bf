"""What calibrators share: checking of logits, scores of one class against the rest, and convex solvers in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from calib_bench.errors import UserError

Params = dict[str, Tensor]

BLOCK = 1 << 15
"""Entries of a block of rows: float64 temporaries of 256 KiB stay in the cache."""
FLOOR = 800.0
"""A zero probability (logit -inf) enters a fit this far below its row's largest: exp(-800) is zero in float64."""


def checked(Z_NK: Tensor, y_N: Tensor | None = None) -> Tensor:
    """The logits with -inf raised to FLOOR below the row's largest; the labels are only checked.

    Raises:
        UserError: no rows, fewer than two classes, labels of another length or out of range, or NaN or +inf logits.
    """
    if Z_NK.ndim != 2 or len(Z_NK) == 0 or Z_NK.shape[1] < 2:
        raise UserError(f"A calibrator needs logits [N, K] with N >= 1 and K >= 2, not shape {tuple(Z_NK.shape)}.")
    if not Z_NK.is_floating_point():
        raise UserError(f"A calibrator needs floating-point logits, not {Z_NK.dtype}.")
    N, K = Z_NK.shape
    if y_N is not None and (y_N.shape != (N,) or y_N.min() < 0 or y_N.max() >= K):
        raise UserError(f"A calibrator needs {N} labels from 0 to {K - 1}, one for each row of logits.")
    if Z_NK.sum().isfinite():  # then every entry is: one fast pass
        return Z_NK
    top_N1 = Z_NK.amax(1, keepdim=True)
    if not top_N1.isfinite().all():
        raise UserError("Logits contain NaN or +inf (or a row of -inf only): a diverged model cannot be calibrated.")
    if Z_NK.amin().isinf():
        return torch.where(Z_NK.isinf(), top_N1 - FLOOR, Z_NK)
    return Z_NK


def blocks(Z_NK: Tensor, y_N: Tensor, entries: int = BLOCK) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of rows (logits in float64 [R, K], labels [R]): memory stays constant in N."""
    step = max(1, entries // Z_NK.shape[1])
    for start in range(0, len(Z_NK), step):
        yield Z_NK[start : start + step].double(), y_N[start : start + step]


def spread(Z_NK: Tensor) -> float:
    """Root mean square of the logits about their row's mean; 1 if they are constant. The unit of every prior here."""
    step = max(1, BLOCK // Z_NK.shape[1])
    total = 0.0
    for z in Z_NK.split(step):
        total += float(z.double().var(1, correction=0).sum())
    return (total / len(Z_NK)) ** 0.5 or 1.0


def log_odds(Z_NK: Tensor) -> Tensor:
    """log p_k / (1 - p_k) = z_k - logsumexp of the other logits, float64 [N, K]; for K = 2 it is +-(z1 - z0).

    Accurate also where p_k rounds to 0 or 1, and unchanged by a shift of a row. Rounded to 41 bits, so that scores that
    are equal but for the rounding of their rows stay ties.
    """
    Z = Z_NK.double()
    if Z.shape[1] == 2:
        return _rounded(Z - Z.flip(1))
    top_N1, arg_N1 = Z.max(1, keepdim=True)
    Z = Z - top_N1
    e_NK = Z.exp()
    others_N1 = e_NK.scatter(1, arg_N1, 0.0).sum(1, keepdim=True)
    top_odds_N1 = -others_N1.log()
    vanished = (others_N1 < 1e-290)[:, 0]
    if vanished.any():
        top_odds_N1[vanished] = -Z[vanished].scatter(1, arg_N1[vanished], -torch.inf).logsumexp(1, keepdim=True)
    odds_NK = Z - (1 + others_N1 - e_NK).clamp_(min=0.25).log_()  # below the top, p_k <= 1/2: no cancellation
    return _rounded(odds_NK.scatter_(1, arg_N1, top_odds_N1))


def _rounded(x: Tensor) -> Tensor:
    """float64 rounded to 41 bits (Veltkamp's splitting)."""
    scaled = x * 4097.0
    return scaled - (scaled - x)


def mix_uniform(q_NK: Tensor, share: Tensor) -> Tensor:
    """log of (1 - share) q / sum(q) + share / K: finite, rows normalized. A row of zeros becomes uniform."""
    total_N1 = q_NK.sum(1, keepdim=True)
    K = q_NK.shape[1]
    p_NK = torch.where(total_N1 > 0, q_NK / total_N1.clamp(min=1e-300), 1 / K)
    return torch.log_softmax(((1 - share) * p_NK + share / K).log(), 1)


def newton(
    f: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], x: Tensor, tolerance: float = 1e-12, steps: int = 100
) -> Tensor:
    """Minimizer of a smooth, strictly convex f, by Newton's method with step halving.

    Args:
        f: x [P] -> value, gradient [P], Hessian [P, P], positive definite.
        x: start, float64.
        tolerance: stop once half the squared Newton decrement, the decrease still to come, is below it.
    """
    value, gradient, hessian = f(x)
    for _ in range(steps):
        step = torch.cholesky_solve(gradient[:, None], torch.linalg.cholesky(hessian))[:, 0]
        decrement = float(gradient @ step)
        if decrement / 2 <= tolerance:
            break
        rate = 1.0
        while True:
            trial = f(x - rate * step)
            if trial[0] <= value - 0.25 * rate * decrement:
                break
            rate /= 2
            if rate < 1e-8:  # rounding leaves no decrease to find
                return x
        x = x - rate * step
        value, gradient, hessian = trial
    return x


def lbfgs(
    f: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor, curvature: Tensor, tolerance: float, steps: int = 200
) -> Tensor:
    """Minimizer of a smooth convex f (x [P] -> value, gradient [P]) by limited-memory BFGS, for large P.

    Args:
        curvature: about the diagonal of the Hessian [P], positive; unknowns are scaled by its root.
        tolerance: stop once no entry of the scaled gradient is larger; its square is about twice the decrease to come.
    """
    from scipy.optimize import minimize

    root = curvature.sqrt()

    def scaled(v: object) -> tuple[float, object]:
        value, gradient = f(torch.as_tensor(v) / root)
        return float(value), (gradient / root).numpy()

    options = {"maxiter": steps, "maxcor": 10, "ftol": 1e-12, "gtol": tolerance}
    found = minimize(scaled, (x * root).numpy(), jac=True, method="L-BFGS-B", options=options)
    return torch.as_tensor(found.x) / root
