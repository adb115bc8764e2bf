"""When in training does beta matter?

Training at one inverse temperature goes over to another after a share of its updates, the head's weights rescaled so
that beta z, and with it every prediction and its confidence, goes on unchanged there (Agarwala et al., 2023, arXiv
2010.07344): what differs at the end was learnt at another beta before, or after. Both ways: from the reference to beta,
and from beta to the reference.
"""

from __future__ import annotations

from calib_bench.analysis import arms as each
from calib_bench.analysis import controls
from calib_bench.analysis.measure import own_tests
from calib_bench.analysis.result_rows import Row, adjusted, drop_single_seed_intervals
from calib_bench.analysis.tuned_arms import Reader
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.study import Analysis, Role, Section, Study
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.errors import SettingsError
from calib_bench.planning import tuning
from calib_bench.studies.beta_switch import figures
from calib_bench.studies.beta_switch.findings import summary, verdict
from calib_bench.studies.beta_switch.options import Options
from calib_bench.studies.beta_switch.result import SwitchResult
from calib_bench.studies.beta_switch.rows import family_rows
from calib_bench.studies.beta_switch.switches import more, switches, why_not
from calib_bench.studies.beta_switch.tables import switch_tables


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
    import pandas as pd

    families = tuning.tuned(grid, store.scores(grid.select), more(grid))
    variants = each.variants(family.arms[0].trial.family() for family in families)
    reader = Reader(grid, store, own_tests(store, [arm for family in families for arm in family.arms]))
    rows: list[Row] = []
    left_out: list[str] = []
    for family in families:
        rows += family_rows(reader, family.arms, variants[family.arms[0].trial.family()])
        reader.control(family.arms, variants[family.arms[0].trial.family()])
        templates = {arm.trial.objective: arm.trial for arm in family.arms}
        left_out += [f"Left out, {t.model}: {why}." for t in templates.values() if (why := why_not(t))]
    frame = drop_single_seed_intervals(pd.DataFrame(rows), grid)
    frame = adjusted(frame, "against") if len(frame) else frame
    tables = switch_tables(frame, grid, reader.nested)
    return reader.analysis(verdict(frame, grid), tables, left_out, summary(frame, grid), SwitchResult, switches=frame)


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
        Section("Tuning and trials", ("rates", "trials")),
    ),
    references=("agarwala2023temperature", "guo2017", "holm1979", "fieller1954"),
    options=Options,
)
