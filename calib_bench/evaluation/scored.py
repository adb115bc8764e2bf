"""What one method gives on several models: its scores, their intervals, and its differences from another."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from torch import Tensor
from torch.nn.functional import one_hot

from calib_bench import inference
from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.result_rows import Row, doubtful, row_of
from calib_bench.analysis.scores import MEANS, REPAIRED, SETS, SeedScores, difference, split_measured
from calib_bench.analysis.temperature_influence import log_kappa_n, temperature_slopes
from calib_bench.core.baseline import Calibrator, Params
from calib_bench.evaluation.confidence import measure_alone
from calib_bench.evaluation.models import Model, calibrated, calibration_predictions, calibrator_input
from calib_bench.inference.scores import with_doubt
from calib_bench.metrics import PredictionSets, confidence_n, entropy_n, measure, prediction_sets
from calib_bench.metrics.binned import BINS, equal_width

T = TypeVar("T")
MOST_CELLS = 4_000_000
"""Most entries S x N x K of probabilities for which classwise ECE has an interval, which costs 1,000 times that."""
CONTRASTED = ("accuracy", "log_loss", "brier", "ece")
"""Metrics in which methods are compared."""
OF_ERRORS = ("log_loss", "brier")
"""Means of which a few wrong examples are a large part, so that limits are in doubt where hardly any was seen: a sample
without one has small losses that hardly vary, and no skewness to tell. Accuracy has exact limits."""


@dataclass(frozen=True)
class Scored(SeedScores):
    """One method's scores of every seed; examples' are also entropy, and positive where K = 2.

    Attributes:
        classwise: gaps and bins of every class, a seed; empty where that would take too long.
        nulls: ECE of a calibrated model and p-value, a seed.
        log_kappa: see `temperature_influence.log_kappa_n`, a seed; for temperature scaling.
        at_bound: whether the temperature stopped at a bound, a seed; for temperature scaling.
        slopes: see `temperature_influence.temperature_slopes`, a seed; for temperature scaling.
        sets: by kind, conformal sets of each seed, thresholds from the calibration set; of the raw predictions and
            after temperature scaling (see `measure.SETS`), empty without a calibration set.
        params: what the calibrator learned, a seed; empty without a calibration set.
    """

    classwise: list[inference.Binned]
    nulls: list[tuple[float, float]]
    log_kappa: list[Tensor]
    at_bound: list[bool] = field(default_factory=list)
    slopes: list[Mapping[str, tuple[float, float]]] = field(default_factory=list)
    sets: dict[str, list[PredictionSets]] = field(default_factory=dict)
    params: list[Params] = field(default_factory=list)


def score(
    models: Sequence[Model], method: str, calibrator: Calibrator | None, folds: int = 0, seed: int = 0, bins: int = BINS
) -> Scored:
    """Scores of one method, or (None) of the raw predictions, one model's probabilities in memory at a time.

    Raises:
        UserError: the calibrator is not for such predictions.
    """
    fits = (calibrated(model, calibrator, folds, seed) for model in models)
    return score_fits(models, fits, method, calibrator, bins)


def score_fits(
    models: Sequence[Model],
    fits: Iterable[tuple[Tensor, Params]],
    method: str,
    calibrator: Calibrator | None,
    bins: int = BINS,
) -> Scored:
    """Scores of one method.

    Args:
        fits: of each model the method's log probabilities [N, K] of its test examples, and what it learned.
    """
    cells = sum(m.test.Z_NK.numel() for m in models)
    examples: dict[str, list[Tensor]] = {}
    metrics: dict[str, list[float]] = {}
    scored = Scored(examples, metrics, [], [], [], bins=bins)
    for model, (logp_NK, params) in zip(models, fits, strict=True):
        scored.params.append(params)
        y_N = model.test.y_N
        of_model, of_examples = split_measured(_measured(model, logp_NK, bins))
        _append(metrics, of_model)
        _append(examples, of_examples)
        confidence, correct = of_examples["confidence"].numpy(), of_examples["correct"].numpy()
        scored.nulls.append(inference.ece_null_of(confidence, correct, bins=bins))
        if model.test.alone:
            continue
        if cells <= MOST_CELLS:
            scored.classwise.append(_binned(logp_NK.exp(), one_hot(y_N, logp_NK.shape[1]), bins))
        if calibrator is None or method == REPAIRED:
            _add_sets(scored.sets, metrics, model, calibrator, logp_NK)
        if method == REPAIRED and params:
            Z_MK = calibrator_input(model, model.to_fit).double()
            scored.at_bound.append(bool(params["at_bound"]))
            scored.log_kappa.append(log_kappa_n(Z_MK, model.to_fit.y_N, float(params["temperature"])))
            scored.slopes.append(temperature_slopes(logp_NK, y_N))
    return scored


def _append(lists: dict[str, list[T]], values: Mapping[str, T]) -> None:
    """Adds each value to the list of its name."""
    for name, value in values.items():
        lists.setdefault(name, []).append(value)


def _measured(model: Model, logp_NK: Tensor, bins: int) -> dict[str, Tensor]:
    """Every metric, and every example's scores, of a model's test examples."""
    y_N = model.test.y_N
    if model.test.alone:
        return measure_alone(logp_NK, y_N, bins)
    values = measure(logp_NK, y_N, bins)
    values |= {"confidence_n": confidence_n(logp_NK), "entropy_n": entropy_n(logp_NK)}
    if logp_NK.shape[1] == 2:
        values["positive_n"] = logp_NK.double().softmax(-1)[:, 1]
    return values


def _add_sets(
    sets: dict[str, list[PredictionSets]],
    metrics: dict[str, list[float]],
    model: Model,
    calibrator: Calibrator | None,
    logp_NK: Tensor,
) -> None:
    """Adds one seed's conformal sets and the metrics that are their means; nothing without a calibration set."""
    if model.calibration is None:
        return
    by_kind = prediction_sets(*calibration_predictions(model, calibrator), logp_NK, model.test.y_N)
    for kind, of_kind in by_kind.items():
        sets.setdefault(kind, []).append(of_kind)
        for what in ("coverage", "size"):
            metrics.setdefault(f"{kind}_{what}", []).append(float(of_kind.of(what)[0].mean()))


