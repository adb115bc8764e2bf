"""Stored measurements of early learning as rows: one a model, inverse temperature and seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.result_rows import Row
from calib_bench.core.results import Results
from calib_bench.core.trial import Trial
from calib_bench.dynamics.gradient_flow import crossing
from calib_bench.inference import crossed_interval
from calib_bench.studies.early_learning.descent import fate, first_lost
from calib_bench.studies.early_learning.probes import COMMON

DEPARTED = 0.1
"""A model has left its tangent when they are this share of the way apart."""
ORDINARY, ZERO = "ordinary", "zero"
NAME = ("model", "variant", "beta")
MEANS = {
    "timescales": ("times", NAME, ("tenth", "whole", "tau_z", "tau_nl", "critical_tau", "norm")),
    "curvature": (
        "curves",
        (*NAME, "logits"),
        ("lambda_max", "over_beta", "over_beta2", "norm", "residual", "products"),
    ),
    "frontier": ("edges", NAME, ("critical_rate", "frontier", "relative", "catapults", "beyond")),
}
"""By table of means over seeds: the frame of measurements, what names a row, and the columns."""
KEYS = ("batch", "head_init", "correlation")


class Names:
    """The columns that name a measurement: model, the settings in which it departs from others, beta, seed."""

    def __init__(self, trials: Iterable[Trial]) -> None:
        """
        Args:
            trials: of every model and setting.
        """
        combinations = [(trial.batch, trial.head_init, trial.correlation) for trial in trials]
        self.varying = [
            key for key, values in zip(KEYS, zip(*combinations, strict=True), strict=False) if len(set(values)) > 1
        ]

    def __call__(self, trial: Trial) -> Row:
        base_trial = trial.model_copy(update={"correlation": None}) if starts_at_zero(trial) else trial
        variant = ", ".join(f"{key}={getattr(base_trial, key)}" for key in self.varying) or None
        return {"model": trial.model, "variant": variant, "beta": trial.beta, "seed": trial.seed}


def starts_at_zero(trial: Trial) -> bool:
    """Whether the logits of its two copies cancel."""
    return trial.correlation == -1


def frames(trials: Mapping[str, Sequence[Trial]], store: Results) -> dict[str, pd.DataFrame]:
    """What finished trials measured, by kind of measurement.

    Args:
        trials: by probe, those that the store holds.
        store: where what they measured is read.
    """
    name = Names(trials["stability"])

    def frame(kind: str, measured: Callable[[Mapping[str, Any], Trial], Row]) -> pd.DataFrame:
        done = (trial for trial in trials[kind] if store.state(trial) == "done")
        return pd.DataFrame([name(trial) | measured(store.arrays(trial), trial) for trial in done])

    runs = {trial: stability(store.arrays(trial)) for trial in trials["stability"] if store.state(trial) == "done"}
    return {
        "times": frame("paths", timescale),
        "curves": frame("curvature", curvature),
        "runs": pd.DataFrame([name(trial) | run for trial, trial_runs in runs.items() for run in trial_runs]),
        "edges": pd.DataFrame([name(trial) | frontier(trial_runs) for trial, trial_runs in runs.items()]),
        "common": frame("common", common),
    }


def summarized(measured: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The rows of every table: the frames as they are, and means over seeds."""
    tables = {name: pd.DataFrame(over_seeds(measured[of], by, columns)) for name, (of, by, columns) in MEANS.items()}
    return {**measured, **tables, "collapse": measured["common"], "measurements": measured["times"]}


def timescale(arrays: Mapping[str, Any], trial: Trial) -> Row:
    """Of a model's own path: times in tau, and times measured over those that the theory gives."""
    path = {key: arrays[key].numpy() for key in ("tau", "moved", "moved_linear", "apart", "loss")}
    norm, tau_z, top = (float(arrays[key]) for key in ("norm", "tau_z", "lambda_max"))
    return {
        "norm": norm,
        "tau_z": tau_z,
        "tau_nl": departed(path),
        "critical_tau": 2 * trial.beta**2 / top,
        "tenth": crossing(path["tau"], path["moved"], norm / 10) / (tau_z / 10),
        "whole": crossing(path["tau"], path["moved"], norm) / tau_z,
        "end_loss": float(path["loss"][-1]),
        "steps": len(path["tau"]) - 1,
    }


