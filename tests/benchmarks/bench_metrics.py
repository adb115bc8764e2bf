"""Metrics: the calibration error against other packages, and all metrics together against passes over the data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from calib_bench import metrics
from tests.benchmarks.bench_scaling import data
from tests.benchmarks.harness import OURS, Bench, Case

PASS = "one float64 log-softmax pass"


def ece(N: int, K: int, pairs: int) -> Bench:
    """15 equal-width bins of the top label. The packages get probabilities, made untimed; ours starts from logits."""
    warnings.simplefilter("ignore")
    from netcal.metrics import ECE
    from probmetrics.distributions import CategoricalDirac, CategoricalProbs
    from probmetrics.metrics import CalibrationError
    from torchmetrics.functional.classification import multiclass_calibration_error

    z, y = data(N, K)
    p = z.double().softmax(1)
    p_np, y_np = p.numpy(), y.numpy()
    theirs = CalibrationError(15)
    labels, probs = CategoricalDirac(y, K), CategoricalProbs(p)

    def check(results: Mapping[str, Any]) -> str:
        gap = {name: abs(float(value) - float(results[OURS])) for name, value in results.items() if name != OURS}
        assert gap["netcal"] < 1e-9, "netcal finds another ECE"
        return "ECE differs by " + ", ".join(f"{name} {value:.0e}" for name, value in gap.items())

    return Bench(
        ours=lambda: metrics.ece(z, y),
        peers={
            "torchmetrics": lambda: multiclass_calibration_error(p, y, num_classes=K, n_bins=15, norm="l1"),
            "netcal": lambda: ECE(15).measure(p_np, y_np),
            "probmetrics": lambda: theirs.compute(y_true=labels, y_pred=probs),
        },
        pairs=pairs,
        limit=("memory", z.nbytes),
        check=check,
        unit=(N, "examples"),
    )


def everything(N: int, K: int) -> Bench:
    """The pass runs over blocks of rows that stay in the cache, and keeps nothing: it could not be cheaper."""
    z, y = data(N, K)

    def one_pass() -> None:
        for part in z.split(max(1, (1 << 15) // K)):
            torch.log_softmax(part.double(), -1)

    def check(results: Mapping[str, Any]) -> str:
        found = results[OURS]
        logp = z[: 1 << 12].double().log_softmax(-1)
        first = found["log_loss_n"][: len(logp)] + logp.gather(1, y[: len(logp), None])[:, 0]
        assert np.abs(first.numpy()).max() < 1e-12
        return f"{sum(value.ndim == 0 for value in found.values())} metrics and 4 per-example scores"

    return Bench(
        ours=lambda: metrics.measure(z, y),
        peers={PASS: one_pass},
        pairs=5,
        limit=("memory", z.nbytes),
        check=check,
        unit=(N, "examples"),
    )


CASES = [
    Case("ece_10000x10", "ECE, 10,000 x 10", lambda: ece(10_000, 10, pairs=15)),
    Case("ece_50000x1000", "ECE, 50,000 x 1,000", lambda: ece(50_000, 1000, pairs=3)),
    Case(
        "metrics_50000x1000",
        "all metrics, 50,000 x 1,000",
        lambda: everything(50_000, 1000),
        least={PASS: 1 / 3},
    ),
]
