"""What do the two temperatures of training, the softmax's 1 / beta and SGD's eta0, have in common?

In the lazy regime beta and the rate enter through beta^2 eta0 alone, eta0 = rate / ((1 - momentum) B) (Agarwala et al.,
arXiv 2010.07344): what is equal along lines of equal beta^2 eta0 is shared, and what changes along them is beta's own.
"""

from __future__ import annotations

import math

from calib_bench import registry
from calib_bench.analysis import controls
from calib_bench.analysis.arms import named
from calib_bench.analysis.measure import own_tests
from calib_bench.analysis.result_rows import Row, table_frames
from calib_bench.analysis.tables import make_tables
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.study import Analysis, Role, Section, Study
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.planning import tuning
from calib_bench.planning.tuning import Arm
from calib_bench.studies.two_temperatures import figures as plots
from calib_bench.studies.two_temperatures import plane
from calib_bench.studies.two_temperatures.findings import verdict, warnings
from calib_bench.studies.two_temperatures.plane import Cell
from calib_bench.studies.two_temperatures.result import PlaneResult
from calib_bench.studies.two_temperatures.rows import family_rows
from calib_bench.studies.two_temperatures.tables import TABLES


def plan(grid: Grid, scores: Scores) -> dict[Trial, Role]:
    """Every beta at every rate with every seed, and the positive control of each family."""
    families = plane.families(grid)
    cells = [trial for family in families for trials in family for trial in trials]
    wanted = [*tuning.with_role(cells, "chosen")]
    for family in families:
        wanted += controls.positive(plane.base(grid, family, scores))
    return tuning.planned(wanted)


def analyse(grid: Grid, store: Results) -> Analysis:
    """Shares of variance, and what beta adds at equal beta^2 eta0.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    families, scores = plane.families(grid), store.scores(grid.select)
    family_cells = [[plane.read(store, trials) for trials in family] for family in families]
    names = [_name(cells, family_cells) for cells in family_cells]
    rows: dict[str, list[Row]] = {table: [] for table in TABLES}
    for cells, family, name in zip(family_cells, families, names, strict=True):
        rows["controls"] += _controls(store, plane.base(grid, family, scores), name)
        for table, table_rows in family_rows(grid, store, cells).items():
            rows[table] += [name | row for row in table_rows]
    frames = table_frames(rows, grid, {"at_equal": ()})
    control = frames["controls"]
    sentences = verdict(names, frames)
    return Analysis(
        verdict=(*(sentences or ("No two cells have finished: nothing can be compared.",)), *controls.told(control)),
        tables=make_tables(TABLES, frames, grid),
        warnings=warnings(grid, family_cells),
        result=PlaneResult(
            grid.limit, grid.reference, families=family_cells, guess=math.log(registry.task(grid.task).classes)
        ),
        summary=(*sentences[:2], *controls.outcome(control)) if sentences else (),
    )


def _controls(store: Results, base: Arm | None, name: Row) -> list[Row]:
    """The controls of a family's cell that does best at the reference's beta."""
    if base is None:
        return []
    differs = ", ".join(f"{key}={value}" for key, value in name.items() if key not in ("model", "objective"))
    return controls.of_arm(store, base, named(base, differs or None), own_tests(store, [base]))


def _name(cells: list[Cell], family_cells: list[list[Cell]]) -> Row:
    """Columns that name a family."""
    mine = cells[0].trials[0]
    others = [one[0].trials[0] for one in family_cells]
    differs = [key for key in ("objective", "batch", "momentum", "epochs", "schedule", "label_noise", "sampling")
               if len({getattr(trial, key) for trial in others}) > 1]  # fmt: skip
    return {"model": mine.model} | {key: getattr(mine, key) for key in differs}


STUDY = Study(
    question="Are the softmax's temperature 1/beta and SGD's temperature eta0 one, through beta^2 eta0?",
    plan=plan,
    analyse=analyse,
    figures={"plane": plots.plane, "collapse": plots.collapse},
    defaults={
        "objective": (CROSS_ENTROPY,),
        "beta": (0.0316227766, 0.1, 0.316227766, 1.0, 3.16227766, 10.0),
        "lr_eff": tuple(float(f"{10 ** (k / 2):.9g}") for k in range(-6, 5)),
        "schedule": ("constant",),
        "warmup": (0.0,),
        "seed": (0, 1, 2, 3),
    },
    sections=(
        Section("Shared and not", ("collapse", "shares", "block")),
        Section("At equal beta^2 eta0", ("at_equal",)),
        Section("The plane", ("plane", "cells")),
        controls.SECTION,
    ),
    references=("agarwala2023temperature", "olejnik2003"),
)
