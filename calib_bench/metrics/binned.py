"""Calibration errors by binning. Bins are (a, b], the first closed at 0; a probability of exactly 1 is in the last."""

from __future__ import annotations

from functools import partial
from numbers import Integral
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from calib_bench.errors import UserError
from calib_bench.metrics.scores import Rows, differ, scores_n, top_label

BINS = 15
EDGE = 5e-7
"""Share by which a probability may be above an edge and still be in the bin below: votes of a forest and rounded
numbers lie on edges, and come out above or below them with the order in which a row was summed, or as float32 has
them, to seven digits."""
HELD = 1 << 18
"""Probabilities put by before they are binned together."""


def check_bins(bins: int) -> None:
    """Raises UserError unless a number of bins is a whole number of at least 1."""
    if not isinstance(bins, Integral) or bins < 1:
        raise UserError(f"bins={bins} is not a whole number of at least 1.")


def equal_width(p: Tensor, bins: int = BINS) -> Tensor:
    """Bin of each probability among `bins` of equal width: int64, in the shape of `p`; edges as far as rounding tells.

    >>> equal_width(torch.tensor([0.0, 0.2, 0.21, 1.0], dtype=torch.float64), bins=5)
    tensor([0, 0, 1, 4])
    """
    check_bins(bins)
    return (p * (bins / (1 + EDGE))).ceil_().sub_(1).clamp_(0, bins - 1).long()


def equal_mass(p: Tensor, bins: int = BINS) -> Tensor:
    """Bin of each probability among at most `bins` of equal count along the last axis; int64, in the shape of `p`.

    The bin is that of the middle of the example's ranks, so equal probabilities, as far as rounding
    tells (`scores.TIE`), always share one.
    """
    sorted_, order = p.sort(dim=-1, stable=True)
    n = p.shape[-1]
    check_bins(bins)
    bins = min(bins, n)
    rank = torch.arange(n, device=p.device).expand(p.shape)
    step = differ(sorted_)
    edge = torch.ones_like(step[..., :1]) if n > 1 else torch.ones_like(p, dtype=torch.bool)
    first = torch.where(torch.cat([edge, step], -1), rank, 0).cummax(-1).values
    last = torch.where(torch.cat([step, edge], -1), rank, n - 1).flip(-1).cummin(-1).values.flip(-1)
    middle = ((first + last + 1) * bins).div(2 * n, rounding_mode="floor")
    return torch.empty_like(middle).scatter_(-1, order, middle)


def bin_sums(index: Tensor, values: Tensor, bins: int = BINS) -> Tensor:
    """Sums of `values` [..., N] over the bins `index` [..., N]: float64 [..., bins]."""
    total = torch.zeros(*index.shape[:-1], bins, dtype=torch.float64, device=index.device)
    return total.scatter_add_(-1, index, values.double())


def binned_error(p: Tensor, hit: Tensor, index: Tensor, bins: int = BINS) -> Tensor:
    """sum_b (n_b / N) |mean p - mean hit| over bins, [...], for probabilities and outcomes [..., N]."""
    return bin_sums(index, p - hit, bins).abs().sum(-1) / p.shape[-1]


def largest_error(p: Tensor, hit: Tensor, index: Tensor, bins: int = BINS) -> Tensor:
    """max_b |mean p - mean hit| over the bins that hold an example, [...]."""
    count = bin_sums(index, torch.ones_like(p), bins).clamp_(min=1)
    return (bin_sums(index, p - hit, bins).abs() / count).amax(-1)


def debiased_squared_error(p: Tensor, hit: Tensor, index: Tensor, bins: int = BINS) -> Tensor:
    """sum_b (n_b / N) [(h - p)^2 - h (1 - h) / (n_b - 1)] over bins with n_b >= 2, h and p the bin's means, [...].

    The second term is the sampling variance of h, so a calibrated model has mean zero; the value may be negative.
    """
    count = bin_sums(index, torch.ones_like(p), bins)
    n = count.clamp(min=2)
    h, confidence = bin_sums(index, hit, bins) / n, bin_sums(index, p, bins) / n
    term = count * ((h - confidence).square() - h * (1 - h) / (n - 1))
    return torch.where(count >= 2, term, 0.0).sum(-1) / p.shape[-1]


