"""All metrics in one pass over the logits."""

from __future__ import annotations

from torch import Tensor

from calib_bench.metrics.binned import (
    BINS,
    ClasswiseSums,
    binned_error,
    debiased_squared_error,
    equal_mass,
    equal_width,
)
from calib_bench.metrics.risk import risk_area
from calib_bench.metrics.scores import Examples, examples, per_row_store, rows


def measure(logp: Tensor, y: Tensor, bins: int = BINS) -> dict[str, Tensor]:
    """Every metric of logits or log probabilities [..., N, K] against labels [..., N] or [N]; float64.

    Returns:
        Scalars [...]: accuracy, log_loss, brier, ece, adaptive_ece, classwise_ece, debiased_squared_ece,
        mean_confidence, mean_entropy, aurc, e_aurc, and ece_positive if K = 2. Per-example scores [..., N]: log_loss_n,
        brier_n, correct_n. Each is what the function of its name returns.

    Raises:
        UserError: shapes do not match, a label is out of range, or the logits contain NaN or +inf.
    """
    e = Examples(*(per_row_store(logp) for _ in Examples._fields))
    positive = per_row_store(logp) if logp.shape[-1] == 2 else None
    classwise = ClasswiseSums(logp, bins)
    for start, block, y_R in rows(logp, y):
        p_RK = block.exp()
        here = slice(start, start + len(y_R))
        for whole, part in zip(e, examples(block, p_RK, y_R), strict=True):
            whole.view(-1)[here] = part
        if positive is not None:
            positive.view(-1)[here] = p_RK[:, 1]
        classwise.add(start, p_RK, y_R)
    width, mass = equal_width(e.confidence, bins), equal_mass(e.confidence, bins)
    area, excess = risk_area(e.confidence, e.correct)
    out = {
        "accuracy": e.correct.mean(-1),
        "log_loss": e.log_loss.mean(-1),
        "brier": e.brier.mean(-1),
        "ece": binned_error(e.confidence, e.correct, width, bins),
        "adaptive_ece": binned_error(e.confidence, e.correct, mass, bins),
        "classwise_ece": classwise.result(),
        "debiased_squared_ece": debiased_squared_error(e.confidence, e.correct, mass, bins),
        "mean_confidence": e.confidence.mean(-1),
        "mean_entropy": e.entropy.mean(-1),
        "aurc": area,
        "e_aurc": excess,
        "log_loss_n": e.log_loss,
        "brier_n": e.brier,
        "correct_n": e.correct,
    }
    if positive is not None:
        labels = y.expand(positive.shape).double()
        out["ece_positive"] = binned_error(positive, labels, equal_width(positive, bins), bins)
    return out
