"""Where the best inverse temperature beta of an architecture is, with an interval, and whether another's is elsewhere.

That the best beta depends on the architecture is a finding of Agarwala et al. (2023, arXiv 2010.07344).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from calib_bench.analysis import beta_rate_plane
from calib_bench.analysis.calibration_variance import log_temperatures, own_fit, same_calibration
from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.findings import NO_RATIO, Finding, Sentences
from calib_bench.analysis.measure import Measures
from calib_bench.analysis.rate_choice import shift, with_choice
from calib_bench.analysis.result_rows import TWO_KINDS, Row, cell
from calib_bench.analysis.scores import REPAIRED
from calib_bench.analysis.tables import STAR, TableSpec
from calib_bench.errors import counted
from calib_bench.inference import Interval, Resampled, percentile, refitted, resampled_means, score_interval, within
from calib_bench.inference.arrays import Array

RESULTS = {"repaired log loss": ("temperature_scaling", "log_loss"), "error": ("raw", "correct")}
"""Results that the best beta minimizes: method and per-example score; of "correct" its complement."""
FEWEST = 3
"""Fewest betas for which a best one is estimated."""


@dataclass(frozen=True)
class Curve:
    """One architecture's result over beta, resampled.

    Attributes:
        name: columns that name it.
        result: of RESULTS.
        betas: of arms in which every seed finished, ascending.
        found: the means at each of them.
    """

    name: Row
    result: str
    betas: tuple[float, ...]
    found: Resampled

    def best(self) -> tuple[float, Array, bool]:
        """Log of the best beta, in the data and in resamples, and whether the best one tried is the last one tried."""
        x_B = np.log(self.betas)
        place, edge = beta_rate_plane.parabola_minimum(x_B, self.found.means_A)
        return float(place), beta_rate_plane.parabola_minimum(x_B, self.found.drawn_BA)[0], bool(edge)


def results(measures: Measures) -> dict[str, Array]:
    """An arm's per-example values [S, N] of each of RESULTS, the lower the better."""
    scores = {result: measures.examples[method][score].numpy() for result, (method, score) in RESULTS.items()}
    return {result: 1 - values if result == "error" else values for result, values in scores.items()}


def moves(measures: Measures) -> dict[str, Array]:
    """Changes [V, B, S] of each of RESULTS under other choices of the arm's rate; empty where none was chosen."""
    shifts = {result: shift(measures, None, (*where, 1.0)) for result, where in RESULTS.items()}
    return {result: -move if result == "error" else move for result, move in shifts.items() if move is not None}


def refits(measures: Measures) -> dict[str, Array]:
    """What temperatures fitted on other calibration examples would add to the arm's mean of each of RESULTS: [B].

    Empty where calibration sets differ in size between seeds, so that only seeds are independent.
    """
    log_T = log_temperatures(measures)
    if log_T is None:
        return {}
    shared = same_calibration(measures)
    after = {result: score for result, (method, score) in RESULTS.items() if method == REPAIRED}
    return {
        result: refitted(log_T, measures.slopes[score][0], measures.slopes[score][1], shared)
        for result, score in after.items()
    }


def levels(measures: Measures, nested: bool) -> dict[str, Interval]:
    """Interval of an arm's mean of each of RESULTS; the choice of rate and the calibration examples are counted.

    Empty if no seed finished.
    """
    if not measures.seeds:
        return {}
    intervals, shifts = {}, moves(measures)
    for result, values in results(measures).items():
        (method, score), metric = RESULTS[result], result.replace(" ", "_")
        mean = score_interval(metric, values, nested, own_fit(measures, method, score))
        intervals[result] = within(with_choice(mean, shifts.get(result)), metric)
    return intervals


def curves(
    name: Row,
    values: Mapping[float, Mapping[str, Array]],
    nested: bool,
    choices: Mapping[float, Mapping[str, Array]] | None = None,
    fits: Mapping[float, Mapping[str, Array]] | None = None,
) -> list[Curve]:
    """An architecture's curves, one for each of RESULTS; none where fewer than three betas are there.

    Args:
        name: columns that name the architecture.
        values: `results` of the arms in which every seed finished, by beta.
        nested: each seed has test examples of its own.
        choices: `moves` of the same arms: their resamples differ by the choice of rate too.
        fits: `refits` of them: and by the calibration examples.
    """
    betas = tuple(sorted(values))
    if len(betas) < FEWEST:
        return []
    sources = [source for source in (choices, fits) if source]
    result_curves = []
    for result in RESULTS:
        beta_values = [values[beta][result] for beta in betas]
        means = [one.mean(1, keepdims=True) for one in beta_values] if nested else beta_values
        resampled = resampled_means(np.stack(means, -1))
        for source in sources:
            for column, beta in enumerate(betas):
                _add_draws(resampled, column, source.get(beta, {}).get(result))
        result_curves.append(Curve(name, result, betas, resampled))
    return result_curves


def _add_draws(resampled: Resampled, column: int, draws: Array | None) -> None:
    """Adds draws [B] or [V, B, S] of another source of variance to a column's resamples, repeated to as many."""
    if draws is not None:
        mean_B = draws if draws.ndim == 1 else draws.mean(-1)
        resampled.drawn_BA[:, column] += np.resize(mean_B, len(resampled.drawn_BA))


