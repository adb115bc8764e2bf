"""Which learning rate does each inverse temperature beta want, and which does it stand?

The plane of beta and rate in three units, every seed in every cell: its ridge, where the selection score is best, and
its frontier, above which training fails; `calib_bench.studies.learning_rate.phase` has the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from calib_bench.analysis import beta_rate_plane, controls
from calib_bench.analysis.result_rows import adjusted
from calib_bench.analysis.tables import make_tables
from calib_bench.analysis.tuned_arms import Reader, by_objective, check_trains
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.study import DETAILS, Analysis, Probe, Role, Section, Study
from calib_bench.core.task import Task
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.errors import SettingsError
from calib_bench.planning import tuning
from calib_bench.studies.learning_rate import figures, phase
from calib_bench.studies.learning_rate.findings import summary, verdict, warnings
from calib_bench.studies.learning_rate.result import LearningRateResult
from calib_bench.studies.learning_rate.tables import TABLES, details

DENSE = tuple(2.0**k for k in range(-6, 5))
"""Relative rates that resolve how the best and the failing rate move with beta."""


def rates(task: Task) -> tuple[float, ...]:
    """Relative rates of the plane where trials take seconds; none of other tasks, which have their recipe's rates."""
    return DENSE if task.interventions and task.recipe.optimizer == "sgd" else ()


def plan(grid: Grid, scores: Scores) -> dict[Trial, Role]:
    """Every cell at every seed; what brackets the frontier; the curvature at each start, where rates leave it out.

    Raises:
        SettingsError: nothing is trained, or there is one beta or one rate.
    """
    _check(grid)
    grid = beta_rate_plane.all_seeds(grid)
    wanted: list[tuple[Trial, Role]] = []
    for family in tuning.tuned(grid, scores):
        wanted += (*family.roles(), *controls.positive(controls.base(grid, family.arms)))
        for arm in family.arms:
            starts = [phase.start_of(grid, arm.trial, seed) for seed in grid.seed]
            wanted += tuning.with_role([start for start in starts if start is not None], "chosen")
            wanted += tuning.with_role(beta_rate_plane.wanted(grid, arm, scores), "tuning")
    return tuning.planned(wanted)


def _check(grid: Grid) -> None:
    check_trains(grid, "learning_rate")
    for model, space in grid.spaces.items():
        for key in ("beta", "lr"):
            if len(space[key]) < 2:
                raise SettingsError(
                    f"study=learning_rate needs several values of {key} to make a plane of, and model {model} has "
                    f"{key}={space[key][0]:g}: give for example {key}=logspace(-2,1,4)"
                )


def analyse(grid: Grid, store: Results) -> Analysis:
    """The plane of every model, recipe and objective.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    grid = beta_rate_plane.all_seeds(grid)
    reader = Reader.of(grid, store)
    phases = [one for arms, variant in reader.families for one in _phases(grid, store, arms, variant)]
    control_rows = reader.controls()
    frames = {**_frames(phases), "controls": control_rows}
    short = summary(frames)
    return Analysis(
        verdict=(*verdict(frames), *controls.told(control_rows)),
        tables=make_tables(TABLES, frames, grid),
        warnings=warnings(grid, phases, frames, store),
        summary=(*short, *controls.outcome(control_rows)) if short else (),
        result=LearningRateResult(
            limit=grid.limit,
            reference=grid.reference,
            arms=[arm for arms, _ in reader.families for arm in arms],
            phases=phases,
            cap=beta_rate_plane.guess(grid),
        ),
    )


def _phases(grid: Grid, store: Results, arms: Sequence[tuning.Arm], variant: str | None) -> Iterator[phase.Phase]:
    """The plane of each objective of a family whose rates have all been tried."""
    for objective, objective_arms in by_objective(arms):
        name = {"model": arms[0].trial.model, "variant": variant, "objective": objective}
        if all(arm.status != "pending" for arm in objective_arms):
            yield phase.read(grid, store, objective_arms, name, grid.split == "seed")


def _frames(phases: Sequence[phase.Phase]) -> dict[str, pd.DataFrame]:
    """Rows of every plane: slopes over beta, which are Holm-adjusted, its rates over beta, and its cells."""
    rows_of = {"slopes": phase.Phase.slopes, "phase": phase.Phase.rows, "cells": phase.Phase.cells}
    frames = {name: pd.DataFrame([row for one in phases for row in rows(one)]) for name, rows in rows_of.items()}
    return frames | {"slopes": adjusted(frames["slopes"], "rate", "unit")}


STUDY = Study(
    question="Which learning rate does each inverse temperature beta want, at which does training fail, and in which "
    "unit of the rate do they stand still?",
    plan=plan,
    analyse=analyse,
    figures={"phase_plane": figures.phase_plane, "ridge": figures.ridge},
    defaults={"objective": (CROSS_ENTROPY,), "seed": (0, 1, 2, 3, 4), "lr_rel": rates},
    sections=(
        Section("How the best rate and the failing one move with beta", ("ridge", "slopes")),
        Section("Each beta", ("phase", DETAILS)),
        Section("The plane of beta and rate", ("phase_plane", "cells")),
        controls.SECTION,
    ),
    details=details,
    references=("agarwala2023temperature", "holm1979"),
    probes={"curvature": Probe(arrays=phase.measure_curvature)},
)
