"""What calibrators share: checking of logits, their spread, scores of one class against the rest, in float64."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from calib_bench.errors import UserError
from calib_bench.metrics import masks

BLOCK = 1 << 15
"""Entries of a block of rows: float64 temporaries of 256 KiB stay in the cache."""


def checked(Z_NK: Tensor, y_N: Tensor | None = None) -> Tensor:
    """The logits with -inf for classes that a row does not offer; the labels are only checked.

    Where a label has -inf, which then cannot mean that, all -inf are raised (`masks.depth_of_zeros`).

    Raises:
        UserError: no rows, fewer than two classes, labels of another length or out of range, or NaN or +inf logits.
    """
    if torch.compiler.is_exporting():  # a graph cannot look at shapes and numbers
        return Z_NK
    _check_shapes(Z_NK, y_N)
    low, high = Z_NK.aminmax()
    if low > masks.SHALLOWEST and high < torch.inf:  # every entry is finite and offered: one fast pass
        return Z_NK
    Z_NK = masks.offered(Z_NK)
    if not Z_NK.amax(1).isfinite().all():
        raise UserError("Logits contain NaN or +inf (or a row of -inf only): a diverged model cannot be calibrated.")
    depth = masks.depth_of_zeros(Z_NK, y_N) if y_N is not None else None
    return Z_NK if depth is None else masks.raised(Z_NK, depth)


def _check_shapes(Z_NK: Tensor, y_N: Tensor | None) -> None:
    if Z_NK.ndim != 2 or len(Z_NK) == 0 or Z_NK.shape[1] < 2:
        raise UserError(f"A calibrator needs logits [N, K] with N >= 1 and K >= 2, not shape {tuple(Z_NK.shape)}.")
    if not Z_NK.is_floating_point():
        raise UserError(f"A calibrator needs floating-point logits, not {Z_NK.dtype}.")
    N, K = Z_NK.shape
    if y_N is not None and (y_N.shape != (N,) or y_N.min() < 0 or y_N.max() >= K):
        raise UserError(f"A calibrator needs {N} labels from 0 to {K - 1}, one for each row of logits.")


def blocks(Z_NK: Tensor, y_N: Tensor, entries: int = BLOCK) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of rows (logits in float64 [R, K], labels [R]): memory stays constant in N."""
    step = max(1, entries // Z_NK.shape[1])
    for start in range(0, len(Z_NK), step):
        yield Z_NK[start : start + step].double(), y_N[start : start + step]


def deviations(z_RK: Tensor) -> Tensor:
    """Standard deviation of each row's offered logits, float64 [R]; exact also where squares overflow."""
    return moments(z_RK.double(), 1)[1][:, 0]


def spread(Z_NK: Tensor) -> float:
    """Median over rows of the standard deviation of a row's offered logits; 1 if they are constant.

    The unit of every prior here. Neither masks nor a few wild rows enter it; where most rows are constant, their root
    mean square stands in.
    """
    step = max(1, BLOCK // Z_NK.shape[1])
    deviation_N = torch.cat([deviations(z) for z in Z_NK.split(step)])
    return float(deviation_N.median()) or root_mean_square(deviation_N)


def moments(x_NK: Tensor, axis: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the finite entries along an axis, which is kept; exact where squares overflow.

    An axis without finite entries has mean 0 and deviation 0.
    """
    centre, unit = x_NK.mean(axis, keepdim=True), x_NK.std(axis, correction=0, keepdim=True)
    if bool(unit.isfinite().all()):
        return centre, unit
    counted_NK = x_NK.isfinite()
    number = counted_NK.sum(axis, keepdim=True).clamp(min=1)
    largest = finite(x_NK).abs().amax(axis, keepdim=True).clamp(min=1.0)
    u_NK = finite(x_NK) / largest
    centre = u_NK.sum(axis, keepdim=True) / number
    squares = (u_NK - centre).masked_fill(~counted_NK, 0.0).square().sum(axis, keepdim=True)
    return centre * largest, (squares / number).sqrt() * largest


def finite(x: Tensor) -> Tensor:
    """The numbers with 0 in place of infinities; the very tensor if there are none."""
    infinite = x.isinf()
    return x.masked_fill(infinite, 0.0) if torch.compiler.is_exporting() or bool(infinite.any()) else x


def root_mean_square(values_N: Tensor) -> float:
    """The root mean square, without overflow; 1 if all are zero."""
    unit = float(values_N.max())
    return unit * float((values_N / unit).square().mean()) ** 0.5 if unit > 0 else 1.0


def log_odds(Z_NK: Tensor) -> Tensor:
    """log p_k / (1 - p_k) = z_k - logsumexp of the other logits, float64 [N, K]; for K = 2 it is +-(z1 - z0).

    Accurate also where p_k rounds to 0 or 1, and unchanged by a shift of a row. Rounded to 41 bits, so that scores that
    are equal but for the rounding of their rows stay ties. A class that its row does not offer has -inf, the only one
    that is offered +inf.
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
    if torch.compiler.is_exporting():
        rest_N1 = -Z.scatter(1, arg_N1, -torch.inf).logsumexp(1, keepdim=True)
        top_odds_N1 = torch.where(vanished[:, None], rest_N1, top_odds_N1)
    elif vanished.any():
        top_odds_N1[vanished] = -Z[vanished].scatter(1, arg_N1[vanished], -torch.inf).logsumexp(1, keepdim=True)
    odds_NK = Z - (1 + others_N1 - e_NK).clamp_(min=0.25).log_()  # below the top, p_k <= 1/2: no cancellation
    return _rounded(odds_NK.scatter_(1, arg_N1, top_odds_N1))


def _rounded(x: Tensor) -> Tensor:
    """float64 rounded to 41 bits (Veltkamp's splitting); infinite and enormous numbers as they are."""
    scaled = x * 4097.0
    out = scaled - (scaled - x)
    return (
        out
        if not torch.compiler.is_exporting() and bool(out.isfinite().all())
        else torch.where(scaled.isfinite(), out, x)
    )


def mix_uniform(q_NK: Tensor, share: Tensor, where_NK: Tensor | None = None) -> Tensor:
    """log of (1 - share) q / sum(q) + share / K: finite, rows normalized. A row of zeros becomes uniform.

    Args:
        where_NK: classes that their row does not offer, from `masks.masked`: they get -inf, and K counts the others.
    """
    K: int | Tensor = q_NK.shape[1]
    if where_NK is not None:
        q_NK, K = q_NK.masked_fill(where_NK, 0.0), (~where_NK).sum(1, keepdim=True).double()
    total_N1 = q_NK.sum(1, keepdim=True)
    p_NK = torch.where(total_N1 > 0, q_NK / total_N1.clamp(min=1e-300), 1 / K)
    logp_NK = ((1 - share) * p_NK + share / K).log()
    return torch.log_softmax(logp_NK if where_NK is None else logp_NK.masked_fill(where_NK, -torch.inf), 1)


def with_answers_of(Z_NK: Tensor, logp_NK: Tensor) -> Tensor:
    """Log probabilities, written in place, whose largest is that of the largest logit alone.

    For maps that keep the order of the classes, where rounding undoes that or makes equals of them: the largest is
    raised by its last digit.
    """
    top_N1 = logp_NK.amax(1, keepdim=True)
    return logp_NK.scatter_(1, Z_NK.argmax(1, keepdim=True), top_N1.nextafter(torch.zeros_like(top_N1)))


def uniform_share(y_N: Tensor) -> Tensor:
    """The uniform's share 1 / (N + 1), float64 []: as if one more example had been seen, of every label at once."""
    return torch.tensor(1 / (len(y_N) + 1), dtype=torch.float64)
