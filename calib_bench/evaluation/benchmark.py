"""A file of many experiments, dataset/model: how calibrators stand over all of them, and models on each data set.

Data sets are the units: an experiment is one model on one data set, and the models of a data set share its examples, so
that only data sets are independent. A difference is first taken within each experiment, where it is paired example by
example, then its mean over a data set's models, then over data sets with a t interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from calib_bench import inference
from calib_bench.analysis.fitting import too_large
from calib_bench.analysis.result_rows import Row, adjusted, cell, fields, limits
from calib_bench.analysis.scores import RAW, REPAIRED
from calib_bench.analysis.ties import tied
from calib_bench.core.baseline import Calibrator
from calib_bench.core.study import Analysis, Table
from calib_bench.errors import UserError
from calib_bench.evaluation.models import Model, calibrated
from calib_bench.metrics import measure
from calib_bench.metrics.binned import BINS

Array = NDArray[np.float64]
METRICS = ("accuracy", "log_loss", "brier", "ece")
BEST, TIED, WORSE = "best", "tied", ""
UNITS_NOTE = "{experiments} experiments on {datasets} data sets, which count once each: 95% t intervals over data sets"
ONE_NOTE = "{experiments} models on one data set: 95% t intervals over models, which hold for its test examples"
STANDING_NOTE = (
    "win rate: the share of the others with a higher log loss in an experiment, ties counted half, .5 if all alike. "
    "standing: the lowest mean log loss is best; tied are those whose paired difference from it has p >= .05 after "
    "Holm's correction. from best, from raw: that difference in log loss, nats."
)
EXPERIMENTS_NOTE = (
    "from raw: log loss less that of raw, paired example by example, Holm's correction over the methods of an "
    "experiment. standing: by log loss, on the examples of this experiment alone."
)
MODELS_NOTE = (
    "Models on the same test examples, as they are and after temperature scaling; standing: by log loss, paired by "
    "example."
)
LEADS = "{best} has the lowest log loss, mean over {units}: {loss}, win rate {rate}. {ties}"
TIES = "Not told from it: {names}."
NO_TIES = "All others are worse after Holm's correction."
PARTIAL = "{method} is left out of the standings: it has results in {number} of {experiments} experiments{why}."


@dataclass
class _Experiments:
    """Rows of all experiments, filled one by one."""

    rows: list[Row] = field(default_factory=list)
    model_losses: dict[tuple[str, str], dict[str, Array]] = field(default_factory=dict)
    labels: dict[tuple[str, str], Array] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def benchmark(models: Mapping[str, Model], calibrators: Mapping[str, Calibrator], bins: int = BINS) -> Analysis:
    """How calibrators stand over experiments, and how models stand on each data set.

    Args:
        models: by dataset/model, each with its calibration set.
        calibrators: by name; one that is not for an experiment, or fails in it, is left out of the standings.
        bins: of ECE.
    """
    experiments = _Experiments()
    for name, model in models.items():
        _measure(experiments, name, model, calibrators, bins)
    frame = adjusted(pd.DataFrame(experiments.rows), "dataset", "model")
    standings, note = _standings(frame)
    tables = {
        "standings": Table("Methods over all experiments", standings, note, paper=True, names=("method",)),
        "experiments": Table("Each experiment", frame, EXPERIMENTS_NOTE, names=("dataset", "model", "method")),
    }
    rivals = pd.DataFrame(
        [row for dataset in frame["dataset"].unique() for row in _rivals(experiments, frame, dataset)]
    )
    if len(rivals):
        tables["rivals"] = Table("Models on each data set", rivals, MODELS_NOTE, names=("dataset", "method", "model"))
    return Analysis(_verdict(standings, frame), tables, _warnings(experiments, frame))


def _measure(
    experiments: _Experiments, name: str, model: Model, calibrators: Mapping[str, Calibrator], bins: int
) -> None:
    """Add an experiment's rows."""
    dataset, _, of_model = name.rpartition("/")
    losses: dict[str, Array] = {}
    rows = []
    for method, calibrator in {RAW: None, **calibrators}.items():
        values = _attempt(experiments, name, model, method, calibrator, bins)
        if values is None:
            continue
        losses[method] = values["log_loss_n"].numpy()
        row = {"dataset": dataset, "model": of_model, "method": method, "examples": len(losses[method])}
        row |= {metric: float(values[metric]) for metric in METRICS}
        row |= limits("log_loss", inference.score_interval("log_loss", [losses[method]]))
        rows.append(row | (fields("from_raw", _paired(losses[method], losses[RAW])) if method != RAW else {}))
    standing = _standing({method: float(loss.mean()) for method, loss in losses.items()}, losses)
    experiments.rows += [row | {"standing": standing[str(row["method"])]} for row in rows]
    experiments.labels[dataset, of_model] = model.test.y_N.numpy()
    experiments.model_losses[dataset, of_model] = {k: losses[k] for k in (RAW, REPAIRED) if k in losses}


def _attempt(
    experiments: _Experiments, name: str, model: Model, method: str, calibrator: Calibrator | None, bins: int
) -> Mapping[str, Any] | None:
    """Metrics of a method in an experiment; None where it is not for it or fails, for a reason that is kept."""
    N, K = len(model.to_fit.y_N), model.test.Z_NK.shape[1]
    try:
        if calibrator is not None and calibrator.classes not in (None, K):
            raise UserError(f"it is for {calibrator.classes} classes")
        if calibrator is not None and (large := too_large(calibrator, N, K)):
            raise UserError(large)
        return measure(calibrated(model, calibrator)[0], model.test.y_N, bins)
    except UserError as error:
        experiments.failures.setdefault(method, f"{name}, {error}")
        return None


