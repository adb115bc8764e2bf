"""A file of many experiments, dataset/model: how calibrators stand over all of them, and models on each data set.

An experiment is one model on one data set; within it differences are paired example by example.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from calib_bench import inference
from calib_bench.analysis.fitting import too_large
from calib_bench.analysis.result_rows import Row, adjusted, fields, limits
from calib_bench.analysis.scores import RAW, REPAIRED
from calib_bench.analysis.ties import tied
from calib_bench.core.baseline import Calibrator
from calib_bench.core.study import Analysis, Table
from calib_bench.errors import UserError
from calib_bench.evaluation.models import Model, calibrated
from calib_bench.evaluation.standings import FIRST, METRICS, left_out, named, standings, verdict
from calib_bench.metrics import measure
from calib_bench.metrics.binned import BINS

Array = NDArray[np.float64]
EXPERIMENTS_NOTE = (
    "from raw: log loss less that of raw, paired example by example, Holm's correction over the methods of an "
    "experiment. standing: by log loss, on the examples of this experiment alone."
)
MODELS_NOTE = (
    "Models on the same test examples, as they are and after temperature scaling; standing: by log loss, paired by "
    "example."
)


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
    table, note = standings(frame)
    tables = {
        "standings": Table("Methods over all experiments", table, note, paper=True, names=("method",), first=FIRST),
        "experiments": Table("Each experiment", frame, EXPERIMENTS_NOTE, names=("dataset", "model", "method")),
    }
    rivals = pd.DataFrame(
        [row for dataset in frame["dataset"].unique() for row in _rivals(experiments, frame, dataset)]
    )
    if len(rivals):
        tables["rivals"] = Table("Models on each data set", rivals, MODELS_NOTE, names=("dataset", "method", "model"))
    return Analysis(verdict(table, frame), tables, left_out(frame, list(calibrators), experiments.failures))


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
    return named(means, tied(means, lambda one, top: _paired(losses[one], losses[top]).p))


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
