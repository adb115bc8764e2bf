"""How does the best inverse temperature beta move with the architecture, within one task?

The same grid of beta for models that differ in width, depth or normalization, every arm with a rate of its own. That
the best beta depends on the architecture is a finding of Agarwala et al. (2023, arXiv 2010.07344).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from calib_bench.analysis import arms as each
from calib_bench.analysis import best_beta, controls
from calib_bench.analysis.measure import own_tests
from calib_bench.analysis.result_rows import Row, adjusted
from calib_bench.analysis.tuned_arms import Reader
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.study import DETAILS, Analysis, Role, Section, Study
from calib_bench.core.task import Task
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.errors import SettingsError
from calib_bench.models.variations import variations
from calib_bench.planning import tuning
from calib_bench.studies.width_depth import figures
from calib_bench.studies.width_depth.findings import summary, verdict
from calib_bench.studies.width_depth.result import WidthDepthResult
from calib_bench.studies.width_depth.rows import curves_of, trend_rows
from calib_bench.studies.width_depth.tables import details, width_tables

if TYPE_CHECKING:
    import pandas as pd


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
    spaces = grid.spaces
    if len(spaces) < 2:
        raise SettingsError(
            f"study=width_depth compares architectures, and there is one, {', '.join(spaces)}: give two"
        )
    for model, space in spaces.items():
        if len(space["beta"]) < 3:
            raise SettingsError(f"study=width_depth looks for the best of at least three betas, and {model} has fewer")
        if 0 in space["epochs"]:
            raise SettingsError("study=width_depth trains what it compares: give epochs=1 or more")
    return controls.plan(grid, scores)


def analyse(grid: Grid, store: Results) -> Analysis:
    """Every architecture over beta, and its best beta beside that of the first.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    import pandas as pd

    families = tuning.tuned(grid, store.scores(grid.select))
    variants = each.variants(family.arms[0].trial.family() for family in families)
    reader = Reader(grid, store, own_tests(store, [arm for family in families for arm in family.arms]))
    curves, points, messages = [], [], []  # type: list[best_beta.Curve], list[Row], list[str]
    for family in families:
        variant = variants[family.arms[0].trial.family()]
        reader.control(family.arms, variant)
        for objective in dict.fromkeys(arm.trial.objective for arm in family.arms):
            objective_arms = [arm for arm in family.arms if arm.trial.objective == objective]
            new_curves, rows, warned = curves_of(reader, objective_arms, variant)
            curves, points, messages = curves + new_curves, points + rows, messages + warned
    best, trends = (_adjusted(rows) for rows in (best_beta.rows(curves), trend_rows(curves)))
    point_frame = pd.DataFrame(points)
    tables = width_tables(grid, best, trends, point_frame)
    return reader.analysis(
        verdict(best, trends), tables, messages, summary(best, trends), WidthDepthResult, best=best, points=point_frame
    )


def _adjusted(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows with Holm's adjustment within each result."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    return adjusted(frame, "result") if "result" in frame else frame


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
        Section("Tuning and trials", ("rates", "trials")),
    ),
    details=details,
    references=("agarwala2023temperature", "guo2017", "holm1979"),
)