def summary(scored: Scored, nested: bool, y: Sequence[Tensor], **more: inference.Interval) -> Row:
    """Every metric's mean over seeds with its interval, the null ECE, kappa if there is one, and limits of `more`."""
    S = len(y)
    intervals = {name: inference.within(interval, name) for name, interval in _intervals(scored, nested, y).items()}
    row: Row = {name: math.fsum(values) / S for name, values in scored.metrics.items()}
    intervals |= more
    for name, interval in intervals.items():
        row |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    row["ece_null"] = math.fsum(null for null, _ in scored.nulls) / S
    if S == 1:
        row["ece_null_p"] = scored.nulls[0][1]
    return row | kappa_of(scored) | doubtful(intervals)


def _intervals(scored: Scored, nested: bool, y: Sequence[Tensor]) -> dict[str, inference.Interval]:
    """Intervals of metrics: over examples and seeds where examples have scores, else over several seeds alone."""
    top = scored.top
    intervals: dict[str, inference.Interval] = {
        "ece": inference.ece_interval(*top, bins=scored.bins, nested=nested),
        "adaptive_ece": inference.ece_interval(*top, adaptive=True, bins=scored.bins, nested=nested),
        "aurc": inference.aurc_interval(*top, nested=nested),
        "e_aurc": inference.aurc_interval(*top, excess=True, nested=nested),
        **inference.decision_intervals(*top, nested=nested),
        **set_intervals(scored, None, nested),
    }
    if scored.classwise:
        intervals["classwise_ece"] = inference.binned_interval(scored.classwise, bins=scored.bins, nested=nested)
    if "positive" in scored.examples:
        positive = [
            _binned(p, labels.double(), scored.bins) for p, labels in zip(scored.examples["positive"], y, strict=True)
        ]
        intervals["ece_positive"] = inference.binned_interval(positive, bins=scored.bins, nested=nested)
    intervals |= {metric: _mean_interval(metric, scored, nested) for metric in MEANS if metric in scored.metrics}
    if len(y) > 1:
        intervals |= _over_seeds(scored, intervals)
    return intervals


def _over_seeds(scored: Scored, others: Container[str]) -> dict[str, inference.Interval]:
    """Intervals over seeds alone of every metric that is not among others."""
    values = {metric: by_seed for metric, by_seed in scored.metrics.items() if metric not in others}
    return {
        metric: inference.score_interval(metric, [[one] for one in values[metric]], nested=True) for metric in values
    }


def decision_contrasts(
    scored: Scored, other: Scored, nested: bool, apart: bool = False
) -> dict[str, inference.Interval]:
    """Intervals of the paired differences of two methods in what confidence is worth to a decision.

    Args:
        apart: whether the two have calibration examples of their own.
    """
    intervals = inference.decision_intervals(*scored.top, other.top, nested=nested)
    return intervals | set_intervals(scored, other, nested, apart)


def set_intervals(
    scored: Scored, other: Scored | None, nested: bool, apart: bool = False
) -> dict[str, inference.Interval]:
    """Intervals of coverage and size of conformal sets, or of their differences from another's; empty without sets.

    The calibration examples behind the thresholds are counted, but where seeds differ in their number: the spread over
    seeds then holds it.
    """
    sides = [scored] if other is None else [scored, other]
    if not all(side.sets for side in sides):
        return {}
    return {metric: _set_interval(sides, metric, nested, apart) for metric in SETS}


