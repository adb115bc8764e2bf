"""How reliable is training at each inverse temperature beta, and does small beta peak higher at its cost?

Many seeds an arm. Peak against reliability: what the best and the worst of a few seeds reach, how far seeds spread, how
often training fails at the rate that was chosen without them, and what choosing beta gains. That small beta may peak
higher while it depends more on the seed is an observation of Agarwala et al. (2023, arXiv 2010.07344).
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from calib_bench.analysis import arms as each
from calib_bench.analysis import collapse, controls
from calib_bench.analysis import seed_spread as sown
from calib_bench.analysis.contrast import is_reference
from calib_bench.analysis.measure import Measures
from calib_bench.analysis.result_rows import Row, table_frames
from calib_bench.analysis.tables import make_tables
from calib_bench.analysis.tuned_arms import TRIALS, Reader, check_trains, intervals
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.study import Analysis, Role, Section, Study
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.errors import SettingsError
from calib_bench.planning.tuning import Arm
from calib_bench.studies.stability import figures
from calib_bench.studies.stability.findings import summary, verdict
from calib_bench.studies.stability.rows import failure_row, ordered, peak_rows
from calib_bench.studies.stability.tables import TABLES


def plan(grid: Grid, scores: Scores) -> dict[Trial, Role]:
    """The grid, tuned, all seeds at the chosen rates, and the positive control of each family.

    Raises:
        SettingsError: there are too few seeds to speak of their spread, or nothing is trained.
    """
    if len(grid.seed) < 3:
        raise SettingsError("study=stability compares seeds and needs three or more: give for example seed=0..11")
    check_trains(grid, "stability")
    return controls.plan(grid, scores)


def analyse(grid: Grid, store: Results) -> Analysis:
    """Every arm's seeds beside the reference's.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    reader = Reader.of(grid, store)
    peaks, spreads, members = [], [], []  # type: list[Row], list[Row], list[sown.Seeds]
    for arms, variant in reader.families:
        family_peaks, family_spreads, family_members = _family_rows(reader, arms, variant)
        peaks, spreads, members = peaks + family_peaks, spreads + family_spreads, members + family_members
    gains = sown.gain(members, grid.reference, reader.nested)
    rows = {"peaks": peaks, "seeds": spreads, "gain": gains}
    frames = {name: ordered(frame) for name, frame in table_frames(rows, grid, {"peaks": ("result",)}).items()}
    collapse.mark(frames := {**frames, "trials": pd.DataFrame(reader.trials)}, grid)
    tables = make_tables(TABLES, frames, grid, intervals=intervals(grid, reader.nested))
    sentences = verdict(frames, grid)
    return reader.analysis(sentences, tables, (), summary(frames, sentences))


def _family_rows(
    reader: Reader, arms: Sequence[Arm], variant: str | None
) -> tuple[list[Row], list[Row], list[sown.Seeds]]:
    """Rows of peaks and of spreads, and the seeds, of the arms of one family; the reference is read first."""
    settings, store = reader.grid, reader.store
    named_arms = [(each.named(arm, variant), arm) for arm in (arm.at_chosen() for arm in arms)]
    named_arms.sort(key=lambda pair: not is_reference(pair[0], settings))
    peaks, spreads, members = [], [], []  # type: list[Row], list[Row], list[sown.Seeds]
    reference: Measures | None = None
    reference_seeds: sown.Seeds | None = None
    for name, arm in named_arms:
        measures = reader.measure(arm, name)
        arm_seeds = sown.read(measures, store, settings, name)
        if reference is None and is_reference(name, settings):
            reference, reference_seeds = measures, arm_seeds
        members.append(arm_seeds)
        spreads += sown.rows(reference_seeds, arm_seeds)
        failures = failure_row(settings, store, arm)
        peaks += [{**name, **row, **failures} for row in peak_rows(measures, reference, reader.nested)]
    return peaks, spreads, members


STUDY = Study(
    question="Does a smaller inverse temperature beta peak higher at the cost of reliability: a wider spread over "
    "seeds, more failed trainings?",
    plan=plan,
    analyse=analyse,
    figures={"stability": figures.stability},
    defaults={"objective": (CROSS_ENTROPY,), "seed": tuple(range(12))},
    sections=(
        Section("Peak and reliability", ("stability", "peaks"), "What the best, the mean and the worst seed reach."),
        Section("Seeds, and choosing beta", ("collapse", "seeds", "gain")),
        controls.SECTION,
        TRIALS,
    ),
    references=("agarwala2023temperature", "guo2017", "holm1979"),
)
