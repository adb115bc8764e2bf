"""How does the best inverse temperature beta move with the architecture, within one task?

The same grid of beta for models that differ in width, depth or normalization, every arm with a rate of its own. That
the best beta depends on the architecture is a finding of Agarwala et al. (2023, arXiv 2010.07344).
"""

from __future__ import annotations

import pandas as pd

from calib_bench.analysis import best_beta, controls
from calib_bench.analysis.result_rows import Row, adjusted
from calib_bench.analysis.tables import make_tables
from calib_bench.analysis.tuned_arms import TRIALS, Reader, by_objective, check_trains
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.study import DETAILS, Analysis, Role, Section, Study
from calib_bench.core.task import Task
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.errors import SettingsError
from calib_bench.models.variations import variations
from calib_bench.studies.width_depth import figures
from calib_bench.studies.width_depth.findings import summary, verdict
from calib_bench.studies.width_depth.rows import curves_of, trend_rows
from calib_bench.studies.width_depth.tables import TABLES, details


def models(task: Task) -> tuple[str, ...]:
    """The task's own model and its variations.

    Raises:
        SettingsError: there are none that are known.
    """
    return variations(task.models[0])


def plan(grid: Grid, scores: Scores) -> dict[Trial, Role]:
    """Every model over beta, tuned, all seeds at the chosen rates, and the positive control of each model.

    Raises:
        SettingsError: there is one model, or one with fewer than three betas, or nothing is trained.
    """
    models = grid.spaces
    if len(models) < 2:
        raise SettingsError(
            f"study=width_depth compares architectures, and there is one, {', '.join(models)}: give two"
        )
    for model, space in models.items():
        if len(space["beta"]) < 3:
            raise SettingsError(f"study=width_depth looks for the best of at least three betas, and {model} has fewer")
    check_trains(grid, "width_depth")
    return controls.plan(grid, scores)


def analyse(grid: Grid, store: Results) -> Analysis:
    """Every architecture over beta, and its best beta beside that of the first.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    reader = Reader.of(grid, store)
    curves: list[best_beta.Curve] = []
    points: list[Row] = []
    messages: list[str] = []
    for arms, variant in reader.families:
        for _, objective_arms in by_objective(arms):
            new_curves, rows, warned = curves_of(reader, objective_arms, variant)
            curves, points, messages = curves + new_curves, points + rows, messages + warned
    best, trends = (adjusted(pd.DataFrame(rows), "result") for rows in (best_beta.rows(curves), trend_rows(curves)))
    frames = {"best_beta": best, "trends": trends, "curves": pd.DataFrame(points)}
    tables = make_tables(TABLES, frames, grid, how=best_beta.how(best))
    return reader.analysis(verdict(best, trends), tables, messages, summary(best, trends))


STUDY = Study(
    question="How does the best inverse temperature beta move with the architecture: its width, its depth, "
    "its normalization?",
    plan=plan,
    analyse=analyse,
    figures={"over_beta": figures.over_beta, "best_beta": figures.best_beta},
    defaults={"objective": (CROSS_ENTROPY,), "model": models},
    sections=(
        Section("The best beta of each architecture", ("best_beta", "collapse")),
        Section("Width, depth, normalization", ("trends",)),
        Section("Each architecture over beta", ("over_beta", DETAILS, "curves")),
        controls.SECTION,
        TRIALS,
    ),
    details=details,
    references=("agarwala2023temperature", "guo2017", "holm1979"),
)
