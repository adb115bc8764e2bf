"""How much of what training at inverse temperature beta changes is confidence, and how much is learning dynamics?

Every arm is compared with the reference of its family; the modules beside this one have its parts, and those of
`calib_bench.analysis` what it shares with other studies.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from calib_bench import registry
from calib_bench.analysis import arms as each
from calib_bench.analysis import best_beta, choice, collapse, controls, interventions
from calib_bench.analysis import seed_spread as seeds
from calib_bench.analysis.measure import own_tests
from calib_bench.analysis.result_rows import adjusted, drop_single_seed_intervals
from calib_bench.analysis.warnings import refusals, warnings
from calib_bench.analysis.warnings import untrained as untrained_words
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.study import Analysis, Role, Study, StudyResult
from calib_bench.core.trial import Scores, Trial
from calib_bench.planning import tuning
from calib_bench.studies.separation import (
    arm_figures,
    decisions,
    factorial,
    figures,
    head_start,
    lazy,
    literature,
    over_time,
    page,
    settling,
    shift,
    shift_page,
    speed,
)
from calib_bench.studies.separation.findings import verdict
from calib_bench.studies.separation.measure import REPAIR, Reader, read_family
from calib_bench.studies.separation.options import Options
from calib_bench.studies.separation.summary import summary
from calib_bench.studies.separation.tables import tables


def plan(grid: Grid, scores: Scores) -> dict[Trial, Role]:
    """The grid and its interventions, tuned, all seeds at the chosen rates, and the controls of each family."""
    grid = lazy.asked(grid)
    wanted: list[tuple[Trial, Role]] = []
    for family in tuning.tuned(grid, scores, interventions.more(grid)):
        wanted += family.roles()
        wanted += controls.roles(grid, family.arms)
        wanted += shift.roles(grid, family)
        wanted += head_start.roles(head_start.of_arms(grid, family.of_grid, scores))
    return tuning.planned(wanted)


def analyse(grid: Grid, store: Results) -> Analysis:
    """Every arm against the reference of its family.

    One arm's scores under every calibrator are in memory at a time, and a few arms' before and after temperature
    scaling.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    grid, scores = lazy.asked(grid), store.scores(grid.select)
    families = tuning.tuned(grid, scores, interventions.more(grid))
    arms = [arm for family in families for arm in family.arms]
    grid_arms = [arm for family in families for arm in family.of_grid]
    beside = [arm for family in families for arm in family.beside]
    calibrators = registry.calibrators(REPAIR) | registry.calibrators(grid.calibrator)
    study = Reader(grid, store, calibrators, own_tests(store, arms))
    variants = each.variants(family.arms[0].trial.family() for family in families)
    for family in families:
        variant = variants[family.arms[0].trial.family()]
        read_family(study, family.arms, variant)
        if grid.shift:
            study.read_shifted(family.of_grid, variant)
        study.rows["head_start"] += head_start.rows(store, head_start.of_arms(grid, family.of_grid, scores), variant)
    study.rows["warm_up"] = study.by_warmup.rows(grid, variants, study.nested)
    frames = _frames(study)
    measurements, reliability = _joined(study.measurements), _joined(study.reliability)
    result = StudyResult(grid.limit, grid.reference, study.arms, measurements, reliability)
    untrained = untrained_words(arms)
    return Analysis(
        verdict=(*untrained, *verdict(grid, frames)),
        tables=tables(grid, frames, study.nested, reliability),
        warnings=(
            *warnings(grid, grid_arms, beside, frames, store.provenance()),
            *refusals(study.refused, grid.calibrator),
            *head_start.warnings(study.rows["head_start"]),
            *choice.words(frames["choice"], frames["separation"]),
            *(f"{method}: {caution}." for method, caution in study.cautions.items()),
            *study.left_out,
        ),
        result=result,
        summary=(*untrained, *summary(grid, frames)),
    )


def _frames(study: Reader) -> dict[str, pd.DataFrame]:
    """The rows of every table, Holm-adjusted, once all families are read."""
    study.rows["factorial"] = factorial.rows(study.points, study.moves)
    study.rows["factorial_tests"] = factorial.tests(study.points)
    study.rows["best_beta"] = best_beta.rows(study.curves)
    study.rows["gain"] = seeds.gain(study.seeds, study.grid.reference, study.nested)
    frames = {name: drop_single_seed_intervals(pd.DataFrame(rows), study.grid) for name, rows in study.rows.items()}
    frames["separation"] = adjusted(frames["separation"])
    frames["warm_up"] = adjusted(frames["warm_up"])
    if len(frames["best_beta"]):
        frames["best_beta"] = adjusted(frames["best_beta"], "result")
    interventions.adjust(frames)
    collapse.mark(frames, study.grid)
    frames["comparisons"] = speed.judged(frames["comparisons"])
    frames["literature"] = pd.DataFrame(literature.rows(frames, study.grid))
    return frames


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


STUDY = Study(
    question=(
        "When a model is trained at softmax inverse temperature beta, how much of what changes is confidence, which "
        "temperature scaling could repair, and how much is learning dynamics, which nothing after training can?"
    ),
    plan=plan,
    analyse=analyse,
    figures={
        "over_beta": arm_figures.over_beta,
        "separation": arm_figures.separation,
        "comparisons": speed.figure,
        "interventions": figures.interventions,
        "ensembles": figures.ensembles,
        "reliability": arm_figures.reliability,
        "decisions": decisions.figure,
        "over_time": over_time.over_time,
        "over_time_by_beta": over_time.over_time_by_beta,
        "shift": shift_page.levels,
        "shift_repaired": shift_page.repaired,
        "shift_methods": shift_page.methods,
        "shift_change": shift_page.change,
        "lazy": lazy.lazy,
        "learning_rates": arm_figures.learning_rates,
    },
    sections=page.SECTIONS,
    details=page.details,
    references=(
        "agarwala2023temperature",
        "guo2017",
        "berta2025",
        "satterthwaite1946",
        "holm1979",
        "fieller1954",
        "lakshminarayanan2017",
        "rahaman2021",
        "ranjan2024",
        "efron1981",
        "berger1982",
        "chizat2019",
        "wang2021",
        "xia2025",
        "dabah2025",
    ),
    measures_shift=True,
    options=Options,
    complete=settling.complete,
    probes=lazy.PROBES,
)
