"""Predictions made elsewhere, judged like the harness's own: every calibrator, every metric, with intervals."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from calib_bench import inference
from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.fitting import CalibratorError, too_large
from calib_bench.analysis.result_rows import TWO_KINDS, Row, adjusted, doubtful, fields
from calib_bench.analysis.scores import MEANS, RAW, REPAIRED, SETS, SeedScores, difference, split_measured
from calib_bench.analysis.temperature_influence import log_kappa_n, temperature_slopes
from calib_bench.core.baseline import Calibrator, Params
from calib_bench.core.study import Analysis, StudyResult
from calib_bench.errors import UserError
from calib_bench.evaluation import curves
from calib_bench.evaluation.findings import tables, verdict, warnings
from calib_bench.evaluation.models import (
    Model,
    calibrated,
    calibration_predictions,
    calibration_set,
    check_folds,
    collapsed_models,
    have_own_tests,
)
from calib_bench.metrics import PredictionSets, confidence_n, entropy_n, measure, prediction_sets
from calib_bench.metrics.binned import BINS, equal_width

MOST_CELLS = 4_000_000
"""Most entries S x N x K of probabilities for which classwise ECE has an interval, which costs 1,000 times that."""
Top = tuple[Sequence[NDArray[np.float64]], Sequence[NDArray[np.float64]]]
"""Confidences and whether the top label was right, [N] a model."""
REMARK = "fitted on log p: not the fit that logits would give"


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


@dataclass(frozen=True)
class EvaluationResult(StudyResult):
    """What files and figures of an evaluation are made of.

    Attributes:
        params: by calibrator, what it learned of each model's calibration set.
        top: of the raw predictions and after temperature scaling, confidences and whether they were right, a model.
    """

    params: Mapping[str, Sequence[Params]] = field(default_factory=dict)
    top: Mapping[str, Top] = field(default_factory=dict)


def score(
    models: Sequence[Model], method: str, calibrator: Calibrator | None, folds: int = 0, seed: int = 0, bins: int = BINS
) -> Scored:
    """Scores of one method, or (None) of the raw predictions, one model's probabilities in memory at a time.

    Raises:
        UserError: the calibrator is not for such predictions.
    """
    cells = sum(m.test.Z_NK.numel() for m in models)
    examples: dict[str, list[Tensor]] = {}
    metrics: dict[str, list[float]] = {}
    scored = Scored(examples, metrics, [], [], [], bins=bins)
    for model in models:
        logp_NK, params = calibrated(model, calibrator, folds, seed)
        scored.params.append(params)
        y_N = model.test.y_N
        values = measure(logp_NK, y_N, bins)
        values |= {"confidence_n": confidence_n(logp_NK), "entropy_n": entropy_n(logp_NK)}
        if logp_NK.shape[1] == 2:
            values["positive_n"] = logp_NK.double().softmax(-1)[:, 1]
        of_model, of_examples = split_measured(values)
        for name, value in of_model.items():
            metrics.setdefault(name, []).append(value)
        for name, value_N in of_examples.items():
            examples.setdefault(name, []).append(value_N)
        scored.nulls.append(inference.ece_null(logp_NK, y_N, bins=bins))
        if cells <= MOST_CELLS:
            scored.classwise.append(_binned(logp_NK.exp(), one_hot(y_N, logp_NK.shape[1]), bins))
        if calibrator is None or method == REPAIRED:
            _add_sets(scored.sets, metrics, model, calibrator, logp_NK)
        if method == REPAIRED and params:
            Z_NK, fitted_y_N = calibration_set(model)
            scored.at_bound.append(bool(params["at_bound"]))
            scored.log_kappa.append(log_kappa_n(Z_NK.double(), fitted_y_N, float(params["temperature"])))
            scored.slopes.append(temperature_slopes(logp_NK, y_N))
    return scored


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


def summary(scored: Scored, nested: bool, y: Sequence[Tensor]) -> Row:
    """Every metric's mean over seeds with its interval, the null ECE, and kappa where there is one."""
    S = len(y)
    intervals = {name: inference.within(interval, name) for name, interval in _intervals(scored, nested, y).items()}
    row: Row = {name: math.fsum(values) / S for name, values in scored.metrics.items()}
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
    intervals |= {metric: _mean_interval(metric, scored, nested) for metric in MEANS}
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
        return inference.Fitted(sides[0], 0.0, 0.0)
    one, two = inference.apart(*sides) if apart else sides
    return inference.Fitted(one - two, 0.0, 0.0) if one.shape == two.shape else None


