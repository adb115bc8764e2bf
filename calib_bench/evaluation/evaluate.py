"""Predictions made elsewhere, judged like the harness's own: every calibrator, every metric, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from calib_bench import inference
from calib_bench.analysis.fitting import CalibratorError, too_large
from calib_bench.analysis.measure import METRICS, SETS
from calib_bench.analysis.result_rows import TWO_KINDS, Row, adjusted, doubtful, fields
from calib_bench.analysis.temperature_influence import log_kappa_n, temperature_slopes
from calib_bench.core.baseline import Calibrator
from calib_bench.core.study import Analysis
from calib_bench.errors import UserError
from calib_bench.evaluation.findings import tables, verdict, warnings
from calib_bench.evaluation.models import (
    Model,
    calibrated,
    calibration_predictions,
    calibration_set,
    check_folds,
    collapsed_models,
    own_tests,
)
from calib_bench.inference import (
    Binned,
    Fitted,
    Interval,
    aurc_interval,
    binned_interval,
    crossed_interval,
    decision_intervals,
    difference_interval,
    ece_interval,
    ece_null,
    score_interval,
    within,
)
from calib_bench.metrics import PredictionSets, confidence_n, entropy_n, measure, prediction_sets
from calib_bench.metrics.binned import equal_width

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


RAW = "raw"
REPAIRED = "temperature_scaling"
MEANS = {
    "accuracy": "correct", "log_loss": "log_loss", "brier": "brier", "mean_confidence": "confidence",
    "mean_entropy": "entropy",
}  # fmt: skip
"""Metrics that are means over examples, and the per-example score each is the mean of."""
MOST_CELLS = 4_000_000
"""Most entries S x N x K of probabilities for which classwise ECE has an interval, which costs 1,000 times that."""
REMARK = "fitted on log p: not the fit that logits would give"


@dataclass(frozen=True)
class Scored:
    """One method's scores of every seed.

    Attributes:
        examples: by name (log_loss, brier, correct, confidence, entropy, and positive where K = 2): float64 [N] a seed.
        metrics: by name, one value a seed.
        classwise: gaps and bins of every class, a seed; empty where that would take too long.
        nulls: ECE of a calibrated model and p-value, a seed.
        log_kappa: see `temperature_influence.log_kappa_n`, a seed; for temperature scaling.
        at_bound: how many seeds' temperatures stopped at a bound.
        slopes: see `temperature_influence.temperature_slopes`, a seed; for temperature scaling.
        sets: by kind, conformal sets of each seed, thresholds from the calibration set; of the raw predictions and
            after temperature scaling (see `measure.SETS`), empty without a calibration set.
    """

    examples: Mapping[str, list[Tensor]]
    metrics: dict[str, list[float]]
    classwise: list[Binned]
    nulls: list[tuple[float, float]]
    log_kappa: list[Tensor]
    at_bound: int
    slopes: list[Mapping[str, tuple[float, float]]] = field(default_factory=list)
    sets: dict[str, list[PredictionSets]] = field(default_factory=dict)


def score(models: Sequence[Model], method: str, calibrator: Calibrator | None, folds: int = 0, seed: int = 0) -> Scored:
    """Scores of one method, or (None) of the raw predictions, one model's probabilities in memory at a time.

    Raises:
        UserError: the calibrator is not for such predictions.
    """
    from torch.nn.functional import one_hot

    cells = sum(m.test.Z_NK.numel() for m in models)
    examples: dict[str, list[Tensor]] = {}
    metrics: dict[str, list[float]] = {}
    scored = Scored(examples, metrics, [], [], [], 0)
    at_bound = 0
    for model in models:
        logp_NK, params = calibrated(model, calibrator, folds, seed)
        y_N = model.test.y_N
        values = measure(logp_NK, y_N)
        values |= {"confidence_n": confidence_n(logp_NK), "entropy_n": entropy_n(logp_NK)}
        if logp_NK.shape[1] == 2:
            values["positive_n"] = logp_NK.double().softmax(-1)[:, 1]
        for name, value in values.items():
            if name.endswith("_n"):
                examples.setdefault(name[:-2], []).append(value)
            elif name in METRICS:
                metrics.setdefault(name, []).append(float(value))
        scored.nulls.append(ece_null(logp_NK, y_N))
        if cells <= MOST_CELLS:
            scored.classwise.append(_binned(logp_NK.exp(), one_hot(y_N, logp_NK.shape[1])))
        if calibrator is None or method == REPAIRED:
            _add_sets(scored, model, calibrator, logp_NK)
        if method == REPAIRED and params:
            at_bound += bool(params["at_bound"])
            scored.log_kappa.append(_log_kappa(model, float(params["temperature"]), log_kappa_n))
            scored.slopes.append(temperature_slopes(logp_NK, y_N))
    return replace(scored, at_bound=at_bound)


def _add_sets(scored: Scored, model: Model, calibrator: Calibrator | None, logp_NK: Tensor) -> None:
    """Adds one seed's conformal sets and the metrics that are their means; nothing without a calibration set."""
    if model.calibration is None:
        return
    by_kind = prediction_sets(*calibration_predictions(model, calibrator), logp_NK, model.test.y_N)
    for kind, sets in by_kind.items():
        scored.sets.setdefault(kind, []).append(sets)
        for what in ("coverage", "size"):
            scored.metrics.setdefault(f"{kind}_{what}", []).append(float(sets.of(what)[0].mean()))


