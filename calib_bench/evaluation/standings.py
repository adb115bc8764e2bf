"""How methods stand over many experiments: ranks, wins, paired differences, and what the independent units are.

Experiments that share a data set share its examples, those of one model its architecture, those of one seed its initial
weights: none of these is a sample of its own. So the units are the coarsest of data sets, models and seeds of which
there are several. A difference is first taken within each experiment, then averaged over a unit's experiments, then
over units with a t interval, which is wide where units are few, as it should be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from calib_bench import inference
from calib_bench.analysis.result_rows import Row, adjusted, cell, fields, limits
from calib_bench.analysis.scores import RAW, REPAIRED
from calib_bench.analysis.ties import tied

Array = NDArray[np.float64]
METRICS = ("accuracy", "log_loss", "brier", "ece")
BEST, TIED, WORSE = "best", "tied", ""
UNITS = ("dataset", "model", "seed")
"""What experiments may share, the coarsest first: columns of a frame of experiments."""
NAMES = {"dataset": "data sets", "model": "models", "seed": "seeds"}
NOTES = {
    "dataset": "{experiments} experiments on {units} data sets, which count once each: 95% t intervals over data sets",
    "model": "{experiments} experiments with {units} models on one data set: 95% t intervals over models, which hold "
    "for its test examples",
    "seed": "{experiments} experiments with {units} seeds of one model on one data set: 95% t intervals over seeds, "
    "which hold for this model and its test examples",
}
STANDING_NOTE = (
    "win rate: the share of the others with a higher log loss in an experiment, ties counted half, .5 if all alike; "
    "mean rank says the same, 1 for the lowest log loss. beats raw, beats temperature scaling: the share of "
    "experiments with a lower log loss than that one's. standing: the lowest mean log loss is best; tied are those "
    "whose paired difference from it has p >= .05 after Holm's correction over all pairs, since the data choose the "
    "best. from best, from raw, from temperature scaling: those differences in log loss, nats."
)
LEADS = "{best} has the lowest log loss, mean over {units}: {loss}, win rate {rate}. {ties}"
TIES = "Not told from it: {names}."
NO_TIES = "All others are worse after Holm's correction over all pairs."
PARTIAL = "{method} is left out of the standings: it has results in {number} of {experiments} experiments{why}."
FIRST = ("standing", "win_rate", "mean_rank", "log_loss", "from_raw", f"from_{REPAIRED}", "fit_seconds")
"""Columns that a page shows first."""


def named(means: Mapping[str, float], ties: set[str]) -> dict[str, str]:
    """BEST, TIED or WORSE by name."""
    top = min(ties, key=lambda name: means[name], default="")
    return {name: BEST if name == top else TIED if name in ties else WORSE for name in means}


def standings(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """A row a method that has results in every experiment, best first; and how to read it.

    Args:
        frame: a row an experiment and method: METRICS, `method`, and the columns that tell experiments apart, two or
            more of UNITS and, beside them, `key`; `fit_seconds` where it is known.
    """
    wide = {metric: _wide(frame, metric) for metric in (*METRICS, "fit_seconds") if metric in frame}
    losses = wide["log_loss"]
    wins = _win_rates(losses)
    means = {method: float(_units(losses[method]).mean()) for method in losses}
    standing = named(means, tied(means, lambda one, top: _over_units(losses[one] - losses[top]).p))
    top = min(means, key=lambda method: means[method])
    rows = []
    for method in sorted(means, key=lambda method: means[method]):
        row: Row = {"method": method, "standing": standing[method]} | _ranks(wins[method], len(means))
        row |= {metric: float(_units(values[method]).mean()) for metric, values in wide.items()}
        rows.append(row | _against(losses, method, {"best": top, RAW: RAW, REPAIRED: REPAIRED}))
    counts = {"experiments": len(losses), "units": units(frame)[1]}
    return adjusted(pd.DataFrame(rows)), f"{NOTES[_unit(losses.index)].format(**counts)}. {STANDING_NOTE}"


def _ranks(wins: pd.Series, methods: int) -> Row:
    """The mean win rate and the mean rank, which is 1 + (methods - 1)(1 - win rate)."""
    rate = _share(wins)
    low, mean, high = (1 + (methods - 1) * (1 - value) for value in (rate.high, rate.mean, rate.low))
    return limits("win_rate", rate) | {"mean_rank": mean, "mean_rank_low": low, "mean_rank_high": high}


def _against(losses: pd.DataFrame, method: str, others: Mapping[str, str]) -> Row:
    """Paired differences in log loss from other methods, by the word for each, and how often those are beaten."""
    row: Row = {}
    for word, other in others.items():
        if other == method or other not in losses:
            continue
        difference = losses[method] - losses[other]
        row |= fields(f"from_{word}", _over_units(difference))
        if word != "best":
            row |= limits(f"beats_{word}", _share((difference < 0) + (difference == 0) / 2))
    return row


def _wide(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """A row an experiment, a column a method that has results in all of them."""
    index = [name for name in (*UNITS, "key") if name in frame]
    wide = frame.pivot(index=index, columns="method", values=column)
    every = frame.groupby("method").size()
    return wide[[method for method in frame["method"].unique() if every[method] == len(wide)]]


def _win_rates(losses: pd.DataFrame) -> pd.DataFrame:
    """In each experiment the share of the other methods that a method beats, ties counted half."""
    values = losses.to_numpy()
    beaten = (values[:, None, :] > values[:, :, None]).sum(2)
    ties = (values[:, None, :] == values[:, :, None]).sum(2) - 1
    return pd.DataFrame((beaten + ties / 2) / max(values.shape[1] - 1, 1), index=losses.index, columns=losses.columns)


def _unit(index: pd.Index) -> str:
    """The coarsest of UNITS of which there are several; the finest where there are several of none."""
    levels = [name for name in UNITS if name in index.names]
    return next((name for name in levels if index.get_level_values(name).nunique() > 1), levels[-1])


def units(frame: pd.DataFrame) -> tuple[str, int]:
    """What the independent units of a frame of experiments are, and how many there are."""
    index = _wide(frame, "log_loss").index
    unit = _unit(index)
    return NAMES[unit], index.get_level_values(unit).nunique()


def _units(values: pd.Series) -> Array:
    """Means over each unit's experiments."""
    return values.groupby(values.index.get_level_values(_unit(values.index)), sort=False).mean().to_numpy(np.float64)


