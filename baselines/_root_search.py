"""The search for the scale s of softmax(s Z) of least mean log loss, in log s, by the derivatives of the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

TOLERANCE = 1e-9
"""Relative error of T at which a fit stops."""
FACTORIALS = tuple(map(math.factorial, range(32)))
"""Of more terms than any series here has."""


class Step(NamedTuple):
    """A step in log s, about how far it ends from the root of f', and f' times s there by the series, at most."""

    du: float
    error: float = math.inf
    gradient: float = math.inf


def series_step(d: Sequence[float]) -> Step:
    """To the root of f' by its Taylor series in r = s'/s - 1; by Newton's method in log s where that is too far.

    The terms fall about tenfold as fast as r does, so that the first one left out is at most 10 r times the last.
    """
    if not d[1] > 0:
        return Step(0.0, 0.0, 0.0) if d[0] == 0 else Step(math.nan)
    newton = Step(-d[0] / d[1])
    root = _series_root(d, newton.du)
    if root is None:
        return newton
    r, terms = root
    ratio = 10 * abs(r)
    left_out = ratio * max(abs(terms[-1]), ratio * abs(terms[-2]))
    error = left_out / d[1]
    if abs(r) >= 0.5 or error > 0.1 * abs(r):
        return newton
    return Step(math.log1p(r), error, left_out)


def _series_root(d: Sequence[float], r: float) -> tuple[float, list[float]] | None:
    """The root of the Taylor series by Newton's method from r, and the series' terms; None where it leads too far."""
    terms: list[float] = []
    for _ in range(20):
        if not abs(r) < 0.5:
            return None
        terms = _taylor(d, r)
        slope = sum(_taylor(d[1:], r))
        if not slope > 0:
            return None
        r -= sum(terms) / slope
        if abs(sum(terms)) <= 1e-15 * abs(terms[0]):
            break
    return r, terms


def _taylor(d: Sequence[float], r: float) -> list[float]:
    return [c * r**n / factorial for n, (c, factorial) in enumerate(zip(d, FACTORIALS, strict=False))]


class Root(NamedTuple):
    """log s, |df/ds| there at most, and the passes it took."""

    u: float
    gradient: float
    passes: int


ANY = Root(0.0, 0.0, 0)
"""Of constant logits."""


def steps(
    N: int, K: float, u: float, low: float, high: float, floor: float | None, tolerance: float = TOLERANCE
) -> Generator[float, list[float], Root]:
    """The root in [low, high] of a function that increases with u = log s; yields s, to be sent the derivatives there.

    The function is f'; on separable data, the bound on f - floor stands in for it, on a log scale, where it is nearly
    linear in s.
    """
    bound = low
    target = math.log(min(1 / (N + 2), (math.log(K) - (floor or 0.0)) / 2))
    for passes in range(1, 101):
        f, *d = yield math.exp(u)
        value, step = (d[0], series_step(d)) if floor is None else _separable_step(f - floor, d[0], target)
        if value > 0 and u == bound:
            return Root(u, d[0] / math.exp(u), passes)
        low, high = (low, u) if value > 0 else (u, high)
        new = u + step.du
        if step.error <= tolerance and low <= new <= high:
            return Root(new, step.gradient / math.exp(new), passes)
        u = new if low < new < high else _retreat(new, low, high, bound)
    return Root(u, d[0] / math.exp(u), passes)


def _retreat(new: float, low: float, high: float, bound: float) -> float:
    """Where to go instead of outside the bracket: to its middle, or to a bound that nothing has been seen at yet."""
    return bound if new <= low == bound else (low + high) / 2


def _separable_step(excess: float, d1: float, target: float) -> tuple[float, Step]:
    """How far log(f - floor) is below its target, and Newton's step to it in log s; d1 is s f'."""
    excess = max(excess, 1e-300)
    value, slope = target - math.log(excess), -d1 / excess
    du = -value / slope if slope > 0 else math.nan
    return value, Step(du, error=abs(du), gradient=abs(d1))


def together(
    searches: Sequence[Generator[float, list[float], Root]], evaluate: Callable[[list[float]], list[list[float]]]
) -> list[Root]:
    """What each search returns; all that still go on are sent what they ask for in one evaluation."""
    requests = [next(search) for search in searches]
    results: dict[int, Root] = {}
    while len(results) < len(searches):
        answers = evaluate(requests)
        for i, search in enumerate(searches):
            if i not in results:
                try:
                    requests[i] = search.send(answers[i])
                except StopIteration as end:
                    results[i] = end.value
    return [results[i] for i in range(len(searches))]
