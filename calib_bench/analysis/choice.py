"""Whether a conclusion hangs on the choice of rate: contrasts at the runner-up, and over rates that might be chosen.

Both arms of a contrast chose a rate by noisy scores. The tuning seeds are trained at every rate, so that the contrast
at any other pair of rates is known for them: at the arm's runner-up, the rate of the second lowest score, and over all
pairs of rates that other selection data might well have chosen.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from calib_bench.analysis.measure import Measures
from calib_bench.analysis.rate_choice import RedrawnChoice
from calib_bench.analysis.result_rows import Row, is_significant
from calib_bench.analysis.table_notes import NAMES
from calib_bench.analysis.tables import TableSpec

RESULTS = {
    "log_loss_total": ("raw", "log_loss"),
    "log_loss_dyn": ("temperature_scaling", "log_loss"),
    "accuracy": ("raw", "correct"),
}
"""Contrasts that are looked at: method, and per-example score."""
LIKELY = 0.05
"""Share of draws that choose a rate from which on it is one that might well have been chosen."""


def rows(arm: Measures, reference: Measures | None, name: Row) -> list[Row]:
    """The arm's row; none where neither it nor the reference had another rate to choose.

    Returns:
        `rate`, and `runner_up`, the arm's rate of the second lowest selection score, `behind` by so much (absent where
        no other rate trained); of each of RESULTS its mean over the tuning seeds at the chosen rates, `_runner_up` with
        the arm at its runner-up, `_least` and `_most` over all `pairs` of rates of both arms that might well have been
        chosen; `hangs`, the results whose sign differs among those.
    """
    if reference is None:
        return []
    mine, theirs = arm.redrawn_choice, reference.redrawn_choice
    if mine is None or theirs is None or len(mine.costs) == len(theirs.costs) == 1:
        return []
    rates = _chosen(arm), _chosen(reference)
    second = _runner_up(mine, rates[0])
    pairs = list(itertools.product(likely(mine, rates[0]), likely(theirs, rates[1])))
    row: Row = {**name, "rate": rates[0]}
    if second is not None:
        row |= {"runner_up": second, "behind": mine.costs[second] - mine.costs[rates[0]]}
    for result in RESULTS:
        row |= _differences(result, _means(mine, result), _means(theirs, result), rates, second, pairs)
    hangs = [result.replace("_", " ") for result in RESULTS if row[f"{result}_least"] < 0 < row[f"{result}_most"]]
    return [{**row, "pairs": len(pairs), "hangs": ", ".join(hangs) or None}]


def _differences(
    result: str,
    arm_means: Mapping[float, float],
    reference_means: Mapping[float, float],
    chosen: tuple[float, float],
    second: float | None,
    pairs: Sequence[tuple[float, float]],
) -> Row:
    """The columns of one of RESULTS, given both arms' means by rate: see `rows`."""
    differences = [arm_means[a] - reference_means[b] for a, b in pairs]
    row = {result: arm_means[chosen[0]] - reference_means[chosen[1]]}
    if second is not None:
        row[f"{result}_runner_up"] = arm_means[second] - reference_means[chosen[1]]
    return row | {f"{result}_least": min(differences), f"{result}_most": max(differences)}


def _runner_up(choice: RedrawnChoice, chosen: float) -> float | None:
    """The rate of the lowest selection score but for the chosen one; None where no other trained."""
    others = [rate for rate in choice.costs if rate != chosen]
    return min(others, key=lambda rate: (choice.costs[rate], rate), default=None)


def _means(choice: RedrawnChoice, result: str) -> dict[float, float]:
    """By rate, the mean of one of RESULTS over the tuning seeds."""
    method, score = RESULTS[result]
    return {rate: float(values.mean()) for rate, values in choice.results[method][score].items()}


def _chosen(measures: Measures) -> float:
    assert measures.arm.chosen is not None, "it was chosen again"
    return measures.arm.chosen


def likely(again: RedrawnChoice, chosen: float) -> list[float]:
    """The rates that might well have been chosen, the chosen one among them."""
    return [rate for rate in again.costs if rate == chosen or again.shares.get(rate, 0.0) >= LIKELY]


TABLE = TableSpec(
    "Does a contrast hang on the choice of rate?",
    (
        "each arm minus {reference} with cross-entropy, over the tuning seeds alone, which are trained at every "
        "rate, so that these means are not those of other tables; no intervals",
        "runner up: the arm's rate of the second lowest selection score, behind the chosen one by so much; the "
        "reference stays at its rate",
        "least, most: over all pairs of rates of both arms, as many as pairs says, of which each is chosen in "
        f"{LIKELY:.0%} or more of the draws that make the choice again; hangs: the results whose sign differs among "
        "these pairs",
    ),
    names=NAMES,
)


def words(frame: pd.DataFrame, contrasts: pd.DataFrame) -> list[str]:
    """Contrasts that are established and yet change their sign at rates that might well have been chosen.

    Args:
        frame: of `rows`.
        contrasts: those of the same arms with their intervals, Holm-adjusted.
    """
    if not len(frame) or not frame["hangs"].notna().any():
        return []
    keys = [key for key in NAMES if key in frame]
    both = contrasts.merge(frame[[*keys, "hangs"]], on=keys)
    listed = [
        f"{row['model']} beta={row['beta']:.3g} {row['objective']} ({', '.join(results)})"
        for row in both.to_dict("records")
        if (results := _hanging_results(row))
    ]
    if not listed:
        return []
    why = "the sign differs, over the tuning seeds, at rates that might well have been chosen"
    return [f"Hangs on the choice of rate, though intervals count it, as {why}: {', '.join(listed)}."]


def _hanging_results(row: Mapping[Any, Any]) -> list[str]:
    """The results whose contrast is significant, and hangs on the choice of rate."""
    hanging = row["hangs"].split(", ") if isinstance(row["hangs"], str) else []
    significant = [name.replace("_", " ") for name in RESULTS if is_significant(row, name)]
    return [name for name in significant if name in hanging]
