"""Arms whose seeds are of two kinds: how many collapsed, at what rate, and the means with and without them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from calib_bench import registry
from calib_bench.analysis.measure import Measures
from calib_bench.analysis.result_rows import MAGNITUDE, RATE, TRAINED, TWO_KINDS, Row, fields, limits, percent
from calib_bench.analysis.tables import TableSpec
from calib_bench.core.fate import DEAD, DIVERGED
from calib_bench.core.settings import Grid
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.inference import collapsed, crossed_interval, rate, within
from calib_bench.inference.collapse import SEEDS, TIMES

NAMES = ("model", "variant", "beta", "objective", "intervention", "switch", "search")
"""Columns that name an arm in a frame of trials."""
RESULTS = {"accuracy": True, "repaired_log_loss": False}
"""Results that show a collapse, and whether the largest is the best."""
SCORES = {"accuracy": ("raw", "correct"), "repaired_log_loss": ("temperature_scaling", "log_loss")}
"""The method of each of RESULTS, and the per-example score that it is the mean of."""


def rows(trials: pd.DataFrame, grid: Grid) -> list[Row]:
    """One row an arm with a collapsed seed, by any of RESULTS (`inference.collapsed`).

    Args:
        trials: rows of `arms.trials`, each with columns that name its arm.

    Returns:
        `collapsed`, the rate with exact limits (Clopper-Pearson) over the trials that ran, diverged ones counted;
        `collapsed_trials`, "1 of 5"; of each result its mean over the seeds that finished, and `_without` the mean
        over those that did not collapse, with a t interval over seeds; `mixed`, whether some that finished did not.
    """
    if "accuracy" not in trials:
        return []
    K = registry.task(grid.task).classes
    names = [name for name in NAMES if name in trials]
    groups = trials.groupby(names, sort=False, dropna=False)
    arm_rows = (_row(arm, {name: arm[name].iloc[0] for name in names}, K) for _, arm in groups)
    return [row for row in arm_rows if row]


def _row(arm: pd.DataFrame, name: Row, classes: int) -> Row:
    """The row of one arm's trials, which begins with its `name`; empty where none collapsed."""
    done = arm[arm["status"].isin(("done", DEAD))]
    scores = {result: done[result].astype("float64") for result in RESULTS}
    lost_S = _lost(done["status"] == DEAD, scores, classes)
    if not lost_S.any():
        return {}
    diverged = int((arm["status"] == DIVERGED).sum())
    events, ran = int(lost_S.sum()) + diverged, len(done) + diverged
    row: Row = {**name, "seeds": ran, "mixed": not lost_S.all(), **fields("collapsed", rate(events, ran))}
    row["collapsed_trials"] = f"{events} of {ran}"
    for result in RESULTS:
        values = done[result].to_numpy(np.float64)
        row[result] = float(values.mean())
        if row["mixed"]:
            without = crossed_interval(values[~lost_S][:, None], nested=True)
            row |= limits(f"{result}_without", within(without, result))
    return row


def _lost(dead_S: ArrayLike, values: Mapping[str, ArrayLike], classes: int) -> NDArray[np.bool_]:
    """Which of an arm's finished seeds collapsed, by any of RESULTS, or are dead: [S]."""
    chance = {"accuracy": 1 / classes, "repaired_log_loss": math.log(classes)}
    lost_S = np.array(dead_S, bool)
    for result, largest in RESULTS.items():
        lost_S |= collapsed(values[result], chance[result], largest)
    return lost_S


def mixed(measures: Measures) -> bool:
    """Whether some of an arm's finished seeds collapsed, and some did not."""
    if not measures.seeds:
        return False
    scores = {result: measures.examples[method][score].mean(1) for result, (method, score) in SCORES.items()}
    classes = registry.task(measures.arm.trial.task).classes
    lost_S = _lost([seed in measures.dead for seed in measures.seeds], scores, classes)
    return bool(lost_S.any() and not lost_S.all())


def two_kinds(arm: Measures, *references: Measures) -> Row:
    """The column TWO_KINDS of a row about an arm and those that it is compared with; no column where none is mixed."""
    if mixed(arm):
        return {TWO_KINDS: "this arm"}
    return {TWO_KINDS: "reference"} if any(map(mixed, references)) else {}


ESTABLISHING = (
    "separation", "matched", "refinement", "seeds", "gain", "peaks", "interventions", "two_by_two", "best_beta",
    "factorial_tests", "decisions", "shift", "shift_methods", "shift_corruptions", "warm_up", "comparisons",
    "best_epochs", "repaired_sets",
)  # fmt: skip
"""Frames, of the studies that have them, by which effects are called established."""


