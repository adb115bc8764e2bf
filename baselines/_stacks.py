"""Many small calibration sets of one shape at once: a fit of 80 examples is all overhead, so that 50 cost as much as 2.

A stacked fit takes the steps that each set's own fit would take: only sums are in another order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from calib_bench.baselines._solvers import checked, deviations, root_mean_square
from calib_bench.core.baseline import Params

LARGEST = 1 << 16
"""Logits of a set at most: larger ones gain nothing by company."""
COLUMNS = 64
"""Classes below which rows are too short to reduce fast: they are kept by columns in memory."""


def small(Z_SNK: Tensor) -> bool:
    """Whether sets of this shape are worth stacking."""
    return len(Z_SNK) > 1 and Z_SNK[0].numel() <= LARGEST


def one_by_one(fit: Callable[[Tensor, Tensor], Params], Z_SNK: Tensor, y_SN: Tensor) -> Params:
    """Every set's own fit, each tensor with a leading axis S."""
    return stacked([fit(Z_NK, y_N) for Z_NK, y_N in zip(Z_SNK, y_SN, strict=True)])


def stacked(parts: Sequence[Params]) -> Params:
    """Parameters of S sets, each tensor with a leading axis S."""
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}


def checked_stack(Z_SNK: Tensor, y_SN: Tensor) -> Tensor:
    """`_solvers.checked` of every set.

    Raises:
        UserError: as `checked`.
    """
    S, N, K = Z_SNK.shape
    return checked(Z_SNK.reshape(S * N, K), y_SN.reshape(S * N)).view(S, N, K)


def per_set(values_S: Tensor) -> Tensor:
    """[S, 1, 1], to go with [S, N, K]."""
    return values_S[:, None, None]


def spreads(Z_SNK: Tensor) -> Tensor:
    """`_solvers.spread` of every set, float64 [S]."""
    deviation_SN = deviations(Z_SNK.flatten(0, 1)).view(Z_SNK.shape[:2])
    median_S = deviation_SN.median(1).values
    constant = median_S == 0
    if constant.any():
        median_S[constant] = median_S.new_tensor([root_mean_square(rows) for rows in deviation_SN[constant]])
    return median_S


def cumulants(moments: Sequence[Tensor]) -> list[Tensor]:
    """Cumulants 1, 2, ... from the moments about zero 1, 2, ..., by their recursion."""
    out: list[Tensor] = []
    for n, moment in enumerate(moments):
        for j in range(n):
            moment = torch.addcmul(moment, out[j], moments[n - 1 - j], value=-math.comb(n, j))
        out.append(moment)
    return out


class LogitStack:
    """Logits [S, N, K] less their row's largest, with their labels [S, N]."""

    def __init__(self, Z_SNK: Tensor, y_SN: Tensor) -> None:
        self.shape = Z_SNK.shape
        _, N, K = self.shape
        Z_RK = Z_SNK.reshape(-1, K).double()
        w_RK = Z_RK - Z_RK.amax(1, keepdim=True)
        self.w_RK = w_RK.t().contiguous().t() if K < COLUMNS else w_RK
        self.ones = Z_RK.new_ones(K)
        self.own_SN = w_RK.gather(1, y_SN.reshape(-1, 1)).view(-1, N)

    def floors(self) -> list[float | None]:
        """The limit of each mean log loss of softmax(s Z) as s grows if no label is beaten by another, else None."""
        N = self.shape[1]
        beaten = (self.own_SN < 0).any(1).tolist()
        ties = (self.w_RK == 0).sum(1).double().log().view(-1, N).mean(1).tolist()
        return [None if lost else floor for lost, floor in zip(beaten, ties, strict=True)]

    def derivatives(self, s: Sequence[float], order: int) -> list[list[float]]:
        """Of each set, the mean log loss f(s) of softmax(s Z) and s^n times its nth derivatives, n = 1 to `order`."""
        N = self.shape[1]
        s_S1 = torch.tensor(s, dtype=torch.float64)[:, None]
        w_RK = self.w_RK * s_S1.repeat_interleave(N, 0)
        e_RK = w_RK.exp()
        size_R = e_RK @ self.ones
        moments = [(e_RK.mul_(w_RK) @ self.ones).div_(size_R) for _ in range(order)]
        terms_SD = torch.stack([size_R.log_(), *cumulants(moments)]).view(order + 1, -1, N).sum(2).t()
        terms_SD[:, :2] -= s_S1 * self.own_SN.sum(1, keepdim=True)
        return (terms_SD / N).tolist()
