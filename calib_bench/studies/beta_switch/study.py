"""When in training does beta matter?

Training at one inverse temperature goes over to another after a share of its updates, the head's weights rescaled so
that beta z, and with it every prediction and its confidence, goes on unchanged there (Agarwala et al., 2023, arXiv
2010.07344): what differs at the end was learnt at another beta before, or after. Both ways: from the reference to beta,
and from beta to the reference.
"""

from __future__ import annotations

from calib_bench.analysis import controls
from calib_bench.analysis.result_rows import Row, table_frames
from calib_bench.analysis.tables import make_tables
from calib_bench.analysis.tuned_arms import TRIALS, Reader, intervals
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.study import Analysis, Role, Section, Study
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.errors import SettingsError
from calib_bench.planning import tuning
from calib_bench.studies.beta_switch import figures
from calib_bench.studies.beta_switch.findings import summary, verdict
from calib_bench.studies.beta_switch.options import Options
from calib_bench.studies.beta_switch.rows import family_rows
from calib_bench.studies.beta_switch.switches import more, switches, why_not
from calib_bench.studies.beta_switch.tables import TABLES


def plan(grid: Grid, scores: Scores) -> dict[Trial, Role]:
    """The grid and every switch between its betas and the reference, each with a rate of its own, and controls.

    Raises:
        SettingsError: no arm can switch, or there is nothing to switch to.
    """
    templates = list(tuning.templates(grid))
    if not switches(grid, templates):
        why = next((why for template in templates if (why := why_not(template))), "there is one beta, give beta=0.1,1")
        raise SettingsError(f"study=beta_switch has no arm whose beta can switch: {why}")
    return controls.plan(grid, scores, more(grid))


def analyse(grid: Grid, store: Results) -> Analysis:
    """Every switched arm against never switching, and against the beta it ends at all along.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    reader = Reader.of(grid, store, more(grid))
    rows: list[Row] = []
    left_out: list[str] = []
    for arms, variant in reader.families:
        rows += family_rows(reader, arms, variant)
        templates = {arm.trial.objective: arm.trial for arm in arms}
        left_out += [f"Left out, {t.model}: {why}." for t in templates.values() if (why := why_not(t))]
    frames = table_frames({"switches": rows}, grid, {"switches": ("against",)})
    tables = make_tables(TABLES, frames, grid, intervals=intervals(grid, reader.nested))
    switched = frames["switches"]
    return reader.analysis(verdict(switched, grid), tables, left_out, summary(switched, grid))


STUDY = Study(
    question="When in training does the inverse temperature beta matter?",
    plan=plan,
    analyse=analyse,
    figures={"switches": figures.switches},
    defaults={"objective": (CROSS_ENTROPY,), "beta": (0.01, 0.1, 1.0, 10.0)},
    sections=(
        Section(
            "What each part of training decides",
            ("switches", "collapse"),
            "No prediction changes at the switch: later differences come from learning at another beta.",
        ),
        controls.SECTION,
        TRIALS,
    ),
    references=("agarwala2023temperature", "guo2017", "holm1979", "fieller1954"),
    options=Options,
)
