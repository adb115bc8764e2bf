"""Temperature scaling: softmax(Z / T), one temperature T > 0 (Guo, Pleiss, Sun & Weinberger, 2017, arXiv 1706.04599).

T minimizes the mean log loss f(s) of softmax(s Z), convex in s = 1/T. A pass over the rows, in float64 whatever the
logits' type, gives f and its first derivatives exactly: they are the means over rows of the cumulants of Z under p.
Their Taylor series of f' is solved for the next s, inside a bracket, so that a fit that starts close, from a sample,
takes one or two passes.

Two kinds of data have no optimum, and end at a bound with `at_bound` set:
- no example's label is beaten by another class (separable): f falls for ever as T -> 0. T is where f is still
  1 / (N + 2) above its limit, as much confidence as N examples all right support by Laplace's rule of succession.
- the logits say nothing, or the opposite of the truth: f falls as T -> infinity. T is 1000 times the logits' standard
  deviation about their row's mean.

Classes that a row does not offer (`masks`) are no part of it: f is the log loss among those that it does.

When: always first; one number hardly overfits, and no answer changes. Cost: one number, a few passes over N K logits.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from calib_bench.baselines._root_search import ANY, TOLERANCE, Root, steps, together
from calib_bench.baselines._solvers import blocks, checked, deviations, root_mean_square
from calib_bench.baselines._stacks import LogitStack, checked_stack, cumulants, one_by_one, small, stacked
from calib_bench.core.baseline import Calibrator, Params
from calib_bench.metrics import masks

BLOCK = 1 << 16
"""Entries of a block of rows: two float64 temporaries of it stay in the cache."""
KEPT = 1 << 21
"""Logits of at most so many entries are kept in float64 between passes."""
SAMPLES = (512, 8192)
"""Rows of the samples on which a longer fit is made first, to start close."""
LOWEST = -1e300
"""Where -inf, and what overflows, enters a pass: its exponential is zero, and zero times it is zero."""
ORDER = 5
"""Derivatives of f that a pass computes."""


class Loss(NamedTuple):
    """f(s) = mean log loss of softmax(s Z), and its derivatives in s."""

    f: float
    d1: float
    d2: float


class Logits:
    """Logits [N, K] with their labels [N], read in float64 blocks of rows."""

    def __init__(self, Z_NK: Tensor, y_N: Tensor) -> None:
        self.Z, self.y, (self.n, K) = Z_NK, y_N, Z_NK.shape
        self.step = max(1, BLOCK // K)
        self.ones = torch.ones(K, dtype=torch.float64, device=Z_NK.device)
        self.room = self._room()
        self.kept = [w.clone() for w in self._below()] if self.n * K <= KEPT else None
        self.deep = max(-float(Z_NK.amin()), float(Z_NK.amax())) > 1e100

    def _room(self) -> Tensor:
        """Room for a block: by columns in memory where rows are too short to reduce fast."""
        shape = min(self.step, self.n), len(self.ones)
        if shape[1] < 64:
            return self.ones.new_empty(shape[::-1]).t()
        return self.ones.new_empty(shape)

    def _below(self) -> Iterator[Tensor]:
        room = self._room()
        for Z in self.Z.split(self.step):
            z = room[: len(Z)].copy_(Z)
            yield z.sub_(z.amax(1, keepdim=True))

    def blocks(self, s: float) -> Iterator[tuple[Tensor, Tensor]]:
        """w = s (z - max z) [R, K], to be used up, and the labels [R]."""
        scaled = (z.mul_(s) for z in self._below()) if self.kept is None else (s * z for z in self.kept)
        return zip(scaled, self.y.split(self.step), strict=True)

    def derivatives(self, s: float) -> list[float]:
        """f and s^n times its nth derivatives, n = 1 to ORDER: one pass."""
        total = self.ones.new_zeros(ORDER + 1)
        for w, y in self.blocks(s):
            of_label = w.gather(1, y[:, None]).sum()
            w = w.clamp_(min=LOWEST) if self.deep else w
            e = torch.exp(w, out=self.room[: len(w)])
            size = e @ self.ones
            moments = [(e.mul_(w) @ self.ones).div_(size) for _ in range(ORDER)]
            terms = torch.stack([size.log_(), *cumulants(moments)]).sum(1)
            terms[:2] -= of_label
            total += terms
        return (total / self.n).tolist()


def loss(Z_NK: Tensor, y_N: Tensor, s: float) -> Loss:
    """f, f' and f'' at s, one pass over the rows."""
    f, d1, d2, *_ = Logits(Z_NK, y_N).derivatives(s)
    return Loss(f, d1 / s, max(d2, 0.0) / s**2)


def floor_of(Z_NK: Tensor, y_N: Tensor) -> float | None:
    """The limit of f(s) as s grows if no label is beaten by another class, else None."""
    total = 0.0
    for z, y in blocks(Z_NK, y_N):
        top = z.amax(1, keepdim=True)
        if (z.gather(1, y[:, None]) < top).any():
            return None
        total += float((z == top).sum(1).double().log().sum())
    return total / len(y_N)


def solve(
    Z_NK: Tensor, y_N: Tensor, u: float, low: float, high: float, floor: float | None, tolerance: float = TOLERANCE
) -> Root:
    """`steps` on these rows."""
    K: float = Z_NK.shape[1]
    if floor is not None and masks.masked(Z_NK) is not None:
        K = math.exp(ceiling_of(Z_NK))
    logits, search = Logits(Z_NK, y_N), steps(len(Z_NK), K, u, low, high, floor, tolerance)
    s = next(search)
    while True:
        try:
            s = search.send(logits.derivatives(s))
        except StopIteration as end:
            return end.value


