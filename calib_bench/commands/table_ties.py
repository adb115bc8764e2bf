"""The best of each column of a table of baselines, and which others the data cannot tell from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from calib_bench import registry
from calib_bench.analysis import arms as each
from calib_bench.analysis.format import ALPHA
from calib_bench.analysis.measure import PER_EXAMPLE, measure_arm, own_tests
from calib_bench.analysis.trial_predictions import RAW, REPAIRED
from calib_bench.errors import UserError
from calib_bench.inference import Interval, aurc_interval, difference_interval, ece_interval, holm
from calib_bench.planning import tuning

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from calib_bench.core.settings import Settings
    from calib_bench.store.store import Store

MEANS = {"accuracy": "correct", "log_loss": "log_loss", "brier": "brier"}
"""Metrics that are means over examples, and the per-example score each is the mean of."""
LOW = (
    "log_loss", "brier", "ece", "adaptive_ece", "aurc", "e_aurc", "smece", "classwise_ece", "mce",
    "debiased_squared_ece", "ece_positive", "smece_positive",
)  # fmt: skip
"""Metrics of which less is better; of accuracy more is."""
PAIRED = (*MEANS, "ece", "adaptive_ece", "aurc", "e_aurc")
"""Metrics whose differences count seeds and examples; of the others they count seeds, for this test set."""
KEYS = ("model", "variant", "beta", "objective")


@dataclass(frozen=True)
class Scored:
    """A row's scores on the test split: per example [S, N], every metric by seed, and the seeds."""

    examples: dict[str, Tensor]
    metrics: dict[str, list[float]]
    seeds: tuple[int, ...]


def scores(store: Store, settings: Settings, rows: pd.DataFrame) -> tuple[list[Scored], bool]:
    """The scores of each row (columns KEYS and method), measured anew; whether seeds have tests of their own.

    Raises:
        UserError: a row is not of an arm of the run's grid.
    """
    families = tuning.tuned(settings, store.scores(settings.select))
    variants = each.variants(family.arms[0].trial.family() for family in families)
    arms: dict[tuple[Any, ...], tuning.Arm] = {}
    for family in families:
        variant = variants[family.arms[0].trial.family()]
        arms |= {_key(each.named(arm, variant)): arm for arm in family.arms}
    wanted: dict[tuple[Any, ...], list[str]] = {}
    for row in rows.to_dict("records"):
        if _key(row) not in arms:
            raise UserError(f"no arm of the grid is {' '.join(str(v) for v in _key(row) if v is not None)}")
        wanted.setdefault(_key(row), []).append(row["method"])
    found = {}
    for key, methods in wanted.items():
        fitted = registry.calibrators([m for m in dict.fromkeys((REPAIRED, *methods)) if m != RAW])
        measures = measure_arm(store, arms[key], fitted)
        for method in methods:
            frame = measures.frame[measures.frame["method"] == method].set_index("seed").loc[list(measures.seeds)]
            metrics = {name: frame[name].tolist() for name in ("accuracy", *LOW) if name in frame}
            kept = {name: measures.examples[method][name] for name in PER_EXAMPLE}
            found[*key, method] = Scored(kept, metrics, measures.seeds)
    order = [found[*_key(row), row["method"]] for row in rows.to_dict("records")]
    return order, own_tests(store, [arms[key] for key in wanted])


def _key(row: Any) -> tuple[Any, ...]:
    return tuple(None if row.get(k) is None or row.get(k) != row.get(k) else row[k] for k in KEYS)


def best(scored: Sequence[Scored], metric: str, nested: bool, groups: Iterable[Sequence[int]]) -> set[int]:
    """Of each group of rows, the best by the metric's mean and those that it is not shown to be better than.

    A row is left out when the paired difference from the best has Holm-adjusted p < .05 over its group; where no
    interval can be had, say of one seed, it is not.
    """
    sign = 1.0 if metric in LOW else -1.0
    chosen: set[int] = set()
    for group in groups:
        means = {i: math.fsum(scored[i].metrics[metric]) / len(scored[i].metrics[metric]) for i in group}
        known = [i for i in group if math.isfinite(means[i])]
        if not known:
            continue
        top = min(known, key=lambda i: sign * means[i])
        others = [i for i in known if i != top]
        adjusted = holm([difference(scored[i], scored[top], metric, nested).p for i in others])
        chosen |= {top, *(i for i, p in zip(others, adjusted, strict=True) if not p < ALPHA)}
    return chosen


def difference(one: Scored, other: Scored, metric: str, nested: bool) -> Interval:
    """One minus the other over the seeds that both have."""
    seeds = [seed for seed in one.seeds if seed in other.seeds]
    mine, theirs = ([s.seeds.index(seed) for seed in seeds] for s in (one, other))
    if metric in MEANS:
        name = MEANS[metric]
        return difference_interval(metric, one.examples[name][mine] - other.examples[name][theirs], nested)
    if metric in PAIRED:
        a = (one.examples["confidence"][mine], one.examples["correct"][mine])
        b = (other.examples["confidence"][theirs], other.examples["correct"][theirs])
        if metric.endswith("aurc"):
            return aurc_interval(*a, other=b, excess=metric == "e_aurc", nested=nested)
        return ece_interval(*a, other=b, adaptive=metric == "adaptive_ece", nested=nested)
    x, y = one.metrics[metric], other.metrics[metric]
    return difference_interval(metric, [[x[i] - y[j]] for i, j in zip(mine, theirs, strict=True)], nested=True)
