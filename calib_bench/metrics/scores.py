"""Per-example scores, their means, and the pass over blocks of rows that every metric shares.

Everywhere: `logp` is [..., N, K], logits or log probabilities (rows are normalized in float64; -inf is a probability of
zero), `y` is int64 [..., N] or [N]. Results are float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from calib_bench.errors import UserError

BLOCK = 1 << 17
"""Entries of a block of rows: a float64 temporary of 1 MiB."""


class Rows(NamedTuple):
    """A block of rows, flattened over the leading axes.

    Attributes:
        start: index of its first row.
        logp: log probabilities [R, K], float64.
        y: labels [R].
    """

    start: int
    logp: Tensor
    y: Tensor


def rows(logp: Tensor, y: Tensor) -> Iterator[Rows]:
    """Normalized blocks of rows, in order.

    Raises:
        UserError: shapes do not match, a label is outside 0..K-1, or a row has no softmax (NaN, +inf, all -inf).
    """
    if logp.ndim < 2 or logp.shape[-1] < 2 or logp.shape[-2] < 1:
        raise UserError(f"Metrics need logits [..., N, K] with N >= 1 and K >= 2, not shape {tuple(logp.shape)}.")
    classes = logp.shape[-1]
    if y.shape not in (logp.shape[:-1], logp.shape[-2:-1]):
        raise UserError(
            f"Labels of shape {tuple(y.shape)} do not match logits of shape {tuple(logp.shape)}; "
            f"expected {tuple(logp.shape[:-1])}."
        )
    if y.min() < 0 or y.max() >= classes:
        raise UserError(
            f"Labels run from {int(y.min())} to {int(y.max())}; logits of {classes} classes need 0 to {classes - 1}."
        )
    flat_RK, y_R = logp.reshape(-1, classes), y.expand(logp.shape[:-1]).reshape(-1).long()
    step = max(1, BLOCK // classes)
    for start in range(0, len(flat_RK), step):
        block = torch.log_softmax(flat_RK[start : start + step].double(), -1)
        if block[:, 0].isnan().any():
            raise UserError(
                "Logits contain NaN or +inf (or a row of -inf only): such a model has no probabilities to measure."
            )
        yield Rows(start, block, y_R[start : start + step])


def per_row(f: Callable[[Tensor, Tensor], Tensor], logp: Tensor, y: Tensor) -> Tensor:
    """f (logp [R, K], y [R]) -> [R], block by block; the results as [..., N]."""
    out = per_row_store(logp)
    for start, block, y_R in rows(logp, y):
        out.view(-1)[start : start + len(y_R)] = f(block, y_R)
    return out


def per_row_store(logp: Tensor) -> Tensor:
    """Room for one float64 per row, [..., N], made before the pass: results kept between blocks fragment memory."""
    return torch.empty(logp.shape[:-1], dtype=torch.float64, device=logp.device)


def _log_loss(logp_RK: Tensor, y_R: Tensor) -> Tensor:
    return -logp_RK.gather(-1, y_R[:, None])[:, 0]


def _brier(p_RK: Tensor, y_R: Tensor) -> Tensor:
    # Not sum(p^2) - 2 p_y + 1, which cancels when the prediction is nearly certain.
    p_y = p_RK.gather(-1, y_R[:, None])[:, 0]
    return p_RK.scatter(-1, y_R[:, None], 0.0).square().sum(-1) + (1 - p_y).square()


def _entropy(logp_RK: Tensor, p_RK: Tensor) -> Tensor:
    # exp(-800) is zero in float64, so this only turns 0 * -inf into 0.
    return -torch.einsum("rk,rk->r", p_RK, logp_RK.clamp(min=-800.0))


class Examples(NamedTuple):
    """Per-example scores, each float64 [R]; see the functions of the same name."""

    log_loss: Tensor
    brier: Tensor
    correct: Tensor
    confidence: Tensor
    entropy: Tensor


def examples(logp_RK: Tensor, p_RK: Tensor, y_R: Tensor) -> Examples:
    """Every per-example score of one block."""
    top, predicted = logp_RK.max(-1)
    correct = (predicted == y_R).double()
    return Examples(_log_loss(logp_RK, y_R), _brier(p_RK, y_R), correct, top.exp(), _entropy(logp_RK, p_RK))


def log_loss_n(logp: Tensor, y: Tensor) -> Tensor:
    """-log p_y in nats, [..., N]; inf where the label's probability is zero, never clipped."""
    return per_row(_log_loss, logp, y)


def brier_n(logp: Tensor, y: Tensor) -> Tensor:
    """sum_k (p_k - [k = y])^2 in [0, 2], [..., N] (Brier, 1950)."""
    return per_row(lambda a, b: _brier(a.exp(), b), logp, y)


def correct_n(logp: Tensor, y: Tensor) -> Tensor:
    """1.0 where the most probable class (the first of equals) is the label, [..., N]."""
    return per_row(lambda a, b: (a.argmax(-1) == b).double(), logp, y)


def top_label(logp: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """`confidence_n` and `correct_n` in one pass."""
    confidence, correct = per_row_store(logp), per_row_store(logp)
    for start, block, y_R in rows(logp, y):
        top, predicted = block.max(-1)
        confidence.view(-1)[start : start + len(y_R)] = top.exp()
        correct.view(-1)[start : start + len(y_R)] = predicted == y_R
    return confidence, correct


def confidence_n(logp: Tensor) -> Tensor:
    """Largest probability, [..., N]."""
    return per_row(lambda a, _: a.amax(-1).exp(), logp, _no_labels(logp))


def entropy_n(logp: Tensor) -> Tensor:
    """Entropy of the prediction in nats, [..., N], in [0, log K]."""
    return per_row(lambda a, _: _entropy(a, a.exp()), logp, _no_labels(logp))


def _no_labels(logp: Tensor) -> Tensor:
    return torch.zeros(math.prod(logp.shape[-2:-1]), dtype=torch.int64, device=logp.device)


def log_loss(logp: Tensor, y: Tensor) -> Tensor:
    """Mean negative log-likelihood in nats, [...].

    >>> log_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor(0.6931, dtype=torch.float64)
    """
    return log_loss_n(logp, y).mean(-1)


def brier(logp: Tensor, y: Tensor) -> Tensor:
    """Mean multi-class Brier score, [...], in [0, 2]."""
    return brier_n(logp, y).mean(-1)


def accuracy(logp: Tensor, y: Tensor) -> Tensor:
    """Share of examples whose most probable class is the label, [...]."""
    return correct_n(logp, y).mean(-1)


def mean_confidence(logp: Tensor) -> Tensor:
    """Mean of the largest probability, [...]."""
    return confidence_n(logp).mean(-1)


def mean_entropy(logp: Tensor) -> Tensor:
    """Mean entropy of the predictions in nats, [...]."""
    return entropy_n(logp).mean(-1)