def _set_interval(sides: Sequence[Scored], metric: str, nested: bool, apart: bool) -> inference.Interval:
    """inference.Interval of one metric of sets, of one method's or of one less another's."""
    kind, what = metric.split("_")
    pairs = [[sets.of(what) for sets in side.sets[kind]] for side in sides]
    fit = _threshold([[influence for _, influence in seeds] for seeds in pairs], apart)
    rows = [value.numpy() for value, _ in pairs[0]]
    if len(sides) == 1:
        return inference.score_interval(metric, rows, nested, fit)
    rows = [value - less.numpy() for value, (less, _) in zip(rows, pairs[1], strict=True)]
    return inference.difference_interval(metric, rows, nested, fit)


def _threshold(influences: Sequence[Sequence[Tensor]], apart: bool) -> inference.Fitted | None:
    """What calibration examples add through thresholds to a mean over sets of one arm, or to one arm less another."""
    if any(len({len(influence) for influence in seeds}) > 1 for seeds in influences):
        return None
    sides = [np.stack([influence.numpy() for influence in seeds]) for seeds in influences]
    sides = [side - side.mean(1, keepdims=True) for side in sides]
    if len(sides) == 1:
        return inference.at_threshold(sides[0])
    one, two = inference.apart(*sides) if apart else sides
    return inference.at_threshold(one - two) if one.shape == two.shape else None


def _mean_interval(metric: str, scored: Scored, nested: bool) -> inference.Interval:
    """The interval of a mean over examples and seeds."""
    rows = [values.numpy() for values in scored.examples[MEANS[metric]]]
    interval = inference.score_interval(metric, rows, nested, fitted_to(metric, scored))
    return with_doubt(interval, [scored.top[1]], nested) if metric in OF_ERRORS else interval


def _binned(p: Tensor, hit: Tensor, bins: int) -> inference.Binned:
    """Probabilities and outcomes of one shape, in bins of equal width."""
    return inference.Binned((p - hit).numpy(), equal_width(p, bins).numpy())


def kappa_of(scored: Scored) -> Row:
    """Geometric mean over seeds; the interval is over seeds and calibration examples, none at a bound."""
    if not scored.log_kappa:
        return {}
    rows = [values.numpy() for values in scored.log_kappa]
    log_interval = inference.crossed_interval(rows, nested=len({len(row) for row in rows}) > 1)
    if any(scored.at_bound):
        return {"kappa": math.exp(log_interval.mean)}
    return Estimate.of_interval(log_interval).exp().limits("kappa")


def fitted_to(metric: str, scored: Scored, other: Scored | None = None, apart: bool = False) -> inference.Fitted | None:
    """What the calibration examples of a temperature add to a mean score after it, or to the difference of two.

    Args:
        other: of the models to subtract, paired by order.
        apart: whether the two have calibration examples of their own.

    Returns:
        None of other metrics and methods, with a temperature at a bound, and where models differ in the number of
        calibration examples: their spread holds it.
    """
    sides = [scored] if other is None else [scored, other]
    if not all(_has_fits(side, metric) for side in sides):
        return None
    log_T = [np.stack([values.numpy() for values in side.log_kappa]) for side in sides]
    pairs = np.array([[slopes[metric] for slopes in side.slopes] for side in sides])
    together = inference.apart(*log_T) if apart else np.stack(log_T)
    return inference.fitted(together, pairs[..., 0], pairs[..., 1], (1.0, -1.0)[: len(sides)])


def _has_fits(scored: Scored, metric: str) -> bool:
    """Whether a metric has slopes in the temperature, and all temperatures are off their bounds, of equal samples."""
    if not scored.slopes or any(scored.at_bound) or metric not in scored.slopes[0]:
        return False
    return len({len(values) for values in scored.log_kappa}) == 1


def contrast(scored: Scored, other: Scored, nested: bool) -> Row:
    """Paired difference of the two on the main metrics, with interval and p-value; ECE by bootstrap, unless nested."""
    return row_of(contrasts(scored, other, nested))


def contrasts(scored: Scored, other: Scored, nested: bool, apart: bool = False) -> dict[str, inference.Interval]:
    """Intervals of the paired differences of two methods: accuracy, log loss, Brier score and ECE.

    Args:
        apart: see `fitted_to`.
    """
    intervals = {}
    for metric in (metric for metric in CONTRASTED if metric in scored.metrics):
        fit = fitted_to(metric, scored, other if other.slopes else None, apart)
        interval = difference(metric, scored, other, nested, fit)
        intervals[metric] = with_doubt(interval, [scored.top[1], other.top[1]], nested)
    return intervals
