"""The best of each column of a table of baselines, and which others the data cannot tell from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from calib_bench import registry
from calib_bench.analysis import arms as each
from calib_bench.analysis.measure import PER_EXAMPLE, Measures, begun, own_tests
from calib_bench.analysis.scores import LOW, RAW, REPAIRED, SeedScores, difference
from calib_bench.analysis.ties import tied
from calib_bench.core.settings import Grid
from calib_bench.core.trial import Trial
from calib_bench.errors import StoreError, UserError
from calib_bench.inference import Interval
from calib_bench.planning import tuning
from calib_bench.report.reuse import code_digest
from calib_bench.store.store import Store
from calib_bench.system import files

KEYS = ("model", "variant", "beta", "objective")
COST = "fit_seconds"
"""Seconds that a fit took where it was first made."""
KEPT = "report/comparisons.json"
"""Scores by seed and p-values that tables were made of, by digests of all that they rest on."""


@dataclass(frozen=True)
class Scored(SeedScores):
    """A row's scores on the test split, and the seeds; or why the method refused the arm."""

    seeds: tuple[int, ...]
    refused: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class Row:
    """A row's metrics, a value a seed, and a digest of the method and the predictions that they are of.

    Without metrics, `refused` says why the method does not take the arm's logits.
    """

    digest: str
    metrics: Mapping[str, Sequence[float]]
    refused: str = ""


class Ties:
    """Comparisons of a table's rows (columns KEYS and method); what was compared before is read, not measured again.

    Inside `analysis_pool.workers`, worker processes measure too.

    Attributes:
        rows: in the table's order.
        nested: whether seeds have test examples of their own.

    Raises:
        UserError: a row is not of an arm of the run's grid.
    """

    def __init__(self, store: Store, grid: Grid, rows: pd.DataFrame, plugins: Sequence[Path] = ()) -> None:
        records = rows.to_dict("records")
        self.store, self.path = store, store.path / KEPT
        self.places = [(_key(row), str(row["method"])) for row in records]
        self.arms = arms_by_key(store, grid)
        self._check_arms()
        self.measured: dict[tuple[Any, ...], dict[str, Scored]] = {}
        self.code = code_digest(tuple(plugins))
        self.metrics, self.p_values, self.refused = _kept(self.path, self.code)
        arms = {key: self.arms[key] for key, _ in self.places}
        trials = {key: [self._digest(trial) for _, trial in sorted(arm.trials.items())] for key, arm in arms.items()}
        self.nested = own_tests(store, arms.values())
        digests = [files.digest_of([method, trials[key]]) for key, method in self.places]
        new = (key for (key, _), digest in zip(self.places, digests, strict=True) if digest not in self.metrics)
        self.begun = {key: self._begin(key) for key in dict.fromkeys(new)}
        self.rows = [self._row(i, digest) for i, digest in enumerate(digests)]

    def _check_arms(self) -> None:
        """Raises UserError where the table has an arm that is not the grid's."""
        for key, _ in self.places:
            if key not in self.arms:
                raise UserError(f"no arm of the grid is {' '.join(str(value) for value in key if value is not None)}")

    def _digest(self, trial: Trial) -> list[Any]:
        """What a trial's predictions are known by."""
        return [trial.key, self.store.fate(trial), [*self.store.digests(trial).values()], self.store.record(trial).data]

    def _row(self, i: int, digest: str) -> Row:
        if digest not in self.metrics:
            scored = self.scored(i)
            self.metrics[digest] = dict(scored.metrics)
            self.refused |= {digest: scored.refused} if scored.refused else {}
        return Row(digest, self.metrics[digest], self.refused.get(digest, ""))

    def scored(self, i: int) -> Scored:
        """The scores of a row, measured with those of all rows of its arm."""
        key, method = self.places[i]
        if key not in self.measured:
            measured = self.begun.pop(key) if key in self.begun else self._begin(key)
            self.measured[key] = _scores(measured(), [m for k, m in self.places if k == key])
        return self.measured[key][method]

    def _begin(self, key: tuple[Any, ...]) -> Callable[[], Measures]:
        """Starts to measure an arm under the methods of its rows. No cell counts the choice of its rate."""
        methods = dict.fromkeys((REPAIRED, *(method for place, method in self.places if place == key)))
        calibrators = registry.calibrators([method for method in methods if method != RAW])
        return begun(self.store, replace(self.arms[key], tried={}), calibrators)

    def best(self, metric: str, groups: Iterable[Sequence[int]]) -> set[int]:
        """See `best`."""
        return best(self.rows, metric, groups, lambda one, other: self._p(metric, one, other))

    def _p(self, metric: str, one: int, other: int) -> float:
        name = f"{metric} {self.rows[one].digest} {self.rows[other].digest}"
        if name not in self.p_values:
            self.p_values[name] = paired_difference(self.scored(one), self.scored(other), metric, self.nested).p
        return self.p_values[name]

    def keep(self) -> None:
        """Store what was measured beside the report, where that can be written."""
        metrics = {row: {name: list(map(str, v)) for name, v in named.items()} for row, named in self.metrics.items()}
        p_values = {name: str(p) for name, p in self.p_values.items()}  # NaN, which JSON has not, among them
        if self.measured:
            with suppress(StoreError):
                content = {"code": self.code, "metrics": metrics, "p": p_values, "refused": self.refused}
                files.write_bytes(self.path, files.sealed(content))


