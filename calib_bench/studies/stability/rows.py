"""Rows on the seeds of an arm: what the best, the mean and the worst of a few reach, and how many trainings fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from calib_bench.analysis import beta_rate_plane
from calib_bench.analysis import seed_spread as sown
from calib_bench.analysis.measure import Measures
from calib_bench.analysis.rate_choice import shift, with_choice
from calib_bench.analysis.result_rows import Row, fields, limits
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.inference import best_of, rate, within
from calib_bench.inference.arrays import Array
from calib_bench.planning.tuning import Arm

BEST, MEAN, WORST = "best", "mean", "worst"
MOST = 3
"""Of at most how many seeds the best and the worst are looked at: more rest on too few independent draws."""


def _ranks(values: pd.Series) -> dict[str, int]:
    """Places of values in the order in which they first come."""
    return {value: place for place, value in enumerate(dict.fromkeys(values))}


def ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """By beta within a model, variant and objective, all in the order of their first rows."""
    if "beta" not in frame:
        return frame
    keys = [frame[key].fillna("") for key in ("model", "variant", "objective")]
    model, variant, objective = (key.map(_ranks(key)) for key in keys)
    order = frame.assign(_m=model, _v=variant, _o=objective).sort_values(["_m", "_v", "_o", "beta"], kind="stable")
    return frame.loc[order.index].reset_index(drop=True)


def peak_rows(measures: Measures, reference: Measures | None, nested: bool) -> list[Row]:
    """A row a result: what the best and the worst of m seeds, and the mean seed, reach, and by how much more than the
    reference's, paired over the seeds that finished in both.

    The choice of rates is counted by what it changes in the mean seed: best and worst are taken to move with it.

    Args:
        measures: of the arm.
        reference: of the arm to subtract; None where there is none.
        nested: seeds have test examples of their own.
    """
    rows = []
    for result, (method, score) in sown.RESULTS.items() if measures.seeds else ():
        values = _values(measures, (method, score), measures.seeds, nested)
        m = min(MOST, len(values) // 3)
        if m < 1:
            continue
        largest, metric = result == "accuracy", result.replace(" ", "_")
        kinds = {BEST: (m, largest), MEAN: (1, largest), WORST: (m, not largest)}
        row: Row = {"result": result, "seeds": len(values), "of": m}
        move = shift(measures, None, (method, score, 1.0))
        for kind, (n, highest) in kinds.items():
            row |= limits(kind, within(with_choice(best_of(values, n, None, highest), move), metric))
        rows.append(row | _changes(measures, reference, result, kinds, nested))
    return rows


def _changes(
    measures: Measures,
    reference: Measures | None,
    result: str,
    kinds: Mapping[str, tuple[int, bool]],
    nested: bool,
) -> Row:
    """By how much the arm's best, mean and worst seed exceed the reference's; nothing with too few common seeds."""
    where = sown.RESULTS[result]
    if reference is None or reference is measures:
        return {}
    common = [seed for seed in measures.seeds if seed in reference.seeds]
    if len(common) <= max(n for n, _ in kinds.values()):
        return {}
    values, reference_values = (_values(one, where, common, nested) for one in (measures, reference))
    move = shift(measures, reference, (*where, 1.0))
    row: Row = {}
    for kind, (n, highest) in kinds.items():
        change = with_choice(best_of(values, n, reference_values, highest), move)
        row |= fields(f"{kind}_change", within(change, result.replace(" ", "_"), difference=True))
    return row


def _values(measures: Measures, metric: tuple[str, str], seeds: Sequence[int], nested: bool) -> Array:
    """Scores of these seeds by example, [S, N]; their means [S, 1] where seeds have examples of their own."""
    method, score = metric
    values = measures.scores(method, score, seeds).numpy()
    return np.asarray(values.mean(1, keepdims=True) if nested else values)


def failure_row(grid: Grid, store: Results, arm: Arm) -> Row:
    """The share of seeds that failed at the chosen rate, of those that did not choose it, with exact limits."""
    failed_by_seed = _failed_by_seed(grid, store, arm)
    tuners = grid.seed[: grid.tune_seeds]
    fresh = {seed: failed for seed, failed in failed_by_seed.items() if seed not in tuners} or failed_by_seed
    if not fresh:
        return {}
    lost = sum(fresh.values())
    return {**fields("failed", rate(lost, len(fresh))), "failed_trials": f"{lost} of {len(fresh)}"}


def _failed_by_seed(grid: Grid, store: Results, arm: Arm) -> dict[int, bool]:
    """Whether each finished seed of an arm failed."""
    failed = beta_rate_plane.is_failed(grid)
    scores = {seed: store.scores(grid.select)(trial) for seed, trial in arm.trials.items()}
    return {seed: failed(score) for seed, score in scores.items() if score is not None}
