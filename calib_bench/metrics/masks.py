"""Classes that a row does not offer, and what stands for them in logits.

Multiple-choice questions with unequal numbers of options, legal moves, labels of a subset: a class that is not offered
holds -inf or, as `masked_fill` leaves it, a number far below every other: -1e4, -1e9, the least number of a type. All
of them are the same statement, so that they are all read as -inf: probability zero, now and after every calibrator.
A graph that `torch.export` makes cannot look at numbers before it goes on: there only -inf itself is such a class.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SHALLOWEST = -9000.0
"""The highest number that may stand for a class that is not offered."""
APART = 10.0
"""A mask is at least so many times as far from zero as every other logit of its row."""
DEEP = 500.0
"""How far below its row's largest a logit is that may stand for a class not offered, if a gap sets it apart."""
SEVERAL = 8
"""Rows that must hold such numbers where they are not one and the same: fewer may be outliers of ordinary logits."""
TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@functools.cache
def constants() -> Tensor:
    """Numbers that stand for a class that is not offered, as any floating type holds them: float64, increasing.

    Leading digits 1 to 9 times a power of ten from 1e4 (-1e4, -5e4, -1e9, -1e30), nines (-9999), the least number of a
    type, its half and 0.7 of it (what attention masks of Transformer libraries are made of), and powers of two of
    integer types.
    """
    least = [-torch.finfo(dtype).max for dtype in TYPES]
    values = [-digit * 10.0**power for power in range(4, 308) for digit in range(1, 10)]
    values += [1 - 10.0**power for power in range(4, 16)]
    values += [-(2.0**power) + one for power in (15, 16, 31, 32, 63) for one in (0, 1)]
    values += [share * value for value in least for share in (1.0, 0.7, 0.5)]
    exact = torch.tensor(values, dtype=torch.float64)
    rounded = torch.cat([exact.to(dtype).double() for dtype in TYPES])
    return rounded[rounded.isfinite()].unique()


def offered(Z_NK: Tensor) -> Tensor:
    """The logits [..., K] with -inf for every class that its row does not offer; the very tensor if nothing changes.

    A row's lowest finite logit is a mask where it is one of `constants` and every logit above it is less than a tenth
    as far from zero. The rule looks at one row only, so that a row means the same in any company.
    """
    if torch.compiler.is_exporting() or not bool(Z_NK.amin() <= SHALLOWEST):  # nor where it is NaN
        return Z_NK
    constants_C = constants().to(Z_NK.device)
    while True:
        finite_NK = Z_NK.masked_fill(Z_NK.isinf(), 0.0)
        low_N1 = finite_NK.amin(-1, keepdim=True)
        at = torch.searchsorted(constants_C, low_N1.double().contiguous()).clamp_(max=len(constants_C) - 1)
        masked_NK = (low_N1 == Z_NK) & (low_N1 <= SHALLOWEST) & (constants_C[at] == low_N1.double())
        rest_N1 = finite_NK.masked_fill_(masked_NK, 0.0).abs().amax(-1, keepdim=True)
        left_N1 = (~masked_NK & ~Z_NK.isneginf()).any(-1, keepdim=True)
        masked_NK &= (rest_N1 <= low_N1.abs() / APART) & left_N1
        if not bool(masked_NK.any()):
            return Z_NK
        Z_NK = Z_NK.masked_fill(masked_NK, -torch.inf)


def set_apart(Z_NK: NDArray[Any], y_N: NDArray[Any]) -> NDArray[Any]:
    """-inf for logits so far below all others of the file that they stand for nothing else; labels have none.

    They are at least DEEP below their row's largest, ten times as far as any other, one number in two rows or, in
    SEVERAL, alike to a tenth: a constant that no library uses, or a large negative number that was added or normalized.
    """
    low = Z_NK.min(1)
    if not (Z_NK.max(1) - low > DEEP).any():
        return Z_NK
    below = np.where(np.isneginf(Z_NK), 0.0, Z_NK.astype(np.float64) - Z_NK.max(1, keepdims=True))
    deep = below < -DEEP
    if not deep.any():
        return Z_NK
    values = Z_NK[deep]
    alike = float(values.max()) - float(values.min()) <= 0.1 * abs(float(np.median(values)))
    apart = float(below[deep].max()) <= 10 * float(below[~deep].min())
    label = deep[np.arange(len(y_N)), y_N].any()
    rows = int(deep.any(1).sum())
    enough = rows > 1 if len(np.unique(values)) == 1 else rows >= SEVERAL
    if alike and apart and not label and enough:
        return np.where(deep, -np.inf, Z_NK)
    return Z_NK


def masked(Z_NK: Tensor) -> Tensor | None:
    """Where logits, as `offered` leaves them, are -inf: bool [..., K]; None if nowhere, or, exporting, never None."""
    if torch.compiler.is_exporting() or bool(Z_NK.amin() == -torch.inf):
        return Z_NK.isneginf()
    return None


def any_masked(Z_NK: Tensor) -> bool:
    """Whether some class is not offered somewhere."""
    return masked(offered(Z_NK)) is not None


def without(logits_NK: Tensor, Z_NK: Tensor) -> Tensor:
    """The logits, normalized or not, with -inf where Z has it."""
    where_NK = masked(Z_NK)
    return logits_NK if where_NK is None else logits_NK.masked_fill(where_NK, -torch.inf)


def zeroed(Z_NK: Tensor) -> Tensor:
    """The logits with 0 in place of -inf: a feature that says nothing."""
    where_NK = masked(Z_NK)
    return Z_NK if where_NK is None else Z_NK.masked_fill(where_NK, 0.0)


def depth_of_zeros(Z_NK: Tensor, y_N: Tensor) -> float | None:
    """How far below its row's largest logit a zero probability is taken; None where no label has one.

    A class whose label occurs was offered: its zero is a small probability that was not kept, taken as half the
    smallest one that was, or, where only 0 and 1 are, as half of one example's share.
    """
    N, K = Z_NK.shape
    if y_N.shape != (N,) or N == 0 or bool(y_N.min() < 0) or bool(y_N.max() >= K):
        return None  # to be refused by the calibrator, in its words
    if not bool(Z_NK.gather(1, y_N[:, None]).amin() <= SHALLOWEST):
        return None
    Z_NK = offered(Z_NK)
    if not bool(Z_NK.gather(1, y_N[:, None]).isneginf().any()):
        return None
    below_NK = Z_NK.double() - Z_NK.double().amax(1, keepdim=True)
    deepest = -float(below_NK.masked_fill(below_NK.isneginf(), 0.0).amin())
    return deepest + math.log(2) if 0 < deepest < math.inf else math.log(2 * (N + 1))


def raised(Z_NK: Tensor, depth: float) -> Tensor:
    """The logits with -inf raised to `depth` below the row's largest."""
    Z_NK = offered(Z_NK)
    return torch.where(Z_NK.isneginf(), Z_NK.amax(-1, keepdim=True) - depth, Z_NK)