def _log_kappa(model: Model, temperature: float, log_kappa_n: Any) -> Tensor:
    Z_NK, y_N = calibration_set(model)
    return log_kappa_n(Z_NK.double(), y_N, temperature)


def summary(scored: Scored, nested: bool, y: Sequence[Tensor]) -> Row:
    """Every metric's mean over seeds with its interval, the null ECE, and kappa where there is one."""

    S = len(y)
    intervals = {name: within(interval, name) for name, interval in _intervals(scored, nested, y).items()}
    row: Row = {name: math.fsum(values) / S for name, values in scored.metrics.items()}
    for name, interval in intervals.items():
        row |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    row["ece_null"] = math.fsum(null for null, _ in scored.nulls) / S
    if S == 1:
        row["ece_null_p"] = scored.nulls[0][1]
    return row | kappa_of(scored) | doubtful(intervals)


def _intervals(scored: Scored, nested: bool, y: Sequence[Tensor]) -> dict[str, Interval]:
    """Intervals of metrics: over examples and seeds where examples have scores, else over several seeds alone."""
    top = _top(scored)
    intervals: dict[str, Interval] = {
        "ece": ece_interval(*top, nested=nested),
        "adaptive_ece": ece_interval(*top, adaptive=True, nested=nested),
        "aurc": aurc_interval(*top, nested=nested),
        "e_aurc": aurc_interval(*top, excess=True, nested=nested),
        **decision_intervals(*top, nested=nested),
        **set_intervals(scored, None, nested),
    }
    if scored.classwise:
        intervals["classwise_ece"] = binned_interval(scored.classwise, nested=nested)
    if "positive" in scored.examples:
        pairs = zip(scored.examples["positive"], y, strict=True)
        intervals["ece_positive"] = binned_interval([_binned(p, labels.double()) for p, labels in pairs], nested=nested)
    for metric, name in MEANS.items():
        rows = [values.numpy() for values in scored.examples[name]]
        intervals[metric] = score_interval(metric, rows, nested, fitted_to(metric, scored))
    if len(y) > 1:
        for metric in [name for name in scored.metrics if name not in intervals]:
            intervals[metric] = score_interval(metric, [[value] for value in scored.metrics[metric]], nested=True)
    return intervals


def decision_contrasts(scored: Scored, other: Scored, nested: bool, apart: bool = False) -> dict[str, Interval]:
    """Intervals of the paired differences of two methods in what confidence is worth to a decision.

    Args:
        apart: whether the two have calibration examples of their own.
    """
    intervals = decision_intervals(*_top(scored), _top(other), nested=nested)
    return intervals | set_intervals(scored, other, nested, apart)


def set_intervals(scored: Scored, other: Scored | None, nested: bool, apart: bool = False) -> dict[str, Interval]:
    """Intervals of coverage and size of conformal sets, or of their differences from another's; empty without sets.

    The calibration examples behind the thresholds are counted, but where seeds differ in their number: the spread over
    seeds then holds it.
    """
    sides = [scored] if other is None else [scored, other]
    if not all(side.sets for side in sides):
        return {}
    return {metric: _set_interval(sides, metric, nested, apart) for metric in SETS}