def mark(frames: dict[str, pd.DataFrame], grid: Grid) -> None:
    """Adds the column TWO_KINDS to frames with a row that rests on an arm of which some seeds collapsed, not all.

    It says "this arm" or "reference"; rows of several betas rest on the arm of each. A mark that is there stays.

    Args:
        frames: "trials", rows of `arms.trials` with columns that name their arm, and some of ESTABLISHING.
    """
    mixed_arms = [row for row in rows(frames["trials"], grid) if row["mixed"]]
    if not mixed_arms:
        return
    for name, frame in frames.items():
        if name in ESTABLISHING:
            frames[name] = _marked(frame, mixed_arms, grid)


def _marked(frame: pd.DataFrame, mixed_arms: Sequence[Mapping[str, Any]], grid: Grid) -> pd.DataFrame:
    marks = [_plain(row.get(TWO_KINDS)) or _rests_on(row, mixed_arms, grid) for row in frame.to_dict("records")]
    return frame.assign(**{TWO_KINDS: [text or None for text in marks]}) if any(marks) else frame


def _rests_on(row: Mapping[Any, Any], mixed_arms: Sequence[Mapping[str, Any]], grid: Grid) -> str:
    """ "this arm" or "reference" where that is one of the mixed arms; else empty."""
    arm = _arm_of(row)
    arm["intervention"] = "" if arm.get("intervention") == TRAINED else arm.get("intervention", "")
    reference: dict[str, Any] = {key: arm[key] for key in ("model", "variant") if key in arm}
    reference |= {"beta": grid.reference, "objective": CROSS_ENTROPY, "intervention": ""}
    candidates = list(map(_arm_of, mixed_arms))
    if "metric" in row and "head_rate" in row:  # a 2x2 rests on every cell, whatever it is called
        candidates = [one for one in candidates if one.get("intervention", "") in ("", RATE, MAGNITUDE)]
        arm.pop("intervention")
    if _is_among(arm, candidates):
        return "this arm"
    return "reference" if _is_among(reference, candidates) else ""


def _arm_of(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The values that name the arm of a row, missing ones empty."""
    return {key: _plain(row[key]) for key in NAMES if key in row}


def _is_among(arm: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one of the candidates has all the values that name the arm."""
    return any(all(one.get(key, "") == value for key, value in arm.items()) for one in candidates)


def _plain(value: Any) -> Any:
    return "" if value is None or value != value else value


def words(arm_rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence per arm on its rate of collapse and its means with and without collapsed seeds."""
    sentences = []
    for row in arm_rows:
        kept = math.isfinite(row.get("accuracy_without", math.nan))
        means = [
            f"mean {name.replace('_', ' ')} {row[name]:.4f}"
            + (f", without collapsed seeds {row[f'{name}_without']:.4f}" if kept else "")
            for name in RESULTS
        ]
        begin = f"Collapse, {named(row)}: {row['collapsed_trials']} trials, {percent(row, 'collapsed')}"
        sentences.append(f"{begin}; {'; '.join(means)}.")
    return sentences


def warnings(arm_rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Warning that names arms with collapsed seeds, whose intervals do not cover further collapses."""
    if not arm_rows:
        return []
    listed = "; ".join(f"{named(row)}, {row['collapsed_trials']} trials" for row in arm_rows)
    few = f" Give {SEEDS} seeds (seed=0..{SEEDS - 1})." if min(row["seeds"] for row in arm_rows) < SEEDS else ""
    return [f"Trials collapsed at the chosen rate: {listed}. {UNCOVERED}{few}"]


UNCOVERED = (
    "Intervals that include these arms do not cover further collapses; where only some of an arm's seeds collapsed, no "
    "effect is established. Read them together with the rate of collapse and the means without collapsed seeds."
)
"""What a warning of collapsed trials means for intervals."""


def none_seen(seeds: int) -> str:
    """Text on the highest rate of collapse that `seeds` seeds without a collapse still allow."""
    return f"no collapse among {seeds} seeds still allows a rate of up to {rate(0, seeds).high:.0%} of trials"


TABLE = TableSpec(
    "Trials that collapsed",
    (
        "collapsed: diverged, or worse than the better half of the arm's seeds, in accuracy or repaired log loss, by a "
        "gap of at least a fifth of the distance to guessing (three tenths with 3 or 4 seeds) and of at least "
        f"{TIMES:g} within-group standard deviations divided by that fraction; share of the trials at the chosen rate "
        "that ran, exact limits (Clopper-Pearson)",
        "without: mean over the seeds that did not collapse, t intervals over seeds for this test set; intervals of "
        "the mean over all seeds do not cover collapses that were not seen",
    ),
    hidden=("mixed",),
)


def named(row: Mapping[str, Any]) -> str:
    """The arm of a row by every column of NAMES that it has: "mlp_16 batch=32 beta=0.1 cross_entropy head rate"."""
    parts = [str(row[key]) for key in ("model", "variant") if isinstance(row.get(key), str)]
    parts.append(f"beta={row['beta']:.3g}")
    parts += [str(row[key]) for key in NAMES[3:] if isinstance(row.get(key), str)]
    return " ".join(parts)
