"""The arms one by one: names, every metric under every method, trials, and the rates that were tried."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pandas as pd
import torch

from calib_bench.analysis.calibration_variance import own_fit, set_influence
from calib_bench.analysis.contrast import kappa
from calib_bench.analysis.measure import Measures
from calib_bench.analysis.rate_choice import RedrawnChoice, shift, with_choice
from calib_bench.analysis.result_rows import Row, doubtful, limits
from calib_bench.analysis.scores import MEANS, METRICS, REPAIRED, SETS
from calib_bench.core.results import Results
from calib_bench.core.trial import Trial
from calib_bench.inference import Interval, ece_interval, score_interval, within
from calib_bench.inference.interval import few_errors
from calib_bench.planning.tuning import CROSS_FITTED, Arm

CROSSED = ("accuracy", "log_loss", "brier")
"""Metrics whose intervals count seeds and test examples."""


def variants(families: Iterable[Trial]) -> dict[Trial, str | None]:
    """Settings in which each family differs from the others, as "batch=60"; None where only the model differs."""
    dumps = {family: family.model_dump() for family in families}
    first = next(iter(dumps.values()), {})
    varying = [
        key for key in first if key not in ("model", "weights") and len({dump[key] for dump in dumps.values()}) > 1
    ]
    return {family: ", ".join(f"{key}={getattr(family, key)}" for key in varying) or None for family in dumps}


def named(arm: Arm, variant: str | None) -> Row:
    """The columns that name an arm."""
    trial = arm.trial
    return {
        "model": trial.model, "variant": variant, "beta": trial.beta, "objective": trial.objective, "tuning": arm.tuning
    }  # fmt: skip


def methods(measures: Measures, nested: bool) -> list[Row]:
    """One row per method: every metric's mean over seeds."""
    failed = len(measures.diverged) + len(measures.dead)
    counts = {"seeds": len(measures.seeds), "failed": failed, "missing": len(measures.missing)}
    return [{"method": method, **counts, **_metrics(measures, method, nested)} for method in measures.examples]


def _metrics(measures: Measures, method: str, nested: bool) -> Row:
    """Every metric's mean over seeds after one method, with what is known beside it."""
    frame = measures.frame[measures.frame["method"] == method]
    row: Row = {}
    intervals: dict[str, Interval] = {}
    for metric in METRICS:
        if metric not in frame:
            continue
        interval = _metric(measures, method, metric, nested)
        if interval is None:
            row |= over_seeds(metric, frame[metric].tolist())
        else:
            intervals[metric] = interval
            row |= limits(metric, interval)
    if "ece_null" in frame and frame["ece_null"].notna().any():
        row["ece_null"] = frame["ece_null"].mean()
    if method == REPAIRED:
        row |= kappa(measures, list(range(len(measures.seeds))))
    return row | doubtful(intervals)


def _metric(measures: Measures, method: str, metric: str, nested: bool) -> Interval | None:
    """A metric's interval over seeds and test examples; None where it is no finite mean over them."""
    scores = measures.examples[method]
    if metric in CROSSED and bool(scores[MEANS[metric]].isfinite().all()):
        return _mean(measures, method, metric, nested)
    if metric == "ece" and method in ("raw", REPAIRED):
        return ece_interval(scores["confidence"], scores["correct"], nested=nested)
    if metric in SETS and method in measures.sets:
        values = measures.sets[method][metric]
        return score_interval(metric, values, nested, set_influence((1, measures, range(len(values))), method, metric))
    return None


def _mean(measures: Measures, method: str, metric: str, nested: bool) -> Interval:
    """The interval of one of CROSSED; the choice of rate and the temperature's calibration examples are counted."""
    score = MEANS[metric]
    interval = score_interval(metric, measures.examples[method][score], nested, own_fit(measures, method, metric))
    if method not in ("raw", REPAIRED):
        return interval
    return within(with_choice(interval, shift(measures, None, (method, score, 1.0))), metric)


def trials(store: Results, measures: Measures) -> list[Row]:
    """One row per trial of the arm, finished or not; `doubtful` marks an ECE that rests on few errors."""
    keep = ("accuracy", "log_loss", "brier", "ece", "ece_null", "ece_p")
    rows = []
    for seed, trial in sorted(measures.arm.trials.items()):
        row: Row = {"seed": seed, "lr": trial.lr, "lr_unit": trial.lr_unit, "status": store.fate(trial)}
        if seed in measures.seeds:
            mine = measures.frame[measures.frame["seed"] == seed].set_index("method")
            raw, repaired = mine.loc["raw"], mine.loc["temperature_scaling"]
            row |= {name: raw[name] for name in keep}
            row |= {f"repaired_{name}": repaired[name] for name in keep if name != "accuracy"}
            row |= {"kappa": repaired["kappa"], "at_bound": repaired["at_bound"]}
            doubt = few_errors(measures.examples["raw"]["correct"][[measures.seeds.index(seed)]])
            row |= {"doubtful": f"{doubt}: ece"} if doubt else {}
        rows.append({**row, "key": trial.key})
    return rows


def rates(arm: Arm, again: RedrawnChoice | None = None) -> list[Row]:
    """One row per rate tried, and which tuning seeds are reported at it where each is at the others' choice.

    Args:
        again: with it, how often other selection data would have chosen each.
    """
    crossed = [trial.seed for trial in arm.tried.get(arm.rates[0], ())] if arm.crossed else []
    return [
        {
            "rate": rate,
            "unit": arm.trial.lr_unit,
            "score": arm.scores.get(rate),
            "chosen": rate == arm.chosen,
            **({"rechosen": again.shares.get(rate, 0.0)} if again else {}),
            **({"cross_fitted": ", ".join(f"{s}" for s in crossed if arm.trials[s].lr == rate)} if crossed else {}),
        }
        for rate in arm.rates
    ]


def trials_note(frame: pd.DataFrame) -> str:
    """What a table of trials says beside a table of rates, of this frame."""
    return "repaired: after temperature scaling" + (f"; lr: {CROSS_FITTED}" if "cross_fitted" in frame else "")


def over_seeds(name: str, values: list[float]) -> Row:
    """Mean of a metric with a t interval over seeds, for this test set, within the metric's range."""
    if len(values) < 2:
        return {name: values[0] if values else None}
    return limits(name, score_interval(name, torch.tensor(values, dtype=torch.float64)[:, None], nested=True))


def p_over_seeds(differences: Sequence[float]) -> float:
    """Two-sided p-value of a t test that the mean over seeds is 0; nan with fewer than two."""
    values_S1 = torch.tensor(differences, dtype=torch.float64)[:, None]
    return score_interval("", values_S1, nested=True).p if len(differences) > 1 else math.nan