def _mean_interval(metric: str, scored: Scored, nested: bool) -> inference.Interval:
    """The interval of a mean over examples and seeds."""
    rows = [values.numpy() for values in scored.examples[MEANS[metric]]]
    return inference.score_interval(metric, rows, nested, fitted_to(metric, scored))


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


def evaluate(
    models: Sequence[Model],
    calibrators: Mapping[str, Calibrator],
    folds: int = 0,
    seed: int = 0,
    chosen: bool = False,
    bins: int = BINS,
) -> Analysis:
    """Raw predictions and every calibrator's, measured.

    Args:
        models: one a seed, paired by order.
        calibrators: by name; used where there is a calibration set, or with `folds`.
        folds: folds of cross-fitting on the test examples, for models without a calibration set.
        seed: of the folds.
        chosen: whether the user named the calibrators: one that does not fit the problem is then an error.
        bins: of calibration errors by binning, and of the reliability diagram.

    A calibrator that fails is named and left out, as is one that would learn too many numbers for so many classes and
    was not chosen.

    Raises:
        UserError: a chosen calibrator is not for such predictions, or all of them failed, or there are too few examples
            for the folds.
    """
    check_folds(models, folds)
    nested, exact = have_own_tests(models), all(m.exact for m in models)
    fits = bool(models[0].calibration is not None or folds)
    results = _Results(models, nested)
    skipped: list[str] = []
    for method, calibrator in _methods(models, calibrators if fits else {}, chosen).items():
        scored = _attempt(models, method, calibrator, folds, seed, chosen, bins)
        if isinstance(scored, str):
            skipped.append(f"{method} was left out: {scored}")
            continue
        skipped += cautions(models, method, calibrator)
        results.add(method, scored, None if exact else _remark(calibrator))
    if chosen and fits and len(results.rows) == 1:
        raise UserError("; ".join(skipped) + ": no calibrator that was named is left")
    frames = results.frames()
    context = {"models": models, "nested": nested, "folds": folds, "exact": exact, "skipped": skipped}
    result = EvaluationResult(params=results.params, top=results.top)
    all_tables = {**tables(frames, context), **curves.tables(results.top, bins)}
    return Analysis(verdict(frames, context), all_tables, warnings(frames, context), result)


def _remark(calibrator: Calibrator | None) -> str | None:
    """What to remark of a method where only probabilities are known."""
    return None if calibrator is None or calibrator.shift_invariant else REMARK


