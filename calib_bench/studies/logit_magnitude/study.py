"""Does generalization depend strongly on beta and only weakly on the magnitude of the initial logits?

Two designs that move ||Z0|| = beta ||z0|| apart from beta (Agarwala et al., 2023, arXiv 2010.07344): correlated
initialization, the plane beta x ||Z0||; and the 2x2 of head rate and initial head, the two factors that beta is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calib_bench.analysis import arms as each
from calib_bench.analysis import controls
from calib_bench.analysis.measure import own_tests
from calib_bench.analysis.result_rows import adjusted, drop_single_seed_intervals
from calib_bench.analysis.warnings import warnings
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.study import Analysis, Role, Section, Study, StudyResult
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.errors import SettingsError
from calib_bench.planning import tuning
from calib_bench.studies.logit_magnitude import figures, findings
from calib_bench.studies.logit_magnitude.arms import alone, more
from calib_bench.studies.logit_magnitude.measure import Reader, of_grid, read_family
from calib_bench.studies.logit_magnitude.tables import magnitude_tables

if TYPE_CHECKING:
    import pandas as pd


def plan(grid: Grid, scores: Scores) -> dict[Trial, Role]:
    """The model alone and its pairs over beta, and either factor alone: one family, tuned on the same rates; controls.

    Raises:
        SettingsError: nothing would be trained, or there is one correlation only.
    """
    _check(grid)
    return controls.plan(alone(grid), scores, more(grid))


def _check(grid: Grid) -> None:
    for space in grid.spaces.values():
        if 0 in space["epochs"]:
            raise SettingsError("study=logit_magnitude trains what it compares: give epochs=1 or more")
        if len(space["correlation"]) < 2:
            raise SettingsError("study=logit_magnitude compares correlations: give two or more, correlation=-1,0,1")


def analyse(grid: Grid, store: Results) -> Analysis:
    """Every plane and 2x2.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    import pandas as pd

    families = tuning.tuned(alone(grid), store.scores(grid.select), more(grid))
    arms = [arm for family in families for arm in family.arms]
    reader = Reader(grid, store, own_tests(store, arms))
    variants = each.variants(family.arms[0].trial.family() for family in families)
    for family in families:
        variant = variants[family.arms[0].trial.family()]
        read_family(reader, family.arms, variant)
        reader.rows["controls"] += controls.read(grid, store, family.arms, variant, reader.nested)
    frames = _frames(reader)
    grid_arms = [arm for family in families for arm in family.arms if of_grid(arm.trial, family.arms[0].trial)]
    extra = [arm for arm in arms if arm not in grid_arms]
    measurements = pd.concat(reader.measurements, ignore_index=True) if reader.measurements else None
    verdict = findings.verdict(frames, grid)
    return Analysis(
        verdict=(*verdict, *controls.told(frames["controls"])),
        tables=magnitude_tables(frames, grid),
        warnings=warnings(alone(grid), grid_arms, extra, frames, store.provenance()),
        result=StudyResult(grid.limit, grid.reference, arms, measurements),
        summary=(*verdict[:2], *controls.outcome(frames["controls"])),
    )


ADJUSTED = {"plane": (), "contrasts": ("moves",), "shares": ("other", "metric"), "two_by_two": ("metric",)}
"""Tables that Holm's correction is made over, and the columns that tell one set of hypotheses from another."""


def _frames(reader: Reader) -> dict[str, pd.DataFrame]:
    """The rows of every table, Holm-adjusted, once all families are read."""
    import pandas as pd

    frames = {name: drop_single_seed_intervals(pd.DataFrame(rows), reader.grid) for name, rows in reader.rows.items()}
    for name, by in ADJUSTED.items():
        if len(frames[name]):
            frames[name] = adjusted(frames[name], *by)
    return frames


STUDY = Study(
    question="Does generalization depend strongly on beta and only weakly on the magnitude of the initial logits?",
    plan=plan,
    analyse=analyse,
    figures={
        "plane": figures.plane,
        "shares": figures.shares,
        "two_by_two": figures.factors,
    },
    defaults={
        "objective": (CROSS_ENTROPY,),
        "beta": (0.1, 0.316227766, 1.0, 3.16227766, 10.0),
        "correlation": (-1.0, -0.8, 1.0),
    },
    sections=(
        Section("The plane of beta and initial logit magnitude", ("plane", "contrasts", "collapse")),
        Section("Whose the variance is", ("shares",)),
        Section("Beta as head rate and initial head", ("two_by_two",)),
        controls.SECTION,
        Section("Trials", ("rates", "trials")),
    ),
    references=("agarwala2023temperature", "guo2017"),
)
