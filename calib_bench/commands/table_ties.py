"""The best of each column of a table of baselines, and which others the data cannot tell from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from calib_bench import registry
from calib_bench.analysis import arms as each
from calib_bench.analysis.measure import PER_EXAMPLE, measure_arm, own_tests
from calib_bench.analysis.scores import LOW, RAW, REPAIRED, SeedScores, difference
from calib_bench.analysis.ties import tied
from calib_bench.errors import UserError
from calib_bench.inference import Interval
from calib_bench.planning import tuning

if TYPE_CHECKING:
    import pandas as pd

    from calib_bench.core.settings import Grid
    from calib_bench.store.store import Store

KEYS = ("model", "variant", "beta", "objective")


@dataclass(frozen=True)
class Scored(SeedScores):
    """A row's scores on the test split, and the seeds."""

    seeds: tuple[int, ...]


def scores(store: Store, grid: Grid, rows: pd.DataFrame) -> tuple[list[Scored], bool]:
    """The scores of each row (columns KEYS and method), measured anew; whether seeds have tests of their own.

    Raises:
        UserError: a row is not of an arm of the run's grid.
    """
    arms = _arms_by_key(store, grid)
    methods: dict[tuple[Any, ...], list[str]] = {}
    for row in rows.to_dict("records"):
        key = _key(row)
        if key not in arms:
            raise UserError(f"no arm of the grid is {' '.join(str(value) for value in key if value is not None)}")
        methods.setdefault(key, []).append(row["method"])
    scored = {}
    for key, names in methods.items():
        for method, of_method in _scores_of_arm(store, arms[key], names).items():
            scored[*key, method] = of_method
    in_order = [scored[*_key(row), row["method"]] for row in rows.to_dict("records")]
    return in_order, own_tests(store, [arms[key] for key in methods])


def _arms_by_key(store: Store, grid: Grid) -> dict[tuple[Any, ...], tuning.Arm]:
    """The arms of the run's grid by the values of KEYS."""
    families = tuning.tuned(grid, store.scores(grid.select))
    variants = each.variants(family.arms[0].trial.family() for family in families)
    arms = {}
    for family in families:
        variant = variants[family.arms[0].trial.family()]
        for arm in family.arms:
            arms[_key(each.named(arm, variant))] = arm
    return arms


def _scores_of_arm(store: Store, arm: tuning.Arm, methods: Sequence[str]) -> dict[str, Scored]:
    """The scores of an arm by method."""
    fitted = [method for method in dict.fromkeys((REPAIRED, *methods)) if method != RAW]
    measures = measure_arm(store, arm, registry.calibrators(fitted))
    scored = {}
    for method in methods:
        of_method = measures.frame[measures.frame["method"] == method].set_index("seed")
        frame = of_method.loc[list(measures.seeds)]
        metrics = {name: frame[name].tolist() for name in ("accuracy", *LOW) if name in frame}
        examples = {name: measures.examples[method][name] for name in PER_EXAMPLE}
        scored[method] = Scored(examples, metrics, measures.seeds)
    return scored


def _key(row: Any) -> tuple[Any, ...]:
    """The values of KEYS, None where there is none."""
    values = (row.get(key) for key in KEYS)
    return tuple(None if value is None or value != value else value for value in values)


def judged(metrics: Sequence[str], scored: Sequence[Scored]) -> list[str]:
    """The metrics of which less or more is better and which every row has."""
    candidates = [metric for metric in metrics if metric in ("accuracy", *LOW)]
    return [metric for metric in candidates if all(metric in row.metrics for row in scored)]


def best(scored: Sequence[Scored], metric: str, nested: bool, groups: Iterable[Sequence[int]]) -> set[int]:
    """Of each group of rows, the best by the metric's mean and those that it is not shown to be better than.

    A row is left out when the paired difference from the best has Holm-adjusted p < .05 over its group; where no
    interval can be had, say of one seed, it is not.
    """
    chosen: set[int] = set()
    for group in groups:
        chosen |= _best_of_group(scored, metric, nested, group)
    return chosen


def _best_of_group(scored: Sequence[Scored], metric: str, nested: bool, group: Sequence[int]) -> set[int]:
    means = {}
    for i in group:
        values = scored[i].metrics[metric]
        mean = math.fsum(values) / len(values)
        means[i] = mean if metric in LOW else -mean
    return tied(means, lambda i, top: paired_difference(scored[i], scored[top], metric, nested).p)


def paired_difference(one: Scored, other: Scored, metric: str, nested: bool) -> Interval:
    """One minus the other over the seeds that both have."""
    seeds = [seed for seed in one.seeds if seed in other.seeds]
    ours, theirs = (side.take([side.seeds.index(seed) for seed in seeds]) for side in (one, other))
    return difference(metric, ours, theirs, nested)
