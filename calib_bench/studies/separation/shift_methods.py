"""Every calibrator on shifted test data, fitted on the clean calibration split: all metrics, averaged over corruptions.

An example's scores are averaged over the corruptions of a severity, and so is a metric that is no mean over examples,
in each seed. Intervals are those of the table of baselines, but for ECE and for the choice of rates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calib_bench.analysis.arms import CROSSED, over_seeds
from calib_bench.analysis.measure import STACK_VALUES, set_values
from calib_bench.analysis.result_rows import Row, doubtful, fields, limits
from calib_bench.analysis.scores import MEANS, METRICS, RAW, REPAIRED, SETS
from calib_bench.analysis.trial_predictions import TrialLogits, maps
from calib_bench.core.baseline import Calibrator
from calib_bench.inference import Fitted, Interval, at_threshold, difference_interval, score_interval
from calib_bench.inference.arrays import Array
from calib_bench.metrics import measure

Split = tuple["Tensor", "Tensor"]
"""Logits Z = beta z, float64 [N, K], and labels [N] of a test split."""
INFLUENCE = "_influence"
LOSS = "log_loss"


@dataclass(frozen=True)
class MethodValues:
    """What one trial scores after one method, in the mean over splits of the same examples.

    Attributes:
        metrics: by name.
        examples: by metric of CROSSED, and of SETS where it has them, each example's value [N].
        influences: by metric of SETS, what each clean calibration example adds to it [M].
    """

    metrics: Mapping[str, float]
    examples: Mapping[str, Array]
    influences: Mapping[str, Array]


ByMethod = dict[str, list[MethodValues]]
"""By method, what a trial scores on each group of splits."""


def by_method(
    read: Sequence[TrialLogits], groups: Sequence[Sequence[Sequence[Split]]], calibrators: Mapping[str, Calibrator]
) -> list[ByMethod]:
    """Of each trial, raw predictions and every calibrator, fitted once; one that refuses the trial is left out.

    Args:
        read: clean logits of trials.
        groups: of each trial its groups of test splits.
        calibrators: by name.
    """
    out: list[ByMethod] = [{} for _ in read]
    for method, by_trial in maps(read, calibrators):
        for i, (columns, apply) in by_trial.items():
            of_group = partial(_values, read[i], method, columns.get("kappa", 1.0), apply)
            values = read[i].attempt(method, lambda i=i, of_group=of_group: list(map(of_group, groups[i])))  # type: ignore[misc]
            if values is not None:
                out[i][method] = values
    return out


def _values(
    clean: TrialLogits, method: str, kappa: float, apply: Callable[[Tensor], Tensor], splits: Sequence[Split]
) -> MethodValues:
    """The mean over splits of one group; small ones are measured together."""
    sums: dict[str, Any] = {}
    has_sets = method in (RAW, REPAIRED)
    together = max(1, STACK_VALUES // splits[0][0].numel())
    for start in range(0, len(splits), together):
        logp = torch.stack([apply(Z_NK) for Z_NK, _ in splits[start : start + together]])
        y = torch.stack([y_N for _, y_N in splits[start : start + together]])
        _add(sums, {name: value.sum(0).numpy() for name, value in measure(logp, y).items()})
        for logp_NK, y_N in zip(logp, y, strict=True) if has_sets else ():
            _add(sums, set_values(clean, logp_NK, y_N, kappa))
    return _means({name: value / len(splits) for name, value in sums.items()}, SETS if has_sets else ())


def _means(means: Mapping[str, Any], sets: Sequence[str]) -> MethodValues:
    """The values of `measure` and `set_values`, sorted."""
    return MethodValues(
        {name: float(np.mean(means[name])) for name in METRICS if name in means},
        {metric: means[f"{MEANS[metric]}_n"] for metric in CROSSED} | {name: means[name] for name in sets},
        {name: means[f"{name}{INFLUENCE}"] - means[f"{name}{INFLUENCE}"].mean() for name in sets},
    )


def _add(sums: dict[str, Any], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + value


Fit = Callable[[str, bool], "Fitted | None"]
"""(metric, whether of a difference) -> what the calibration examples of fitted temperatures add to it."""


def row(
    arm: Sequence[MethodValues],
    raw: Sequence[MethodValues],
    pairs: Sequence[Sequence[MethodValues]],
    nested: bool,
    fit: Fit,
) -> Row:
    """One method's metrics, the change of log loss from raw predictions, and those of CROSSED from the reference's.

    Args:
        arm: one a seed.
        raw: the raw predictions of the same seeds; `arm` itself where they are the method.
        pairs: of the arm and of the reference, over the seeds of both; empty where there are none.
        nested: seeds have test examples of their own.
        fit: what fitted temperatures add; None of other methods.
    """
    columns, intervals = _levels(arm, nested, fit)
    if raw is not arm:
        intervals |= _changes("from_raw", (LOSS,), (arm, raw), nested, lambda metric: fit(metric, False))
    if pairs:
        intervals |= _changes("delta_{}", CROSSED, pairs, nested, lambda metric: fit(metric, True))
    for name, interval in intervals.items():
        if name not in arm[0].metrics:
            columns |= fields(name, interval)
    return columns | doubtful(intervals)


def _levels(arm: Sequence[MethodValues], nested: bool, fit: Fit) -> tuple[Row, dict[str, Interval]]:
    """The columns of every metric, and the intervals of those that are means over examples."""
    columns: Row = {}
    intervals: dict[str, Interval] = {}
    for metric in arm[0].metrics:
        values_SN = _stacked(arm, metric)
        if values_SN is None:
            columns |= over_seeds(metric, [one.metrics[metric] for one in arm])
            continue
        added = _threshold(arm, metric, nested) or fit(metric, False)
        intervals[metric] = score_interval(metric, values_SN, nested, added)
        columns |= limits(metric, intervals[metric])
    return columns, intervals


def _changes(
    name: str, metrics: Sequence[str], pair: Sequence[Sequence[MethodValues]], nested: bool, fit: Callable[[str], Any]
) -> dict[str, Interval]:
    """The one minus the other of a pair in each metric that is a finite mean over examples, by name.format(metric)."""
    intervals = {}
    for metric in metrics:
        one_SN, other_SN = (_stacked(side, metric) for side in pair)
        if one_SN is not None and other_SN is not None:
            intervals[name.format(metric)] = difference_interval(metric, one_SN - other_SN, nested, fit(metric))
    return intervals


def _stacked(arm: Sequence[MethodValues], metric: str) -> Array | None:
    """Values [S, N] of a metric that is a finite mean over examples."""
    if metric not in arm[0].examples:
        return None
    values_SN = np.stack([one.examples[metric] for one in arm])
    return values_SN if np.isfinite(values_SN).all() else None


def _threshold(arm: Sequence[MethodValues], metric: str, nested: bool) -> Fitted | None:
    """What the calibration examples behind the thresholds of sets add; None of other metrics, and of seeds that have
    calibration examples of their own."""
    if nested or metric not in arm[0].influences:
        return None
    return at_threshold(np.stack([one.influences[metric] for one in arm]))