def ece(logp: Tensor, y: Tensor, bins: int = BINS) -> Tensor:
    """Expected calibration error of the top label, equal-width bins, [...] (Naeini et al., 2015; Guo et al., 2017).

    >>> ece(torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log(), torch.tensor([0, 1]))
    tensor(0.4000, dtype=torch.float64)
    """
    confidence, correct = top_label(logp, y)
    return binned_error(confidence, correct, equal_width(confidence, bins), bins)


def ece_positive(logp: Tensor, y: Tensor, bins: int = BINS) -> Tensor:
    """Expected calibration error of the probability of class 1 of two, equal-width bins over [0, 1], [...].

    Not the top-label error: that one folds probabilities below 1/2 onto those above.

    Raises:
        UserError: K is not 2.

    >>> logits, y = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1, 0])
    >>> round(float(ece_positive(logits, y)), 4)
    0.2917
    """
    if logp.shape[-1] != 2:
        raise UserError(f"ece_positive is for 2 classes, not {logp.shape[-1]}; use ece or classwise_ece.")
    p = scores_n(logp, y, "positive")[0]
    return binned_error(p, y.expand(p.shape).double(), equal_width(p, bins), bins)


def adaptive_ece(logp: Tensor, y: Tensor, bins: int = BINS) -> Tensor:
    """Expected calibration error of the top label, equal-mass bins, ties kept together, [...] (Nixon et al., 2019).

    >>> logits, y = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1, 0])
    >>> round(float(adaptive_ece(logits, y)), 4)
    0.1572
    """
    confidence, correct = top_label(logp, y)
    return binned_error(confidence, correct, equal_mass(confidence, bins), bins)


def debiased_squared_ece(logp: Tensor, y: Tensor, bins: int = BINS) -> Tensor:
    """Squared top-label calibration error, equal-mass bins, less its sampling bias, [...] (Kumar et al., 2019).

    >>> logits, y = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1, 0])
    >>> round(float(debiased_squared_ece(logits, y)), 4)
    -0.0983
    """
    confidence, correct = top_label(logp, y)
    return debiased_squared_error(confidence, correct, equal_mass(confidence, bins), bins)


def mce(logp: Tensor, y: Tensor, bins: int = BINS) -> Tensor:
    """Maximum calibration error of the top label, equal-width bins, [...] (Naeini et al., 2015).

    One example can fill the worst bin: it says little where bins are sparse.

    >>> logits, y = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1, 0])
    >>> round(float(mce(logits, y)), 4)
    0.2311
    """
    confidence, correct = top_label(logp, y)
    return largest_error(confidence, correct, equal_width(confidence, bins), bins)


def classwise_ece(logp: Tensor, y: Tensor, bins: int = BINS) -> Tensor:
    """Mean over all K classes, absent ones included, of each one's equal-width error, [...] (Kull et al., 2019).

    >>> logits, y = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1, 0])
    >>> round(float(classwise_ece(logits, y)), 4)
    0.2917
    """
    sums = ClasswiseSums(logp, bins)
    scores_n(logp, y, each=sums.add)
    return sums.result(y)


def classwise_ece_sum(logp: Tensor, y: Tensor, bins: int = BINS) -> Tensor:
    """The sum over classes of what `classwise_ece` is the mean of: K times as large, [...].

    >>> logits, y = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1, 0])
    >>> round(float(classwise_ece_sum(logits, y)), 4)
    0.5833
    """
    return logp.shape[-1] * classwise_ece(logp, y, bins)


