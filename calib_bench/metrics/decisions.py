"""What confidence is worth to whoever decides with it: which answers to trust, and how many may be kept.

All are functions of the errors in order of confidence, ties averaged over every order (`risk.ranked_errors`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from calib_bench.metrics.risk import ranked_errors
from calib_bench.metrics.scores import top_label

RISK, COVERAGE = 0.05, 0.8
"""The share of errors that is accepted among the answers kept, and the share of answers that is kept."""
SLACK = 1e-9
"""Errors by which rounding may move a sum of them."""


def decisions(error: Tensor) -> dict[str, Tensor]:
    """auroc, augrc, coverage_at_5_risk and risk_at_80_coverage, each [...], of ranked errors [..., N]."""
    errors = error.cumsum(-1)
    area = _generalized_area(error, errors)
    return {
        "auroc": _auroc(area, error.mean(-1)),
        "augrc": area,
        "coverage_at_5_risk": coverage_within(errors, RISK),
        "risk_at_80_coverage": errors[..., kept(error.shape[-1], COVERAGE) - 1] / kept(error.shape[-1], COVERAGE),
    }


def kept(n: int, coverage: float) -> int:
    """The least number of n answers that is at least so large a share of them."""
    return max(1, math.ceil(coverage * n - SLACK))


def coverage_within(errors: Tensor, risk: float) -> Tensor:
    """The largest coverage [...] at which the share of errors is at most `risk`, of cumulated errors [..., N]; or 0."""
    k = torch.arange(1, errors.shape[-1] + 1, dtype=torch.float64, device=errors.device)
    return torch.where(errors <= risk * k + SLACK, k, 0.0).amax(-1) / errors.shape[-1]


def _generalized_area(error: Tensor, errors: Tensor) -> Tensor:
    return (errors - error / 2).sum(-1) / error.shape[-1] ** 2


def _auroc(area: Tensor, rate: Tensor) -> Tensor:
    """AUROC from AUGRC = (1 - AUROC) (1 - rate) rate + rate^2 / 2 (Traub et al., 2024); NaN at a rate of 0 or 1."""
    return 1 - (area - rate.square() / 2) / (rate * (1 - rate))


def auroc(logp: Tensor, y: Tensor) -> Tensor:
    """The chance that a right answer has more confidence than a wrong one, [...], ties counted half.

    It is the area under the ROC curve of confidence as a test for correctness (Hendrycks & Gimpel, 2017): .5 says that
    confidence does not tell right from wrong, and NaN that all answers are right, or all wrong.

    >>> auroc(torch.tensor([[0.9, 0.1], [0.8, 0.2]]).log(), torch.tensor([0, 1]))
    tensor(1., dtype=torch.float64)
    """
    return decisions(ranked_errors(*top_label(logp, y)))["auroc"]


def augrc(logp: Tensor, y: Tensor) -> Tensor:
    """Area under the generalized risk-coverage curve, [...], in [0, 1/2] (Traub et al., 2024, arXiv 2407.01032).

    The curve holds the share of all examples that are answered, and wrongly; its area, by trapezoids from (0, 0), is
    the mean of that share over all coverages. A lower error rate and a better order of confidence both lower it.

    >>> augrc(torch.tensor([[0.9, 0.1], [0.8, 0.2]]).log(), torch.tensor([0, 1]))
    tensor(0.1250, dtype=torch.float64)
    """
    return decisions(ranked_errors(*top_label(logp, y)))["augrc"]


def coverage_at_5_risk(logp: Tensor, y: Tensor) -> Tensor:
    """The largest share of examples, most confident first, among which at most 5% are wrong, [...]; 0 if none.

    The risk need not grow with coverage: the largest coverage counts, whatever lies before it (Geifman & El-Yaniv,
    2017).

    >>> logits, y = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1, 0])
    >>> round(float(coverage_at_5_risk(logits, y)), 4)
    0.5
    """
    return decisions(ranked_errors(*top_label(logp, y)))["coverage_at_5_risk"]


def risk_at_80_coverage(logp: Tensor, y: Tensor) -> Tensor:
    """The share of errors, [...], among the most confident 80% of the examples, their number rounded up.

    >>> logits, y = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1, 0])
    >>> round(float(risk_at_80_coverage(logits, y)), 4)
    0.25
    """
    return decisions(ranked_errors(*top_label(logp, y)))["risk_at_80_coverage"]