def fit_temperature(Z_NK: Tensor, y_N: Tensor) -> Params:
    """Fits T to logits [N, K] and labels [N].

    Returns:
        temperature; gradient, |df/ds| at the end, at most; iterations, passes over all rows; at_bound, whether the
        data have no optimum, see above. Each is [], in float64, int64 and bool.

    Raises:
        UserError: NaN or +inf logits, or labels that do not match.
    """
    Z_NK = checked(Z_NK, y_N)
    floor = floor_of(Z_NK, y_N)
    if floor is not None and ceiling_of(Z_NK) - floor < 1e-12:
        return _params(ANY, True)
    low, high = within(deviations(Z_NK[:: max(1, len(Z_NK) // SAMPLES[0])]))
    u = min(max(0.0, low), high)
    for size in SAMPLES:
        if floor is None and len(Z_NK) >= 4 * size:
            part = Z_NK[:: len(Z_NK) // size], y_N[:: len(Z_NK) // size]
            if floor_of(*part) is None:
                u = solve(*part, u, low, high, None, tolerance=1e-3).u
    root = solve(Z_NK, y_N, u, low, high, floor)
    return _params(root, floor is not None or root.u == low)


def fit_temperatures(Z_SNK: Tensor, y_SN: Tensor) -> Params:
    """`fit_temperature` of S sets of logits [S, N, K] and labels [S, N]: its results, [S] each.

    Raises:
        UserError: as `fit_temperature`.
    """
    if not small(Z_SNK) or masks.any_masked(Z_SNK):
        return one_by_one(fit_temperature, Z_SNK, y_SN)
    Z_SNK = checked_stack(Z_SNK, y_SN)
    _, N, K = Z_SNK.shape
    limits = [within(deviations(Z_NK)) for Z_NK in Z_SNK[:, :: max(1, N // SAMPLES[0])]]
    logits = LogitStack(Z_SNK, y_SN)
    floors = logits.floors()
    starts = _starts(Z_SNK, y_SN, limits, floors)
    searches = {}
    for i, floor in enumerate(floors):
        if floor is None or math.log(K) - floor >= 1e-12:
            searches[i] = steps(N, K, starts[i], *limits[i], floor)
    roots = _roots(logits, searches)
    parts = []
    for i, floor in enumerate(floors):
        root = roots.get(i, ANY)
        parts.append(_params(root, floor is not None or root.u == limits[i][0]))
    return stacked(parts)


def _starts(Z_SNK: Tensor, y_SN: Tensor, limits: list[tuple[float, float]], floors: list[float | None]) -> list[float]:
    """log s of each set to start from: 0, or where samples of many rows that are not separable lead."""
    N, K = Z_SNK.shape[1:]
    starts = [min(max(0.0, low), high) for low, high in limits]
    for size in SAMPLES:
        if size * 4 > N:
            continue
        sample = LogitStack(Z_SNK[:, :: N // size], y_SN[:, :: N // size])
        searches = {}
        for i, floor in enumerate(sample.floors()):
            if floor is None and floors[i] is None:
                searches[i] = steps(sample.shape[1], K, starts[i], *limits[i], None, tolerance=1e-3)
        for i, root in _roots(sample, searches).items():
            starts[i] = root.u
    return starts


def _roots(logits: LogitStack, searches: dict[int, Generator[float, list[float], Root]]) -> dict[int, Root]:
    """What the searches, by the number of their set in the stack, end at."""

    def evaluate(points: list[float]) -> list[list[float]]:
        s = [1.0] * logits.shape[0]
        for i, value in zip(searches, points, strict=True):
            s[i] = value
        values = logits.derivatives(s, ORDER)
        return [values[i] for i in searches]

    return dict(zip(searches, together(list(searches.values()), evaluate), strict=True))


def ceiling_of(Z_NK: Tensor) -> float:
    """The limit of f(s) as s falls to zero: the mean log of how many classes a row offers."""
    offered_NK = -torch.inf < Z_NK
    return float(offered_NK.sum(1).double().log_().mean())


def within(deviation_N: Tensor) -> tuple[float, float]:
    """Bounds of log s, given the rows' standard deviations [N].

    Rows that vary most say how low s may have to be (their root mean square), most rows how high (the median, or that).
    """
    widest = root_mean_square(deviation_N)
    return math.log(1e-3 / widest), math.log(1e12 / (float(deviation_N.median()) or widest))


def _params(root: Root, at_bound: bool) -> Params:
    return {
        "temperature": torch.tensor(math.exp(-root.u), dtype=torch.float64),
        "gradient": torch.tensor(root.gradient, dtype=torch.float64),
        "iterations": torch.tensor(root.passes),
        "at_bound": torch.tensor(at_bound),
    }


def apply_temperature(params: Params, Z_NK: Tensor) -> Tensor:
    """log softmax(Z / T), float64 [N, K]."""
    return torch.log_softmax(checked(Z_NK).double() / params["temperature"], 1)


BASELINE = Calibrator(
    fit_temperature,
    apply_temperature,
    keeps_argmax=True,
    reference="guo2017",
    title="Temperature scaling",
    fit_stack=fit_temperatures,
)