class ClasswiseSums:
    """Accumulates sum(p_k - [y = k]) by model, class and bin, block by block.

    At most a few probabilities of a row lie above the first bin: they go one by one, the rest by columns.
    """

    def __init__(self, logp: Tensor, bins: int = BINS) -> None:
        check_bins(bins)
        self.lead, (self.n, self.classes), self.bins = logp.shape[:-2], logp.shape[-2:], bins
        models = self.lead.numel()
        zeros = partial(torch.zeros, dtype=torch.float64, device=logp.device)
        self.columns, self.total = zeros(models, self.classes), zeros(models * self.classes * bins)
        self.own, self.inverse = zeros(models * self.n), zeros(models * self.n)
        self.held: list[tuple[Tensor, Tensor]] = []
        self.count = 0

    def add(self, block: Rows) -> None:
        """Adds a block of one model or of whole models."""
        first, models = block.here.start // self.n, max(1, len(block.y) // self.n)
        if models == 1:
            self.columns[first] += block.e.t() @ block.inverse
        else:
            inverse, e = block.inverse.view(models, 1, -1), block.e.view(models, -1, self.classes)
            self.columns[first : first + models] += (inverse @ e)[:, 0]
        self.own[block.here], self.inverse[block.here] = block.own, block.inverse
        place = _places(block, 0.99 / self.bins)
        self.held.append((place + block.here.start * self.classes, block.e.view(-1)[place]))
        self.count += len(place)
        if self.count >= HELD:
            self._flush()

    def _cell(self, place: Tensor) -> Tensor:
        """The first bin of a place in the flattened [..., N, K]."""
        model = place.div(self.n * self.classes, rounding_mode="floor")
        return (model * self.classes + place % self.classes) * self.bins

    def _flush(self) -> None:
        place, e = (torch.cat(parts) for parts in zip(*self.held, strict=True))
        self.held.clear()
        self.count = 0
        p, cell = e * self.inverse[place.div(self.classes, rounding_mode="floor")], self._cell(place)
        self.total.index_add_(0, cell, -p).index_add_(0, cell + equal_width(p, self.bins), p)

    def result(self, y: Tensor) -> Tensor:
        """The classwise error [...], given the labels [..., N] or [N]."""
        if self.held:
            self._flush()
        label = y.expand(*self.lead, self.n).reshape(-1)
        label = label + torch.arange(0, len(label) * self.classes, self.classes, device=label.device)
        cell = self._cell(label) + equal_width(self.own, self.bins)
        self.total.index_add_(0, cell, torch.full_like(self.own, -1.0))
        total = self.total.view(-1, self.classes, self.bins)
        total[..., 0] += self.columns
        return total.abs().sum(-1).mean(-1).view(self.lead) / self.n


def _places(block: Rows, least: float) -> Tensor:
    """Where p > least in the flattened block, or a little more."""
    place = _above(block.e, least * float(block.size.amin()))
    if len(place) > 16 * len(block.y):  # rows of very different sizes
        place = _above(block.e / block.size[:, None], least)
    return place


def _above(a: Tensor, least: float) -> Tensor:
    """Where a > least, flat: by numpy where it can be, whose search is many times as fast."""
    if a.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(a.numpy() > least))
    return (a > least).view(-1).nonzero()[:, 0]


class Reliability(NamedTuple):
    """A reliability diagram: per bin, float64 [..., bins]; the means of an empty bin are NaN."""

    count: Tensor  # type: ignore[assignment]
    confidence: Tensor
    accuracy: Tensor


def reliability(logp: Tensor, y: Tensor, bins: int = BINS) -> Reliability:
    """Count, mean confidence and accuracy of the top label in equal-width bins (DeGroot & Fienberg, 1983).

    >>> logits, y = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1, 0])
    >>> reliability(logits, y, bins=2).count.tolist()
    [0.0, 4.0]
    """
    confidence, correct = top_label(logp, y)
    index = equal_width(confidence, bins)
    count = bin_sums(index, torch.ones_like(confidence), bins)
    return Reliability(count, bin_sums(index, confidence, bins) / count, bin_sums(index, correct, bins) / count)