def departed(path: Mapping[str, np.ndarray]) -> float:
    """tau_nl: when model and tangent are a tenth of the way apart; NaN when they never are."""
    return crossing(path["tau"], departure(path), DEPARTED)


def departure(path: Mapping[str, np.ndarray]) -> np.ndarray:
    """||Z - Z_lin|| / ||Z_lin - Z0|| before every step; 0 at the start."""
    way = np.asarray(path["moved_linear"])
    return np.divide(path["apart"], way, out=np.zeros_like(way), where=way > 0)


def common(arrays: Mapping[str, Any], trial: Trial) -> Row:
    """Of a path from logits that other betas start from too: the path, and when it leaves the tangent's."""
    path = {key: arrays[key].numpy() for key in ("tau", "moved", "moved_linear", "apart", "loss", "loss_linear")}
    start = "zero" if starts_at_zero(trial) else f"those of beta={COMMON:g}"
    return {"start": start, "tau_nl": departed(path), "path": path}


def curvature(arrays: Mapping[str, Any], trial: Trial) -> Row:
    """lambda_max, how well it is known, and what it is of beta and of beta^2."""
    top, beta = float(arrays["lambda_max"]), trial.beta
    diagnostics = {key: float(arrays[key]) for key in ("residual", "products", "norm")}
    over = {"over_beta": top / beta, "over_beta2": top / beta**2}
    logits = ZERO if starts_at_zero(trial) else ORDINARY
    return {"logits": logits, "lambda_max": top, **over, **diagnostics, "converged": bool(arrays["converged"])}


def stability(arrays: Mapping[str, Any]) -> list[Row]:
    """What became of each rate."""
    critical, constant = 2 / float(arrays["lambda_max"]), float(arrays["entropy"])
    return [
        {
            "relative": float(relative),
            "rate": float(relative) * critical,
            "fate": fate(losses, constant),
            "highest": float(losses.max()),
            "last": float(losses[-1]),
        }
        for relative, losses in zip(arrays["relative"], arrays["losses"], strict=True)
    ]


def frontier(runs: Iterable[Row]) -> Row:
    """The rate at which descent is first lost: between the last rate below it and the first lost one, in the middle of
    their logarithms. NaN where every rate is lost, or none."""
    ordered = sorted(runs, key=lambda run: run["relative"])
    catapults = [run["relative"] for run in ordered if run["fate"] == "catapult"]
    row: Row = {"critical_rate": ordered[0]["rate"] / ordered[0]["relative"]}
    edge = first_lost([run["fate"] for run in ordered])
    relative = math.sqrt(ordered[edge - 1]["relative"] * ordered[edge]["relative"]) if edge else math.nan
    row |= {"frontier": relative * row["critical_rate"], "relative": relative}
    return {**row, "catapults": sum(1 for rate in catapults if rate > 1), "beyond": max([0.0, *catapults])}


def slope(rows: pd.DataFrame, column: str) -> float:
    """Least-squares slope of log column over log beta; NaN with fewer than two finite points."""
    usable = rows[np.isfinite(rows[column]) & (rows[column] > 0)]
    if usable["beta"].nunique() < 2:
        return math.nan
    return float(np.polyfit(np.log(usable["beta"]), np.log(usable[column]), 1)[0])


WORST = ("catapults", "beyond", "products", "residual")
"""Columns of which the largest over seeds is told, not a mean."""


def over_seeds(frame: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> list[Row]:
    """Geometric means over seeds with 95% t intervals of the logarithms; of `WORST` the largest. In order of beta.

    A quantity that some seed lacks is missing.
    """
    if not len(frame):
        return []
    rows = []
    for values, group in frame.sort_values("beta", kind="stable").groupby(list(by), sort=False, dropna=False):
        row: Row = {**dict(zip(by, values, strict=True)), "seeds": group["seed"].nunique()}
        for column in columns:
            value_S = group[column].astype(float).to_numpy()
            if column in WORST:
                row[column] = value_S.max()
                continue
            with np.errstate(divide="ignore"):  # logits that are zero have a norm of zero, and no interval
                interval = crossed_interval(np.log(value_S)[:, None], nested=True)
            row |= Estimate.of_interval(interval).exp().limits(column)
        rows.append(row)
    return rows