def left_out(model: str, betas: Sequence[float], count: int) -> list[str]:
    """Warning that names betas left out of the best beta because a seed is missing, and says if too few are left.

    Args:
        model: the architecture.
        betas: that lack a seed.
        count: of betas that do not.
    """
    if not betas:
        return []
    listed = ", ".join(f"{beta:.3g}" for beta in sorted(betas))
    few = f" That leaves fewer than {FEWEST}, so no best beta is given." if count < FEWEST else ""
    return [f"Left out of the best beta, {model} beta={listed}: not every seed finished.{few}"]


def rows(curves: Sequence[Curve]) -> list[Row]:
    """One row per architecture and result: the best beta with limits, and its ratio to the first architecture's."""
    table_rows, first = [], {}  # type: list[Row], dict[tuple[str, str], Curve]
    for curve in curves:
        base = first.setdefault((curve.result, curve.name["objective"]), curve)
        place, drawn, edge = curve.best()
        row: Row = {**curve.name, "result": curve.result, "betas": len(curve.betas), "seeds": curve.found.n_seeds}
        row |= {"examples": curve.found.n_examples, "inside": not edge}
        row |= Estimate.of_interval(percentile(place, drawn, curve.found)).exp().limits("best_beta")
        row["lowest"] = float(curve.found.means_A.min())
        if curve is not base:
            if TWO_KINDS in base.name:
                row.setdefault(TWO_KINDS, "reference")
            other, others, _ = base.best()
            log_ratio = percentile(place - other, drawn - others, curve.found)
            row |= Estimate.of_interval(log_ratio).exp().fields("ratio")
        table_rows.append(row)
    return table_rows


def words(best: pd.DataFrame, of: str = "") -> list[str]:
    """Sentences on the best betas and on those that differ significantly from the first, by objective and result.

    Args:
        best: frame of `rows`, Holm-adjusted within each result.
        of: words to begin with, where it must be said which objective this is and there is one.
    """
    sentences: list[str] = []
    if not len(best):
        return sentences
    for (result, objective), group in best.groupby(["result", "objective"], sort=False):
        first, *others = group.to_dict("records")
        where = f"{objective}: " if best["objective"].nunique() > 1 else of
        listed = ", ".join(f"{cell(row, 'best_beta')} ({named(row)}{edge(row)})" for row in (first, *others))
        sentences.append(Says.BEST.of(where=where, result=result, listed=listed))
        ratios = [ratio(row) for row in others if row.get("ratio") == row.get("ratio") is not None]
        if ratios:
            times = "; ".join(Says.TIMES.of(ratio=one.text, where=one.where, note=one.note) for one in ratios)
            sentences.append(Says.RELATIVE.of(where=where, first=named(first), result=result, times=times))
    return sentences


class Says(Sentences):
    """What is said of best betas."""

    BEST = "{where}The best beta by {result} is {listed}."
    RELATIVE = "{where}Relative to {first}, the best beta by {result} is {times}."
    TIMES = "{ratio} times for {where}{note}"
    EDGE = ", at the edge of the grid"
    HOW = (
        "{seeds}, test split; 95% percentile intervals, {what}, rates chosen anew where they were chosen, temperatures "
        "fitted anew{same}"
    )
    BOTH = "seeds and test examples resampled together"
    SEEDS = "each seed with its own test examples, seeds resampled"
    EXAMPLES = "test examples resampled, since there is one seed"
    SAME = ", the same resamples for every architecture"


def ratio(row: Mapping[Any, Any]) -> Finding:
    """The ratio of an architecture's best beta to the first architecture's."""
    return Finding.of(row, "ratio", "best beta", expectation=NO_RATIO, where=named(row))


def edge(row: Mapping[Any, Any]) -> str:
    """Text after a best beta that lies at the edge of the grid; empty for one inside."""
    return "" if row["inside"] else Says.EDGE


def named(row: Mapping[Any, Any]) -> str:
    """An architecture's name in a sentence."""
    variant = row.get("variant")
    return f"{row['model']} {variant}" if isinstance(variant, str) else str(row["model"])


def how(best: pd.DataFrame) -> str:
    """Note on what was resampled for the intervals of the best betas."""
    if not len(best):
        return ""
    seeds, examples = int(best["seeds"].max()), int(best["examples"].max())
    what = Says.SEEDS if examples == 1 else Says.BOTH
    what = Says.EXAMPLES if seeds == 1 else what
    same = Says.SAME if "ratio" in best else ""
    return Says.HOW.of(seeds=counted(seeds, "seed"), what=what, same=same)


TABLE = TableSpec(
    "The best beta of each architecture",
    (
        "vertex of a parabola in log beta through the lowest mean and its neighbours, each beta at its chosen rate",
        "betas: those at which every seed finished; inside: worse betas on both sides; lowest: the mean at the best "
        "beta tried",
        "{how}",
    ),
    columns={"ratio": f"ratio: to the first architecture's; {STAR} that it is 1, for each result"},
    paper=True,
    fields=lambda best, _: {"how": how(best)},
)
"""Of frames of `rows`, Holm-adjusted within each result."""