def _kept(path: Path, code: str) -> tuple[dict[str, Any], dict[str, float], dict[str, str]]:
    """Metrics, p-values and refusals that are stored of this code; none where the file is missing or damaged."""
    with suppress(StoreError):
        kept = files.read_sealed(path)
        if kept["code"] == code:
            metrics = {
                row: {name: list(map(float, v)) for name, v in named.items()} for row, named in kept["metrics"].items()
            }
            return metrics, {name: float(p) for name, p in kept["p"].items()}, kept["refused"]
    return {}, {}, {}


def arms_by_key(store: Store, grid: Grid) -> dict[tuple[Any, ...], tuning.Arm]:
    """The arms of the run's grid by the values of KEYS."""
    families = tuning.tuned(grid, store.scores(grid.select))
    variants = each.variants(family.arms[0].trial.family() for family in families)
    arms = {}
    for family in families:
        variant = variants[family.arms[0].trial.family()]
        for arm in family.arms:
            arms[_key(each.named(arm, variant))] = arm
    return arms


def _scores(measures: Measures, methods: Sequence[str]) -> dict[str, Scored]:
    """The scores of an arm by method."""
    scored = {}
    for method in methods:
        if method not in measures.examples:
            scored[method] = Scored({}, {}, measures.seeds, refused=measures.refused.get(method, ""))
            continue
        of_method = measures.frame[measures.frame["method"] == method].set_index("seed")
        frame = of_method.loc[list(measures.seeds)]
        metrics = {name: frame[name].tolist() for name in ("accuracy", *LOW, COST) if name in frame}
        examples = {name: measures.examples[method][name] for name in PER_EXAMPLE}
        scored[method] = Scored(examples, metrics, measures.seeds)
    return scored


def _key(row: Any) -> tuple[Any, ...]:
    """The values of KEYS, None where there is none."""
    values = (row.get(key) for key in KEYS)
    return tuple(None if value is None or value != value else value for value in values)


def judged(metrics: Sequence[str], rows: Sequence[Row | Scored]) -> list[str]:
    """The metrics of which less or more is better and which every row has."""
    candidates = [metric for metric in metrics if metric in ("accuracy", *LOW)]
    return [metric for metric in candidates if all(metric in row.metrics for row in rows)]


def best(
    rows: Sequence[Row | Scored], metric: str, groups: Iterable[Sequence[int]], p: Callable[[int, int], float]
) -> set[int]:
    """Of each group of rows, the best by the metric's mean and those that it is not shown to be better than.

    A row is left out when the paired difference from the best has p < .05 after Holm's correction over all pairs of its
    group; where no interval can be had, say of one seed, it is not.

    Args:
        p: of the difference between two rows, by their places.
    """
    chosen: set[int] = set()
    for group in groups:
        chosen |= _best_of_group(rows, metric, group, p)
    return chosen


def _best_of_group(
    rows: Sequence[Row | Scored], metric: str, group: Sequence[int], p: Callable[[int, int], float]
) -> set[int]:
    means = {}
    for i in group:
        values = rows[i].metrics[metric]
        mean = math.fsum(values) / len(values)
        means[i] = mean if metric in LOW else -mean
    return tied(means, p)


def paired_difference(one: Scored, other: Scored, metric: str, nested: bool) -> Interval:
    """One minus the other over the seeds that both have."""
    seeds = [seed for seed in one.seeds if seed in other.seeds]
    ours, theirs = (side.take([side.seeds.index(seed) for seed in seeds]) for side in (one, other))
    return difference(metric, ours, theirs, nested)
