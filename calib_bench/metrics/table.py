"""All metrics in one pass over the logits."""

from __future__ import annotations

from torch import Tensor

from calib_bench.errors import UserError
from calib_bench.metrics.binned import (
    BINS,
    ClasswiseSums,
    binned_error,
    debiased_squared_error,
    equal_mass,
    equal_width,
    largest_error,
)
from calib_bench.metrics.decisions import decisions
from calib_bench.metrics.risk import error_areas, ranked_errors
from calib_bench.metrics.scores import scores_n
from calib_bench.metrics.smooth import smooth_error

ROUNDING = 1e-9
"""By how much the exponential of a log probability may be more than 1."""


def measure(logp: Tensor, y: Tensor, bins: int = BINS) -> dict[str, Tensor]:
    """Every metric of logits or log probabilities [..., N, K] against labels [..., N] or [N]; float64.

    Returns:
        Scalars [...]: accuracy, log_loss, brier, ece, adaptive_ece, classwise_ece, smece, mce, debiased_squared_ece,
        mean_confidence, mean_entropy, aurc, e_aurc, auroc, augrc, coverage_at_5_risk, risk_at_80_coverage, and if K = 2
        ece_positive and smece_positive. Per-example scores [..., N]: log_loss_n, brier_n, correct_n, confidence_n. Each
        is what the function of its name returns.

    Raises:
        UserError: shapes do not match, a label is out of range, or the logits contain NaN or +inf.

    >>> import torch
    >>> logits, y = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1, 0])
    >>> round(float(measure(logits, y)["brier"]), 4)
    0.3116
    """
    classwise = ClasswiseSums(logp, bins)
    names = ("log_loss", "brier", "correct", "confidence", "entropy", *(["positive"] if logp.shape[-1] == 2 else []))
    log_loss_n, brier_n, hit, p, entropy_n, *positive = scores_n(logp, y, *names, each=classwise.add)
    out = {
        "accuracy": hit.mean(-1),
        "log_loss": log_loss_n.mean(-1),
        "brier": brier_n.mean(-1),
        **measure_confidence(p, hit, bins),
        "classwise_ece": classwise.result(y),
        "mean_entropy": entropy_n.mean(-1),
        "log_loss_n": log_loss_n,
        "brier_n": brier_n,
    }
    if positive:
        labels = y.expand(p.shape).double()
        width = equal_width(positive[0], bins)
        out["ece_positive"] = binned_error(positive[0], labels, width, bins)
        out["smece_positive"] = smooth_error(positive[0], labels)
    return out


def measure_confidence(p: Tensor, hit: Tensor, bins: int = BINS) -> dict[str, Tensor]:
    """Every metric that needs a confidence alone, of confidences [..., N] and whether answers were right [..., N].

    Args:
        p: confidences in [0, 1].
        hit: 1 or True for a right answer, 0 or False for a wrong one.
        bins: of calibration errors by binning.

    Returns:
        float64. Scalars [...]: accuracy, ece, adaptive_ece, smece, mce, debiased_squared_ece, mean_confidence, aurc,
        e_aurc, auroc, augrc, coverage_at_5_risk, risk_at_80_coverage; and correct_n and confidence_n [..., N].

    Raises:
        UserError: shapes differ, or numbers are others.

    >>> import torch
    >>> round(float(measure_confidence(torch.tensor([0.9, 0.6, 0.7]), torch.tensor([1.0, 0.0, 1.0]))["ece"]), 4)
    0.3333
    """
    if p.shape != hit.shape:
        raise UserError(f"There are confidences of shape {tuple(p.shape)} and answers of shape {tuple(hit.shape)}.")
    p, hit = p.double(), hit.double()
    if not bool((((p - 0.5).abs() <= 0.5 + ROUNDING) & (hit * (1 - hit) == 0)).all()):
        raise UserError("A confidence is a number from 0 to 1, and an answer is right (1) or wrong (0).")
    width, mass = equal_width(p, bins), equal_mass(p, bins)
    error = ranked_errors(p, hit)
    area, excess = error_areas(error)
    return {
        "accuracy": hit.mean(-1),
        "ece": binned_error(p, hit, width, bins),
        "adaptive_ece": binned_error(p, hit, mass, bins),
        "smece": smooth_error(p, hit),
        "mce": largest_error(p, hit, width, bins),
        "debiased_squared_ece": debiased_squared_error(p, hit, mass, bins),
        "mean_confidence": p.mean(-1),
        "aurc": area,
        "e_aurc": excess,
        **decisions(error),
        "correct_n": hit,
        "confidence_n": p,
    }
