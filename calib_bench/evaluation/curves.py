"""What figures of an evaluation show: reliability by bin, risk by coverage, and ECE by the number of bins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrik

from calib_bench import inference
from calib_bench.core.study import Table
from calib_bench.inference.ranking import by_confidence
from calib_bench.metrics.binned import BINS, equal_width

Array = NDArray[Any]
Top = tuple[Sequence[Array], Sequence[Array]]
BIN_COUNTS = (5, 10, 15, 20, 30, 50, 100)
"""Numbers of bins at which ECE is shown."""
COVERAGES = 200
"""Points of a curve of risk at most."""
NULL_DRAWS = 200
"""Draws for the ECE of a calibrated model at each number of bins."""


def tables(top: Mapping[str, Top], bins: int = BINS) -> dict[str, Table]:
    """Tables behind the figures.

    Args:
        top: by method, confidences and whether the top label was right, [N] a model each.
        bins: of the reliability diagram.
    """
    frames = [_frame(rows, top, bins) for rows in (_reliability, _risk, _errors)]
    return {
        "reliability": Table("Confidence and accuracy by bin", frames[0], _reliability_note(top), names=("method",)),
        "risk_coverage": Table("Risk against coverage", frames[1], RISK_NOTE, names=("method",)),
        "ece_over_bins": Table("ECE by the number of bins", frames[2], ERRORS_NOTE, names=("method",)),
    }


RISK_NOTE = "Risk is the error rate among the share of examples, coverage, in which the model is most confident."
ERRORS_NOTE = (
    "Equal-width bins, mean over models; ece null is what a calibrated model with these confidences would show."
)
BAND_NOTE = (
    "consistent low and high hold the accuracy of 95% of calibrated models in a bin of this count and mean confidence "
    "(Broecker & Smith, 2007), of each bin alone"
)


def _reliability_note(top: Mapping[str, Top]) -> str:
    models = max(len(confidences) for confidences, _ in top.values())
    if models == 1:
        return f"{BAND_NOTE[0].upper()}{BAND_NOTE[1:]}."
    return f"Examples of {models} models together; {BAND_NOTE}, as of one model's examples."


def _frame(rows: Any, top: Mapping[str, Top], bins: int) -> pd.DataFrame:
    return pd.DataFrame([{"method": method, **row} for method, one in top.items() for row in rows(one, bins)])


def _reliability(top: Top, bins: int) -> Iterator[dict[str, float]]:
    """A row a bin that holds an example."""
    confidence_N, correct_N = map(np.concatenate, top)
    index_N = equal_width(torch.from_numpy(confidence_N), bins).numpy()
    for b in np.unique(index_N):
        rows = index_N == b
        count, confidence = int(rows.sum()), float(confidence_N[rows].mean())
        per_model = max(1, round(count / len(top[0])))
        low, high = _binomial_quantiles((0.025, 0.975), per_model, min(confidence, 1.0)) / per_model
        yield {
            "low": b / bins,
            "high": (b + 1) / bins,
            "count": count,
            "confidence": confidence,
            "accuracy": float(correct_N[rows].mean()),
            "consistent_low": float(low),
            "consistent_high": float(high),
        }


def _binomial_quantiles(levels: Sequence[float], n: int, p: float) -> Array:
    """The least counts of cumulative probability `levels` or more; importing scipy.stats takes a second."""
    if p == 0:
        return np.zeros(len(levels))
    above = np.ceil(bdtrik(levels, n, p))
    below = np.maximum(above - 1, 0)
    return np.where(bdtr(below, n, p) >= levels, below, above)


def _risk(top: Top, bins: int) -> Iterator[dict[str, float]]:
    """Points of the curve, mean over models at equal coverages; equal confidences hold their mean error."""
    places = np.arange(1, COVERAGES + 1)
    curves = []
    for confidence_N, correct_N in zip(*top, strict=True):
        order, wrong_N, tied = by_confidence(confidence_N, correct_N)
        risk_N = tied(wrong_N).cumsum() / np.arange(1, len(order) + 1)
        curves.append(risk_N[-(-places * len(order) // COVERAGES) - 1])
    for share, risk in zip(places / COVERAGES, np.mean(curves, 0), strict=True):
        yield {"coverage": float(share), "risk": float(risk)}


def _errors(top: Top, bins: int) -> Iterator[dict[str, float]]:
    """ECE and that of a calibrated model at each number of bins, and at the one that was chosen."""
    for count in sorted({*BIN_COUNTS, bins}):
        errors, nulls = [], []
        for confidence_N, correct_N in zip(*top, strict=True):
            index_N = equal_width(torch.from_numpy(confidence_N), count).numpy()
            gaps = np.bincount(index_N, confidence_N - correct_N, count)
            errors.append(np.abs(gaps).sum() / len(confidence_N))
            nulls.append(inference.ece_null_of(confidence_N, None, NULL_DRAWS, bins=count)[0])
        yield {"bins": count, "ece": float(np.mean(errors)), "ece_null": float(np.mean(nulls))}
