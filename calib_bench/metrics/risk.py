"""Selective prediction: the area under the risk-coverage curve, in order of confidence (Geifman & El-Yaniv, 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from calib_bench.metrics.scores import differ, top_label


def ranked_errors(confidence: Tensor, correct: Tensor) -> Tensor:
    """1 for wrong and 0 for right in order of confidence, the highest first: float64 [..., N].

    Among examples with equal confidence, equal up to rounding (`scores.TIE`), each holds their mean: sums of the first
    k are those of the mean over every order of the equal.
    """
    sorted_, order = confidence.sort(dim=-1, descending=True, stable=True)
    error = (1 - correct.double()).gather(-1, order)
    new = torch.ones_like(sorted_, dtype=torch.bool)
    new[..., 1:] = differ(sorted_)
    group = new.cumsum(-1) - 1
    sums = torch.zeros_like(error).scatter_add_(-1, group, error)
    size = torch.zeros_like(error).scatter_add_(-1, group, torch.ones_like(error))
    return (sums / size.clamp(min=1)).gather(-1, group)


def risk_area(confidence: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    """AURC and its excess over the best possible order, each [...], from [..., N]; ties averaged."""
    return error_areas(ranked_errors(confidence, correct))


def error_areas(error: Tensor) -> tuple[Tensor, Tensor]:
    """AURC and its excess over the best possible order, each [...], of `ranked_errors` [..., N].

    AURC is the mean over k of the error among the k most confident examples. The best order, all errors last, is taken
    exactly and not by its large-N limit.
    """
    n = error.shape[-1]
    k = torch.arange(1, n + 1, dtype=torch.float64, device=error.device)
    area = (error.cumsum(-1) / k).mean(-1)
    errors = error.sum(-1, keepdim=True)
    best = ((k - (n - errors)).clamp(min=0) / k).mean(-1)
    return area, area - best


def aurc(logp: Tensor, y: Tensor) -> Tensor:
    """Area under the risk-coverage curve, [...], in [0, 1], ties averaged.

    >>> aurc(torch.tensor([[0.9, 0.1], [0.8, 0.2]]).log(), torch.tensor([0, 1]))
    tensor(0.2500, dtype=torch.float64)
    """
    return risk_area(*top_label(logp, y))[0]


def e_aurc(logp: Tensor, y: Tensor) -> Tensor:
    """AURC less that of the best order of the same errors, [...] (Geifman, Uziel & El-Yaniv, 2019).

    >>> logits, y = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1, 0])
    >>> round(float(e_aurc(logits, y)), 4)
    0.0417
    """
    return risk_area(*top_label(logp, y))[1]