def _set_interval(sides: Sequence[Scored], metric: str, nested: bool, apart: bool) -> Interval:
    """Interval of one metric of sets, of one method's or of one less another's."""
    kind, what = metric.split("_")
    pairs = [[sets.of(what) for sets in side.sets[kind]] for side in sides]
    fit = _threshold([[influence for _, influence in seeds] for seeds in pairs], apart)
    rows = [value.numpy() for value, _ in pairs[0]]
    if len(sides) == 1:
        return score_interval(metric, rows, nested, fit)
    rows = [value - less.numpy() for value, (less, _) in zip(rows, pairs[1], strict=True)]
    return difference_interval(metric, rows, nested, fit)


def _threshold(influences: Sequence[Sequence[Tensor]], apart: bool) -> Fitted | None:
    """What calibration examples add through thresholds to a mean over sets of one arm, or to one arm less another."""
    import numpy as np

    if any(len({len(influence) for influence in seeds}) > 1 for seeds in influences):
        return None
    sides = [np.stack([influence.numpy() for influence in seeds]) for seeds in influences]
    sides = [side - side.mean(1, keepdims=True) for side in sides]
    if len(sides) == 1:
        return Fitted(sides[0], 0.0, 0.0)
    one, two = inference.apart(*sides) if apart else sides
    return Fitted(one - two, 0.0, 0.0) if one.shape == two.shape else None


def _top(scored: Scored) -> tuple[list[Any], list[Any]]:
    """Confidences and whether the top label was right, [N] a seed."""
    confidence, correct = ([rows.numpy() for rows in scored.examples[name]] for name in ("confidence", "correct"))
    return confidence, correct


def _binned(p: Tensor, hit: Tensor) -> Binned:
    """Probabilities and outcomes of one shape, in bins of equal width."""
    return Binned((p - hit).numpy(), equal_width(p).numpy())


def kappa_of(scored: Scored) -> Row:
    """Geometric mean over seeds; the interval is over seeds and calibration examples, none at a bound."""
    if not scored.log_kappa:
        return {}
    rows = [values.numpy() for values in scored.log_kappa]
    log_interval = crossed_interval(rows, nested=len({len(row) for row in rows}) > 1)
    if scored.at_bound:
        return {"kappa": math.exp(log_interval.mean)}
    return {
        "kappa": math.exp(log_interval.mean),
        "kappa_low": math.exp(log_interval.low),
        "kappa_high": math.exp(log_interval.high),
    }


def fitted_to(metric: str, scored: Scored, other: Scored | None = None, apart: bool = False) -> Fitted | None:
    """What the calibration examples of a temperature add to a mean score after it, or to the difference of two.

    Args:
        other: of the models to subtract, paired by order.
        apart: whether the two have calibration examples of their own.

    Returns:
        None of other metrics and methods, with a temperature at a bound, and where models differ in the number of
        calibration examples: their spread holds it.
    """
    import numpy as np

    sides = [scored] if other is None else [scored, other]
    if not all(_has_fits(side, metric) for side in sides):
        return None
    log_T = [np.stack([values.numpy() for values in side.log_kappa]) for side in sides]
    pairs = np.array([[slopes[metric] for slopes in side.slopes] for side in sides])
    together = inference.apart(*log_T) if apart else np.stack(log_T)
    return inference.fitted(together, pairs[..., 0], pairs[..., 1], (1.0, -1.0)[: len(sides)])


def _has_fits(scored: Scored, metric: str) -> bool:
    """Whether a metric has slopes in the temperature, and all temperatures are off their bounds, of equal samples."""
    if not scored.slopes or scored.at_bound or metric not in scored.slopes[0]:
        return False
    return len({len(values) for values in scored.log_kappa}) == 1


