"""Does generalization depend strongly on beta and only weakly on the magnitude of the initial logits?

Two designs that move ||Z0|| = beta ||z0|| apart from beta (Agarwala et al., 2023, arXiv 2010.07344): correlated
initialization, the plane beta x ||Z0||; and the 2x2 of head rate and initial head, the two factors that beta is.
"""

from __future__ import annotations

from calib_bench.analysis import controls
from calib_bench.analysis.result_rows import table_frames
from calib_bench.analysis.tables import make_tables
from calib_bench.analysis.tuned_arms import TRIALS, check_trains
from calib_bench.analysis.warnings import missing_interventions
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.study import Analysis, Role, Section, Study
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.errors import SettingsError
from calib_bench.planning.tuning import Arm
from calib_bench.studies.logit_magnitude import figures, findings
from calib_bench.studies.logit_magnitude.arms import alone, more
from calib_bench.studies.logit_magnitude.measure import PlaneReader, of_grid, read_family
from calib_bench.studies.logit_magnitude.tables import ADJUSTED, TABLES


def plan(grid: Grid, scores: Scores) -> dict[Trial, Role]:
    """The model alone and its pairs over beta, and either factor alone: one family, tuned on the same rates; controls.

    Raises:
        SettingsError: nothing would be trained, or there is one correlation only.
    """
    check_trains(grid, "logit_magnitude")
    if any(len(space["correlation"]) < 2 for space in grid.spaces.values()):
        raise SettingsError("study=logit_magnitude compares correlations: give two or more, correlation=-1,0,1")
    return controls.plan(alone(grid), scores, more(grid))


def analyse(grid: Grid, store: Results) -> Analysis:
    """Every plane and 2x2.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    reader = PlaneReader.of(alone(grid), store, more(grid))
    of_models: list[Arm] = []
    for arms, variant in reader.families:
        read_family(reader, arms, variant)
        of_models += [arm for arm in arms if of_grid(arm.trial, arms[0].trial)]
    frames = table_frames(reader.rows, grid, ADJUSTED)
    verdict = findings.verdict(frames, grid)
    warnings = missing_interventions(of_models, reader.grid)
    return reader.analysis(verdict, make_tables(TABLES, frames, grid), warnings, verdict[:2])


STUDY = Study(
    question="Does generalization depend strongly on beta and only weakly on the magnitude of the initial logits?",
    plan=plan,
    analyse=analyse,
    figures={"plane": figures.plane, "shares": figures.shares_of_variance, "two_by_two": figures.factors},
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
        TRIALS,
    ),
    references=("agarwala2023temperature", "guo2017"),
)
