"""What does it gain to tune beta as one more hyperparameter, beside the rate?

Two searches of the same budget, by the same method and on the same selection split: one over beta and the rate, one
over the rate alone at the reference beta. Both winners are trained with every seed and compared on the test split,
which no search has seen. Where enough seeds tune, each of them is compared at the configurations that the others choose
among those trained for their full length (`tuning.cross_fitted`), which have every tuning seed.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from calib_bench.analysis import arms as each
from calib_bench.analysis import collapse, controls
from calib_bench.analysis.result_rows import Row
from calib_bench.analysis.tables import make_tables
from calib_bench.analysis.tuned_arms import intervals
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.study import Analysis, Role, Study
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.planning import tuning
from calib_bench.planning.search import Search
from calib_bench.studies.tune.figures import landscape
from calib_bench.studies.tune.findings import label, pair_warnings, sentences, warnings
from calib_bench.studies.tune.options import Options
from calib_bench.studies.tune.result import TuneResult
from calib_bench.studies.tune.rows import Gain, configurations, gain_of, name_of
from calib_bench.studies.tune.searches import final_arm, pairs, runs
from calib_bench.studies.tune.tables import TABLES


def plan(grid: Grid, scores: Scores) -> dict[Trial, Role]:
    """What the searches wait for, everything they have tried, and both winners with every seed."""
    wanted: list[tuple[Trial, Role]] = []
    for pair in pairs(grid, scores):
        wanted += [*_wanted(grid, pair.joint, scores), *_wanted(grid, pair.plain, scores)]
        if pair.plain.best:
            wanted += controls.positive(final_arm(grid, pair.plain, scores))
    return tuning.planned(wanted)


def _wanted(grid: Grid, side: Search, scores: Scores) -> Iterator[tuple[Trial, Role]]:
    """What one search has tried, what it waits for, and its winner with every seed once it is over."""
    seeds = grid.seed[: grid.tune_seeds]
    for tried in side.tried:
        yield from tuning.with_role(runs(grid, tried, seeds), "tuning")
    yield from tuning.with_role(side.wanted, "tuning")
    if side.best:
        yield from tuning.with_role(final_arm(grid, side, scores).trials.values(), "chosen")


def analyse(grid: Grid, store: Results) -> Analysis:
    """The winner over beta and rate against the winner over the rate at the reference.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    paired = pairs(grid, store.scores(grid.select))
    variants = each.variants(pair.template.family() for pair in paired)
    winners: list[tuning.Arm] = []
    rows: dict[str, list[Row]] = {key: [] for key in ("gain", "configurations", "controls", "alternatives", "trials")}
    verdict, messages = [], []  # type: list[str], list[str]
    for pair in paired:
        name = name_of(pair.template, variants[pair.template.family()])
        rows["configurations"] += [name | row for row in configurations(pair)]
        if pair.joint.best is None or pair.plain.best is None:
            messages.append(f"{label(name)}: a search is not over, or all of its configurations failed.")
            continue
        gain = gain_of(grid, store, pair)
        winners += gain.arms
        row = _add(rows, name, gain, grid.reference)
        verdict += sentences(grid, row, len(paired) > 1)
        messages += pair_warnings(pair, row)
    collapses = collapse.rows(pd.DataFrame(rows["trials"]), grid)
    rows["collapse"] = collapses
    frames = {key: pd.DataFrame(table_rows) for key, table_rows in rows.items()}
    nested = any(row["nested"] for row in rows["gain"])
    verdict += [*collapse.words(collapses), *controls.words(frames["controls"])] if verdict else []
    return Analysis(
        verdict=tuple(verdict or ("There is nothing to compare yet.",)),
        tables=make_tables(TABLES, frames, grid, intervals=intervals(grid, nested)),
        warnings=warnings(grid, messages, rows["gain"], collapses),
        result=TuneResult(grid.limit, grid.reference, winners, pairs=paired),
    )


def _add(rows: dict[str, list[Row]], name: Row, gain: Gain, reference: float) -> Row:
    """Adds the rows of a pair's gain, each with its name; returns the row of the gain itself."""
    row = name | gain.row
    rows["gain"].append(row)
    rows["trials"] += [name | trial for trial in gain.trials]
    rows["alternatives"] += [name | alternative for alternative in gain.alternatives]
    rows["controls"] += [name | {"beta": reference} | control for control in gain.controls]
    return row


STUDY = Study(
    question="What does tuning beta beside the learning rate gain over tuning the rate at beta = 1, at equal budgets?",
    plan=plan,
    analyse=analyse,
    figures={"landscape": landscape},
    defaults={"objective": (CROSS_ENTROPY,)},
    options=Options,
)
