"""Temperature scaling: softmax(Z / T), one temperature T > 0 (Guo, Pleiss, Sun & Weinberger, 2017, arXiv 1706.04599).

T minimizes the mean log loss f(s) of softmax(s Z), convex in s = 1/T, by Newton's method on log s inside a bracket,
with f' = mean(E_p[z] - z_y) and f'' = mean(Var_p[z]) exact, streamed over rows and summed in float64.

Two kinds of data have no optimum, and end at a bound with `at_bound` set:
- no example's label is beaten by another class (separable): f falls for ever as T -> 0. T is where f is still
  1 / (N + 2) above its limit, as much confidence as N examples all right support by Laplace's rule of succession.
- the logits say nothing, or the opposite of the truth: f falls as T -> infinity. T is 1000 times the logits' spread.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from calib_bench.baseline import Calibrator
from calib_bench.baselines._solvers import Params, blocks, checked, spread

SAMPLE = 4096
"""Rows of the sample on which a longer fit is first made, to start close."""


class Loss(NamedTuple):
    """f(s) = mean log loss of softmax(s Z), and its derivatives in s."""

    f: float
    d1: float
    d2: float


def loss(Z_NK: Tensor, y_N: Tensor, s: float) -> Loss:
    """f, f' and f'' at s, one pass over the rows."""
    f = d1 = d2 = 0.0
    for z, y in blocks(Z_NK, y_N):
        z = z - z.amax(1, keepdim=True)
        z_y = z.gather(1, y[:, None])[:, 0]
        e = (s * z).exp_()
        total = e.sum(1)
        mean = e.mul_(z).sum(1) / total
        second = e.mul_(z).sum(1) / total
        f += float((total.log() - s * z_y).sum())
        d1 += float((mean - z_y).sum())
        d2 += float((second - mean.square()).sum())
    N = len(y_N)
    return Loss(f / N, d1 / N, max(d2 / N, 0.0))


def floor_of(Z_NK: Tensor, y_N: Tensor) -> float | None:
    """The limit of f(s) as s grows if no label is beaten by another class, else None."""
    total = 0.0
    for z, y in blocks(Z_NK, y_N):
        top = z.amax(1, keepdim=True)
        if (z.gather(1, y[:, None]) < top).any():
            return None
        total += float((z == top).sum(1).double().log().sum())
    return total / len(y_N)


def solve(Z_NK: Tensor, y_N: Tensor, u: float, low: float, high: float, floor: float | None) -> tuple[float, Loss, int]:
    """log s, the loss there and the passes it took: Newton on a function that increases with u = log s, in [low, high].

    The function is f'; on separable data, the bound on f - floor stands in for it, on a log scale, where it is nearly
    linear in s.
    """
    N, K = Z_NK.shape
    target = math.log(min(1 / (N + 2), (math.log(K) - (floor or 0.0)) / 2))
    bound = low
    for step in range(1, 101):  # noqa: B007
        s = math.exp(u)
        at = loss(Z_NK, y_N, s)
        if floor is None:
            value, slope = at.d1, s * at.d2
        else:
            excess = max(at.f - floor, 1e-300)
            value, slope = target - math.log(excess), -s * at.d1 / excess
        new = u - value / slope if slope > 0 else math.nan
        if value == 0 or abs(new - u) <= 1e-9 or (value > 0 and u == bound):
            break
        low, high = (low, u) if value > 0 else (u, high)
        if not low < new < high:
            new = bound if new <= low == bound else (low + high) / 2
        u = new
    return u, at, step


def fit_temperature(Z_NK: Tensor, y_N: Tensor) -> Params:
    """Fits T to logits [N, K] and labels [N].

    Returns:
        temperature; gradient, df/ds at the end; iterations, passes over all rows; at_bound, whether the data have no
        optimum, see above. Each is [], in float64, int64 and bool.

    Raises:
        UserError: NaN or +inf logits, or labels that do not match.
    """
    Z_NK = checked(Z_NK, y_N)
    stride = max(1, len(Z_NK) // SAMPLE)
    floor = floor_of(Z_NK, y_N)
    if floor is not None and math.log(Z_NK.shape[1]) - floor < 1e-12:  # constant logits: every T is the same
        return _params(0.0, Loss(floor, 0.0, 0.0), 0, True)
    scale = spread(Z_NK[::stride])
    low, high = math.log(1e-3 / scale), math.log(1e12 / scale)
    u = min(max(0.0, low), high)
    if stride > 4:
        sample = Z_NK[::stride], y_N[::stride]
        u, _, _ = solve(*sample, u, low, high, floor_of(*sample))
    u, at, steps = solve(Z_NK, y_N, u, low, high, floor)
    return _params(u, at, steps, floor is not None or u == low)


def _params(u: float, at: Loss, steps: int, at_bound: bool) -> Params:
    return {
        "temperature": torch.tensor(math.exp(-u), dtype=torch.float64),
        "gradient": torch.tensor(at.d1, dtype=torch.float64),
        "iterations": torch.tensor(steps),
        "at_bound": torch.tensor(at_bound),
    }


def apply_temperature(params: Params, Z_NK: Tensor) -> Tensor:
    """log softmax(Z / T), float64 [N, K]."""
    return torch.log_softmax(checked(Z_NK).double() / params["temperature"], 1)


BASELINE = Calibrator(
    fit_temperature, apply_temperature, keeps_argmax=True, reference="guo2017", title="Temperature scaling"
)
