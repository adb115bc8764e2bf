"""Metrics: pure functions of (logits or log probabilities [..., N, K], labels [..., N]).

`measure` gives all of them at once; each is also a function of its own, with an example. Sums run in float64 over
blocks of rows, so that memory beyond the inputs and the per-example results does not grow with N x K (say 50,000 x
1,000).
"""

from calib_bench.metrics.binned import (
    Reliability,
    adaptive_ece,
    classwise_ece,
    classwise_ece_sum,
    debiased_squared_ece,
    ece,
    ece_positive,
    mce,
    reliability,
)
from calib_bench.metrics.conformal import PredictionSets, prediction_sets
from calib_bench.metrics.decisions import augrc, auroc, coverage_at_5_risk, risk_at_80_coverage
from calib_bench.metrics.risk import aurc, e_aurc
from calib_bench.metrics.scores import (
    accuracy,
    brier,
    brier_n,
    confidence_n,
    correct_n,
    entropy_n,
    log_loss,
    log_loss_n,
    mean_confidence,
    mean_entropy,
)
from calib_bench.metrics.smooth import smece, smece_positive
from calib_bench.metrics.streaming import Streaming
from calib_bench.metrics.table import measure, measure_confidence

__all__ = [
    "PredictionSets",
    "Reliability",
    "Streaming",
    "accuracy",
    "adaptive_ece",
    "augrc",
    "aurc",
    "auroc",
    "brier",
    "brier_n",
    "classwise_ece",
    "classwise_ece_sum",
    "confidence_n",
    "correct_n",
    "coverage_at_5_risk",
    "debiased_squared_ece",
    "e_aurc",
    "ece",
    "ece_positive",
    "entropy_n",
    "log_loss",
    "log_loss_n",
    "mce",
    "mean_confidence",
    "mean_entropy",
    "measure",
    "measure_confidence",
    "prediction_sets",
    "reliability",
    "risk_at_80_coverage",
    "smece",
    "smece_positive",
]
