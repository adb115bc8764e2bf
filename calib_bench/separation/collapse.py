"""Arms whose seeds are of two kinds: how many collapsed, at what rate, and the means with and without them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from calib_bench import discover
from calib_bench.fate import DEAD, DIVERGED
from calib_bench.inference import collapsed, crossed_interval, rate
from calib_bench.inference.collapse import SEEDS
from calib_bench.rows import Row, fields
from calib_bench.separation.cells import noted, shown
from calib_bench.study import Table

if TYPE_CHECKING:
    import pandas as pd

    from calib_bench.settings import Settings

NAMES = ("model", "variant", "beta", "objective", "intervention", "switch")
"""Columns that name an arm in a frame of trials."""
RESULTS = {"accuracy": True, "repaired_log_loss": False}
"""Results that show a collapse, and whether the largest is the best."""


def rows(trials: pd.DataFrame, settings: Settings) -> list[Row]:
    """One row an arm with a collapsed seed, by any of RESULTS (`inference.collapsed`).

    Args:
        trials: rows of `arms.trials`, each with columns that name its arm.

    Returns:
        `collapsed`, the rate with exact limits (Clopper-Pearson) over the trials that ran, diverged ones counted;
        `collapsed_trials`, "1 of 5"; of each result its mean over the seeds that finished, and `_without` the mean
        over those that did not collapse, with a t interval over seeds.
    """
    if "accuracy" not in trials:
        return []
    K = discover.task(settings.task).classes
    chance = {"accuracy": 1 / K, "repaired_log_loss": math.log(K)}
    names = [name for name in NAMES if name in trials]
    found = []
    for _, arm in trials.groupby(names, sort=False, dropna=False):
        done = arm[arm["status"].isin(("done", DEAD))]
        lost = np.array(done["status"] == DEAD)
        for result, largest in RESULTS.items():
            lost |= collapsed(done[result].astype("float64"), chance[result], largest)
        if not lost.any():
            continue
        diverged = int((arm["status"] == DIVERGED).sum())
        events, ran = int(lost.sum()) + diverged, len(done) + diverged
        row: Row = {name: arm[name].iloc[0] for name in names}
        row |= {"seeds": ran, **fields("collapsed", rate(events, ran)), "collapsed_trials": f"{events} of {ran}"}
        for result in RESULTS:
            values = done[result].to_numpy(np.float64)
            row[result] = float(values.mean())
            if not lost.all():
                without = fields(f"{result}_without", crossed_interval(values[~lost][:, None], nested=True))
                row |= {key: value for key, value in without.items() if not key.endswith("_p")}
        found.append(row)
    return found


def words(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence an arm."""
    said = []
    for row in found:
        kept = math.isfinite(row.get("accuracy_without", math.nan))
        means = [
            f"mean {name.replace('_', ' ')} {row[name]:.4f}"
            + (f", given no collapse {row[f'{name}_without']:.4f}" if kept else "")
            for name in RESULTS
        ]
        rates = f"{row['collapsed']:.0%} [{row['collapsed_low']:.0%}, {row['collapsed_high']:.0%}]"
        begin = f"Seeds of two kinds, {_named(row)}: {row['collapsed_trials']} trials collapsed, {rates}"
        said.append(f"{begin}; {'; '.join(means)}.")
    return said


def warnings(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What intervals do not cover in these arms."""
    if not found:
        return []
    listed = "; ".join(f"{_named(row)}, {row['collapsed_trials']} trials" for row in found)
    few = f" Give {SEEDS} seeds (seed=0..{SEEDS - 1})." if min(row["seeds"] for row in found) < SEEDS else ""
    return [
        f"Seeds of two kinds, some of which collapsed: {listed}. Intervals of means and spreads there, and of "
        f"contrasts with them, do not cover what so few seeds have not shown: read the rate of collapse, and the means "
        f"given no collapse, beside them.{few}"
    ]


def none_seen(seeds: int) -> str:
    """What seeds without a collapse leave possible."""
    return f"no collapse among {seeds} seeds still allows a rate of up to {rate(0, seeds).high:.0%} of trials"


def table(frame: pd.DataFrame, settings: Settings) -> Table:
    """The arms with collapsed seeds.

    Args:
        frame: of `rows`.
    """
    return Table(
        "Seeds of two kinds: trials that collapsed",
        shown(frame, settings),
        noted(
            settings,
            "collapsed: diverged, or parted from the better half of its arm's seeds by a gap of ten standard "
            "deviations within both groups that takes a large part of the way to guessing, in accuracy or repaired log "
            "loss; share of the trials at the chosen rate that ran, exact limits (Clopper-Pearson)",
            "without: mean over the seeds that did not collapse, t intervals over seeds for this test set; intervals "
            "of the mean over all seeds do not cover collapses that were not seen",
        ),
    )


def _named(row: Mapping[str, Any]) -> str:
    parts = [str(row[key]) for key in ("model", "variant") if isinstance(row.get(key), str)]
    parts.append(f"beta={row['beta']:.3g}")
    parts += [str(row[key]) for key in ("objective", "intervention", "switch") if isinstance(row.get(key), str)]
    return " ".join(parts)