def evaluate(
    models: Sequence[Model],
    calibrators: Mapping[str, Calibrator],
    folds: int = 0,
    seed: int = 0,
    chosen: bool = False,
) -> Analysis:
    """Raw predictions and every calibrator's, measured.

    Args:
        models: one a seed, paired by order.
        calibrators: by name; used where there is a calibration set, or with `folds`.
        folds: folds of cross-fitting on the test examples, for models without a calibration set.
        seed: of the folds.
        chosen: whether the user named the calibrators: one that does not fit the problem is then an error.

    A calibrator that fails is named and left out, as is one that would learn too many numbers for so many classes and
    was not chosen.

    Raises:
        UserError: a chosen calibrator is not for such predictions, or all of them failed, or there are too few examples
            for the folds.
    """
    check_folds(models, folds)
    nested, exact = own_tests(models), all(m.exact for m in models)
    fits = bool(models[0].calibration is not None or folds)
    results = _Results(models, nested)
    skipped: list[str] = []
    for method, calibrator in _methods(models, calibrators if fits else {}, chosen).items():
        scored = _attempt(models, method, calibrator, folds, seed, chosen)
        if isinstance(scored, str):
            skipped.append(f"{method} was left out: {scored}")
            continue
        skipped += cautions(models, method, calibrator)
        shifted = calibrator is not None and not calibrator.shift_invariant
        results.add(method, scored, REMARK if shifted and not exact else None)
    if chosen and fits and len(results.rows) == 1:
        raise UserError("; ".join(skipped) + ": no calibrator that was named is left")
    frames = results.frames()
    context = {"models": models, "nested": nested, "folds": folds, "exact": exact, "skipped": skipped}
    return Analysis(verdict(frames, context), tables(frames, context), warnings(frames, context))


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

    @cached_property
    def mixed(self) -> bool:
        """Whether some of the models collapsed, not all."""
        return bool(collapsed_models(self.models))

    def add(self, method: str, scored: Scored, remark: str | None) -> None:
        """Add the rows of a method's scores."""
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
            row = {name: value for metric, one in intervals.items() for name, value in fields(metric, one).items()}
            self.decisions.append({"method": method, **row, **doubtful(intervals), **kinds})

    def frames(self) -> dict[str, pd.DataFrame]:
        """The rows as data frames: of methods, of their differences from raw, and of each model."""
        return {
            "evaluation": _frame(self.rows),
            "differences": adjusted(_frame(self.differences)),
            "decision_differences": adjusted(_frame(self.decisions)),
            "models": _frame(self.per_model),
        }


def _methods(
    models: Sequence[Model], calibrators: Mapping[str, Calibrator], chosen: bool
) -> dict[str, Calibrator | None]:
    """The raw predictions (None) and the calibrators, without those for other numbers of classes unless chosen."""
    K = models[0].test.Z_NK.shape[1]
    fitting = {name: one for name, one in calibrators.items() if chosen or one.classes in (None, K)}
    return {RAW: None, **fitting}


def _attempt(
    models: Sequence[Model], method: str, calibrator: Calibrator | None, folds: int, seed: int, chosen: bool
) -> Scored | str:
    """Scores of a method, or why it is left out.

    Raises:
        UserError: a chosen calibrator is not for such predictions.
    """
    if calibrator is None:
        return score(models, method, None, folds, seed)
    large = None if chosen else too_large(calibrator, *_largest(models))
    if large is not None:
        return f"{large}; --calibrator {method} fits it all the same."
    try:
        return score(models, method, calibrator, folds, seed)
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
    sets = [m.calibration or m.test for m in models]
    texts = [calibrator.warn(predictions.Z_NK, predictions.y_N) for predictions in sets]
    return [f"{method}: {text}." for text in dict.fromkeys(texts) if text]


def _largest(models: Sequence[Model]) -> tuple[int, int]:
    """The most calibration examples, and the number of classes."""
    sets = [m.calibration if m.calibration is not None else m.test for m in models]
    return max(len(p.y_N) for p in sets), models[0].test.Z_NK.shape[1]


def contrast(scored: Scored, other: Scored, nested: bool) -> Row:
    """Paired difference of the two on the main metrics, with interval and p-value; ECE by bootstrap, unless nested."""
    row: Row = {}
    intervals = contrasts(scored, other, nested)
    for name, interval in intervals.items():
        row |= fields(name, interval)
    return row | doubtful(intervals)


def contrasts(scored: Scored, other: Scored, nested: bool, apart: bool = False) -> dict[str, Interval]:
    """Intervals of the paired differences of two methods: accuracy, log loss, Brier score and ECE.

    Args:
        apart: see `fitted_to`.
    """
    import numpy as np

    intervals = {}
    for metric in ("accuracy", "log_loss", "brier"):
        name = MEANS[metric]
        pairs = zip(scored.examples[name], other.examples[name], strict=True)
        fit = fitted_to(metric, scored, other if other.slopes else None, apart)
        with np.errstate(invalid="ignore"):  # infinite losses on both sides: no interval, which says so
            intervals[metric] = difference_interval(metric, [(a - b).numpy() for a, b in pairs], nested, fit)
    intervals["ece"] = ece_interval(*_top(scored), _top(other), nested=nested)
    return intervals


def _frame(rows: list[Row]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows)