def _over_units(values: pd.Series) -> inference.Interval:
    with np.errstate(invalid="ignore"):
        return inference.crossed_interval([[value] for value in _units(values)], nested=True)


def _share(values: pd.Series) -> inference.Interval:
    """The mean of shares; without limits where all units agree, as nothing shows then how far another would be."""
    interval = inference.within(_over_units(values), "accuracy")
    if interval.low < interval.high:
        return interval
    return replace(interval, low=math.nan, high=math.nan)


def verdict(table: pd.DataFrame, frame: pd.DataFrame) -> tuple[str, ...]:
    """Which method leads the standings of a frame, and which cannot be told from it."""
    rows = table.to_dict("records")
    best = next((row for row in rows if row["standing"] == BEST), None)
    if best is None or len(rows) < 2 or not math.isfinite(best["log_loss"]):
        return ()
    ties = ", ".join(row["method"] for row in rows if row["standing"] == TIED)
    words = TIES.format(names=ties) if ties else NO_TIES
    loss, rate = f"{best['log_loss']:.4g}", cell(best, "win_rate")
    return (LEADS.format(best=best["method"], units=units(frame)[0], loss=loss, rate=rate, ties=words),)


def left_out(frame: pd.DataFrame, methods: Sequence[str], why: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence on each method that has no results in some experiments.

    Args:
        methods: that were wanted.
        why: the first reason, by method, where it is known.
    """
    number = len(_wide(frame, "log_loss"))
    counts = frame.groupby("method").size().reindex(methods, fill_value=0)
    partial = {method: count for method, count in counts.items() if count < number}
    reasons = {method: f" (first: {reason})" for method, reason in why.items()}
    return tuple(
        PARTIAL.format(method=method, number=count, experiments=number, why=reasons.get(str(method), ""))
        for method, count in partial.items()
    )