@dataclass
class _Results:
    """Rows of tables, filled method by method, the raw predictions first."""

    models: Sequence[Model]
    nested: bool
    rows: list[Row] = field(default_factory=list)
    differences: list[Row] = field(default_factory=list)
    decisions: list[Row] = field(default_factory=list)
    per_model: list[Row] = field(default_factory=list)
    raw: Scored | None = None
    params: dict[str, list[Params]] = field(default_factory=dict)
    top: dict[str, Top] = field(default_factory=dict)

    @cached_property
    def mixed(self) -> bool:
        """Whether some of the models collapsed, not all."""
        return bool(collapsed_models(self.models))

    def add(self, method: str, scored: Scored, remark: str | None) -> None:
        """Add the rows of a method's scores."""
        if method in (RAW, REPAIRED):
            self.top[method] = scored.top
        if all(scored.params):
            self.params[method] = scored.params
        y = [model.test.y_N for model in self.models]
        self.rows.append({"method": method, **summary(scored, self.nested, y), "remark": remark})
        for i, model in enumerate(self.models):
            metrics = {name: values[i] for name, values in scored.metrics.items()}
            ece_null, ece_p = scored.nulls[i]
            row = {"model": model.test.name, "method": method, **metrics, "ece_null": ece_null, "ece_p": ece_p}
            self.per_model.append(row)
        if self.raw is None:
            self.raw = scored
        else:
            difference = {"method": method, **contrast(scored, self.raw, self.nested)}
            kinds = {TWO_KINDS: "models"} if self.mixed else {}
            self.differences.append(difference | kinds)
            intervals = decision_contrasts(scored, self.raw, self.nested)
            self.decisions.append({"method": method, **_row(intervals), **kinds})

    def frames(self) -> dict[str, pd.DataFrame]:
        """The rows as data frames: of methods, of their differences from raw, and of each model."""
        return {
            "evaluation": pd.DataFrame(self.rows),
            "differences": adjusted(pd.DataFrame(self.differences)),
            "decision_differences": adjusted(pd.DataFrame(self.decisions)),
            "models": pd.DataFrame(self.per_model),
        }


def _methods(
    models: Sequence[Model], calibrators: Mapping[str, Calibrator], chosen: bool
) -> dict[str, Calibrator | None]:
    """The raw predictions (None) and the calibrators, without those for other numbers of classes unless chosen."""
    K = models[0].test.Z_NK.shape[1]
    fitting = {name: one for name, one in calibrators.items() if chosen or one.classes in (None, K)}
    return {RAW: None, **fitting}


def _attempt(
    models: Sequence[Model], method: str, calibrator: Calibrator | None, folds: int, seed: int, chosen: bool, bins: int
) -> Scored | str:
    """Scores of a method, or why it is left out.

    Raises:
        UserError: a chosen calibrator is not for such predictions.
    """
    if calibrator is None:
        return score(models, method, None, folds, seed, bins)
    large = None if chosen else too_large(calibrator, *_largest(models))
    if large is not None:
        return f"{large}; --calibrator {method} fits it all the same."
    try:
        return score(models, method, calibrator, folds, seed, bins)
    except UserError as error:
        if chosen and not isinstance(error, CalibratorError):
            raise
        return str(error)
    except MemoryError:
        return "what it gave could not be measured for want of memory"


def cautions(models: Sequence[Model], method: str, calibrator: Calibrator | None) -> list[str]:
    """Cautions of a calibrator about the sets it is fitted on (see `Calibrator.warn`), each once."""
    if calibrator is None or calibrator.warn is None:
        return []
    texts = [calibrator.warn(model.to_fit.Z_NK, model.to_fit.y_N) for model in models]
    return [f"{method}: {text}." for text in dict.fromkeys(texts) if text]


def _largest(models: Sequence[Model]) -> tuple[int, int]:
    """The most calibration examples, and the number of classes."""
    return max(len(model.to_fit.y_N) for model in models), models[0].test.Z_NK.shape[1]


def contrast(scored: Scored, other: Scored, nested: bool) -> Row:
    """Paired difference of the two on the main metrics, with interval and p-value; ECE by bootstrap, unless nested."""
    return _row(contrasts(scored, other, nested))


def _row(intervals: Mapping[str, inference.Interval]) -> Row:
    """Intervals as a row of a table, with what casts doubt on them."""
    row: Row = {}
    for name, interval in intervals.items():
        row |= fields(name, interval)
    return row | doubtful(intervals)


def contrasts(scored: Scored, other: Scored, nested: bool, apart: bool = False) -> dict[str, inference.Interval]:
    """Intervals of the paired differences of two methods: accuracy, log loss, Brier score and ECE.

    Args:
        apart: see `fitted_to`.
    """
    intervals = {}
    for metric in ("accuracy", "log_loss", "brier", "ece"):
        fit = fitted_to(metric, scored, other if other.slopes else None, apart)
        intervals[metric] = difference(metric, scored, other, nested, fit)
    return intervals
