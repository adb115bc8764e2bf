"""Split conformal prediction sets: for each example the classes that hold its label 90% of the time.

A threshold is taken from the calibration split: the ceil(.9 (M + 1))-th smallest score of its M labels. Of exchangeable
examples the sets then hold the label with probability at least .9, whatever the model (Vovk et al., 2005); how large
they must be for that is what the model is worth. The scores of class k with probability p_k:

- lac: -log p_k, so that sets are the classes above one probability (Sadinle, Lei & Wasserman, 2019);
- aps: the probability of all classes more probable than k, so that sets are the most probable classes, up to the one
  with which their sum first exceeds the threshold (Romano, Sesia & Candes, 2020);
- raps: that and PENALTY for each place of k beyond FREE (Angelopoulos et al., 2021).

Nothing is drawn at random. Romano et al. also take a random part of p_k off the score, which makes sets smaller and
their coverage exact; the same predictions would then give other sets in another order of rows or with another seed.
Without it sets of aps and raps are never empty and may cover more than 90%: at least the model's accuracy. Those of lac
may be empty, and cover 90% but for ties.

A class of probability zero (one that is not offered) is in no set, and its label is never covered. Equal probabilities,
up to rounding, are treated alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from calib_bench.errors import UserError
from calib_bench.metrics.scores import BLOCK, scores_n

KINDS = ("lac", "aps", "raps")
LEVEL = 0.9
PENALTY, FREE = 0.01, 5
"""Of RAPS: what each place in the order of classes beyond the free ones costs (Angelopoulos et al., 2021)."""
SLACK = 1e-12
"""Scores that differ by less are equal: sums of probabilities have other last digits in another order of classes."""
EQUAL = 1e-13
"""Log probabilities that differ by no more are equal, for the same reason."""
REACH = 2.0
"""How many standard errors of the level the neighbours of a threshold are away that its influences are taken from."""


class PredictionSets(NamedTuple):
    """Sets of one kind on the test examples.

    Attributes:
        covered: 1 where the set holds the label: float64 [N].
        size: classes in each set: float64 [N].
        covered_influence, size_influence: first-order influence of each calibration example, through the threshold, on
            the means of both: float64 [M], with mean near 0.
    """

    covered: Tensor
    size: Tensor
    covered_influence: Tensor
    size_influence: Tensor

    def of(self, what: str) -> tuple[Tensor, Tensor]:
        """Values [N] and influences [M] of "coverage" or "size"."""
        if what == "coverage":
            return self.covered, self.covered_influence
        return self.size, self.size_influence


@torch.no_grad()
def prediction_sets(
    calibration_MK: Tensor, y_M: Tensor, test_NK: Tensor, y_N: Tensor, level: float = LEVEL
) -> dict[str, PredictionSets]:
    """Sets by kind, "lac", "aps" and "raps", that hold the label with probability `level`.

    The influences take the difference that thresholds REACH standard errors of the level away make.

    Args:
        calibration_MK: logits or log probabilities of examples that are not among the test examples.
        y_M: their labels.
        test_NK: logits or log probabilities of the test examples.
        y_N: their labels.
        level: the probability, in (0, 1).

    Raises:
        UserError: shapes do not match, a label is out of range, logits contain NaN or +inf, or level is outside (0, 1).

    >>> p = torch.tensor([[0.9, 0.1]] * 10)
    >>> sets = prediction_sets(p.log(), torch.zeros(10, dtype=torch.int64), p.log(), torch.tensor([0] * 5 + [1] * 5))
    >>> sets["lac"].covered.mean(), sets["lac"].size.mean()
    (tensor(0.5000, dtype=torch.float64), tensor(1., dtype=torch.float64))
    """
    if not 0 < level < 1:
        raise UserError(f"level={level} is not a probability between 0 and 1.")
    for logits, y in ((calibration_MK, y_M), (test_NK, y_N)):
        scores_n(logits, y, "confidence")  # refuses what cannot be measured
    M, N = len(y_M), len(y_N)
    step = neighbours(M, level) / M
    levels = (level, max(level - step, 0.0), min(level + step, 1.0))
    parts = [_label_scores(logp_RK, y_M[here]) for here, logp_RK in _blocks(calibration_MK)]
    labels = {kind: torch.cat([part[kind] for part in parts]) for kind in KINDS}
    # Of the neighbours no set need be valid: they have no correction for finite samples beyond the last score.
    limits = {
        kind: torch.stack([threshold(score_M, one, finite=i > 0) for i, one in enumerate(levels)])
        for kind, score_M in labels.items()
    }
    count = {kind: torch.empty(N, 3, dtype=torch.float64) for kind in KINDS}
    label_score = {kind: torch.empty(N, dtype=torch.float64) for kind in KINDS}
    for here, logp_RK in _blocks(test_NK):
        ranked = _ranked_scores(logp_RK)
        for kind, score_R in _label_scores(logp_RK, y_N[here]).items():
            label_score[kind][here] = score_R
            count[kind][here] = _within(ranked[kind], limits[kind])
    width = levels[2] - levels[1]
    return {kind: _sets(labels[kind], limits[kind], count[kind], label_score[kind], level, width) for kind in KINDS}


def neighbours(M: int, level: float = LEVEL) -> float:
    """How many of M scores lie between a threshold and either of its neighbours.

    They are the degrees of freedom of the variance that a threshold adds: twice as many gaps between scores make up the
    difference that it is taken from, whose square then varies as a variance of so many degrees does.
    """
    return REACH * math.sqrt(level * (1 - level) * M)


def _blocks(logits_NK: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Log probabilities of some rows at a time, float64, and which rows they are."""
    step = max(1, BLOCK // logits_NK.shape[1])
    for start in range(0, len(logits_NK), step):
        here = slice(start, start + step)
        yield here, logits_NK[here].double().log_softmax(-1)


def _sets(
    label_M: Tensor, limit_3: Tensor, count_N3: Tensor, own_N: Tensor, level: float, width: float
) -> PredictionSets:
    """Sets from scores of calibration labels, thresholds, classes within each, and scores of test labels."""
    covered_N3 = ((own_N[:, None] <= limit_3 + SLACK) & own_N.isfinite()[:, None]).double()
    influence_M = level - (label_M <= limit_3[0] + SLACK).double()
    slopes = [(values.mean(0)[2] - values.mean(0)[1]) / width for values in (covered_N3, count_N3)]
    return PredictionSets(covered_N3[:, 0], count_N3[:, 0], slopes[0] * influence_M, slopes[1] * influence_M)


def _within(score_RK: Tensor, limit_3: Tensor) -> Tensor:
    """How many of each row's increasing scores lie within each threshold, those of probability zero never: [R, 3]."""
    limit_3 = (limit_3 + SLACK).clamp(max=torch.finfo(torch.float64).max)
    return torch.searchsorted(score_RK, limit_3.expand(len(score_RK), 3).contiguous(), right=True).double()


def threshold(score_M: Tensor, level: float = LEVEL, finite: bool = False) -> Tensor:
    """The ceil(level (M + 1))-th smallest of M scores, float64; inf where there are fewer, unless `finite`."""
    M = len(score_M)
    rank = max(1, math.ceil(level * (M + 1) - 1e-9))
    if rank > M and not finite:
        return torch.tensor(math.inf, dtype=torch.float64)
    return score_M.sort().values[min(rank, M) - 1]


def _label_scores(logp_RK: Tensor, y_R: Tensor) -> dict[str, Tensor]:
    """Scores of the labels, by kind: float64 [R], inf where the label's probability is zero."""
    own_R1 = logp_RK.gather(1, y_R[:, None])
    above_RK = logp_RK > own_R1 + EQUAL
    mass_R = logp_RK.exp().mul_(above_RK).sum(-1)
    impossible_R = own_R1[:, 0].isneginf()
    by_kind = {"lac": -own_R1[:, 0], "aps": mass_R, "raps": mass_R + _penalty(above_RK.sum(-1))}
    return {kind: score_R.masked_fill(impossible_R, math.inf) for kind, score_R in by_kind.items()}


def _ranked_scores(logp_RK: Tensor) -> dict[str, Tensor]:
    """Scores of every class, the most probable first, by kind: float64 [R, K]; inf at probability zero."""
    K = logp_RK.shape[1]
    ranked_RK = logp_RK.sort(-1, descending=True).values
    mass_RK = torch.zeros_like(ranked_RK)
    torch.cumsum(ranked_RK[:, :-1].exp(), -1, out=mass_RK[:, 1:])
    place_RK = torch.arange(K).expand(ranked_RK.shape)
    equal_RK = ranked_RK[:, 1:] >= ranked_RK[:, :-1] - EQUAL
    if bool(equal_RK.any()):  # classes of equal probability have the place of the first of them
        place_RK = torch.cat([place_RK[:, :1], place_RK[:, 1:].masked_fill(equal_RK, 0)], 1).cummax(-1).values
        mass_RK = mass_RK.gather(1, place_RK)
    by_kind = {"lac": -ranked_RK, "aps": mass_RK, "raps": mass_RK + _penalty(place_RK)}
    if not bool(ranked_RK[:, -1].isneginf().any()):
        return by_kind
    return {kind: score_RK.masked_fill(ranked_RK.isneginf(), math.inf) for kind, score_RK in by_kind.items()}


def _penalty(before: Tensor) -> Tensor:
    """What RAPS adds to the score of a class with so many classes before it."""
    return PENALTY * (before + 1 - FREE).clamp(min=0).double()