def _paired(one: Array, other: Array) -> inference.Interval:
    with np.errstate(invalid="ignore"):  # infinite on both sides: no interval, which says so
        return inference.difference_interval("log_loss", [one - other])


def _standing(means: Mapping[str, float], losses: Mapping[str, Array]) -> dict[str, str]:
    """BEST, TIED or WORSE, each by its paired losses of examples."""
    return _named(means, tied(means, lambda one, top: _paired(losses[one], losses[top]).p))


def _named(means: Mapping[str, float], ties: set[str]) -> dict[str, str]:
    top = min(ties, key=lambda name: means[name], default="")
    return {name: BEST if name == top else TIED if name in ties else WORSE for name in means}


# over experiments


def _standings(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """A row a method that has results in every experiment, best first; and how to read it."""
    wide = {metric: _wide(frame, metric) for metric in METRICS}
    losses = wide["log_loss"]
    wins = _win_rates(losses)
    means = {method: float(_units(losses[method]).mean()) for method in losses}
    ties = tied(means, lambda one, top: _over_units(losses[one] - losses[top]).p)
    standing = _named(means, ties)
    top = min(means, key=lambda method: means[method])
    rows = []
    for method in sorted(means, key=lambda method: means[method]):
        row: Row = {"method": method, "standing": standing[method]}
        row |= limits("win_rate", _win_rate(wins[method]))
        row |= {metric: float(_units(wide[metric][method]).mean()) for metric in METRICS}
        row |= fields("from_best", _over_units(losses[method] - losses[top])) if method != top else {}
        row |= fields("from_raw", _over_units(losses[method] - losses[RAW])) if method != RAW else {}
        rows.append(row)
    counts = {"experiments": len(losses), "datasets": losses.index.get_level_values("dataset").nunique()}
    text = UNITS_NOTE if counts["datasets"] > 1 else ONE_NOTE
    return adjusted(pd.DataFrame(rows)), f"{text.format(**counts)}. {STANDING_NOTE}"


def _wide(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A row an experiment, a column a method that has results in all of them."""
    wide = frame.pivot(index=["dataset", "model"], columns="method", values=metric)
    every = frame.groupby("method").size()
    return wide[[method for method in frame["method"].unique() if every[method] == len(wide)]]


def _win_rates(losses: pd.DataFrame) -> pd.DataFrame:
    """In each experiment the share of the other methods that a method beats, ties counted half."""
    values = losses.to_numpy()
    beaten = (values[:, None, :] > values[:, :, None]).sum(2)
    ties = (values[:, None, :] == values[:, :, None]).sum(2) - 1
    return pd.DataFrame((beaten + ties / 2) / max(values.shape[1] - 1, 1), index=losses.index, columns=losses.columns)


def _units(values: pd.Series) -> Array:
    """Means over each data set's models; of one data set the models' own values."""
    datasets = values.index.get_level_values("dataset")
    if datasets.nunique() == 1:
        return values.to_numpy(np.float64)
    return values.groupby(datasets, sort=False).mean().to_numpy(np.float64)


def _over_units(values: pd.Series) -> inference.Interval:
    with np.errstate(invalid="ignore"):
        return inference.crossed_interval([[value] for value in _units(values)], nested=True)


def _win_rate(wins: pd.Series) -> inference.Interval:
    """The mean share of the others that a method beats; without limits where all units agree, as nothing shows then
    how far another would be from them.
    """
    interval = inference.within(_over_units(wins), "accuracy")
    if interval.low < interval.high:
        return interval
    return replace(interval, low=math.nan, high=math.nan)


# on each data set


def _rivals(experiments: _Experiments, frame: pd.DataFrame, dataset: str) -> Iterator[Row]:
    """Rows of a data set's models, where there are several on the same test examples."""
    names = [model for of_dataset, model in experiments.model_losses if of_dataset == dataset]
    labels = {experiments.labels[dataset, name].tobytes() for name in names}
    if len(names) < 2 or len(labels) > 1:
        return
    rows = frame[frame["dataset"] == dataset].set_index(["model", "method"])
    for method in (RAW, REPAIRED):
        losses = {name: of[method] for name in names if method in (of := experiments.model_losses[dataset, name])}
        means = {name: float(loss.mean()) for name, loss in losses.items()}
        standing = _standing(means, losses)
        for name in sorted(means, key=means.__getitem__):
            row = {"dataset": dataset, "method": method, "model": name, "standing": standing[name]}
            yield row | rows.loc[(name, method), [*METRICS]].to_dict()


# words


def _verdict(standings: pd.DataFrame, frame: pd.DataFrame) -> tuple[str, ...]:
    rows = standings.to_dict("records")
    best = next((row for row in rows if row["standing"] == BEST), None)
    if best is None or not math.isfinite(best["log_loss"]):
        return ()
    ties = ", ".join(row["method"] for row in rows if row["standing"] == TIED)
    units = "data sets" if frame["dataset"].nunique() > 1 else "models"
    words = TIES.format(names=ties) if ties else NO_TIES
    loss, rate = f"{best['log_loss']:.4g}", cell(best, "win_rate")
    return (LEADS.format(best=best["method"], units=units, loss=loss, rate=rate, ties=words),)


def _warnings(experiments: _Experiments, frame: pd.DataFrame) -> tuple[str, ...]:
    """The methods that have no results in some experiments."""
    counts: Mapping[str, int] = frame.groupby("method").size().to_dict()
    number = len(experiments.labels)
    return tuple(
        PARTIAL.format(method=method, number=counts.get(method, 0), experiments=number, why=f" (first: {why})")
        for method, why in experiments.failures.items()
    )
