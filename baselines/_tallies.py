"""Counts of a class's distinct scores, and the step functions that one-vs-rest calibrators make of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calib_bench.baselines._one_vs_rest import UNSEEN_1N, joined, scores
from calib_bench.baselines._solvers import checked, mix_uniform
from calib_bench.core.baseline import Params
from calib_bench.metrics import masks


class Tally(NamedTuple):
    """One class of a calibration set: distinct scores, increasing; at each how many examples, how many of the class."""

    score: NDArray
    number: NDArray
    hits: NDArray


_SCORES = UNSEEN_1N[0].numpy()
UNSEEN = Tally(_SCORES, np.ones(9, np.int64), 1 / (1 + np.exp(-_SCORES)))
"""Of a class that no row offers: see `UNSEEN_1N`."""


def tallies(x_CN: Tensor, y_N: Tensor) -> Iterator[Tally]:
    """The tally of each fit in turn. Sorting values and looking up a class's own beats an argsort many times over."""
    x, y = x_CN.numpy(force=True), y_N.numpy(force=True)
    order, ends = np.argsort(y, kind="stable"), np.cumsum(np.bincount(y, minlength=max(2, len(x))))
    for c, row in enumerate(x):
        k = c + (len(x) == 1)
        ordered = np.sort(row)
        if not np.isfinite(ordered[[0, -1]]).all():
            ordered = ordered[np.isfinite(ordered)]
            if len(ordered) == 0:
                yield UNSEEN
                continue
        yield tally(ordered, row[order[ends[k - 1] if k else 0 : ends[k]]])


def tally(ordered: NDArray, of_class: NDArray) -> Tally:
    """The tally of finite scores [n], increasing, and of those of the class's own examples, among them if finite."""
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    score = ordered[first]
    hits = np.bincount(np.searchsorted(score, of_class[np.isfinite(of_class)]), minlength=len(score))
    return Tally(score, np.diff(np.append(first, len(ordered))), hits)


def tallied(x_RN: Tensor, hit_RN: Tensor) -> tuple[Tally, NDArray]:
    """The tallies of every row of scores in turn, and first [R + 1], where each row's begin. For short rows."""
    x, hit = x_RN.numpy(force=True), hit_RN.numpy(force=True)
    order = np.argsort(x, 1)
    x, hit = np.take_along_axis(x, order, 1), np.take_along_axis(hit, order, 1)
    new = np.ones(x.shape, bool)
    new[:, 1:] = x[:, 1:] != x[:, :-1]
    start = np.flatnonzero(new)
    number = np.diff(np.append(start, x.size))
    hits = np.add.reduceat(hit.ravel().astype(np.int64), start)
    return Tally(x.ravel()[start], number, hits), np.append(0, new.sum(1).cumsum())


def fit_tallies(of_class: Callable[[Tally], dict[str, NDArray]], Z_NK: Tensor, y_N: Tensor) -> Params:
    """Every class's fit to its tally: their arrays in turn, float64, and first [C + 1], int64: where each fit's begin.

    Raises:
        UserError: NaN or +inf logits, or labels that do not match.
    """
    parts = [of_class(tally) for tally in tallies(scores(Z_NK, y_N), y_N)]
    lengths = [len(next(iter(part.values()))) for part in parts]
    columns = {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]}
    return {**columns, "first": torch.tensor([0, *np.cumsum(lengths).tolist()])}


def unpacked(params: Params, *names: str) -> Iterator[tuple[NDArray, ...]]:
    """The arrays of each fit in turn."""
    arrays = [params[name].numpy(force=True) for name in names]
    first = params["first"].tolist()
    for start, end in itertools.pairwise(first):
        yield tuple(array[start:end] for array in arrays)


def stepped(params: Params, x_CN: Tensor) -> Tensor:
    """Values [C, N] of step functions: of the first step whose upper end, `edge`, is at least the score, or the last"""
    q_CN = torch.empty_like(x_CN)
    for c, (edge, value) in enumerate(unpacked(params, "edge", "value")):
        q_CN[c] = torch.from_numpy(value[np.searchsorted(edge[:-1], x_CN[c].numpy(force=True))])
    return q_CN


def normalized(q_CN: Tensor, Z_NK: Tensor) -> Tensor:
    """Log probabilities [N, K] of fits [C, N], rows normalized over the classes that Z offers."""
    return masks.without(joined(q_CN).log(), checked(Z_NK)).log_softmax(1)


def mixed(q_CN: Tensor, params: Params, Z_NK: Tensor) -> Tensor:
    """`normalized`, mixed with the share `uniform` of the uniform; where all fits are 0, that alone."""
    return mix_uniform(joined(q_CN), params["uniform"], masks.masked(checked(Z_NK)))
