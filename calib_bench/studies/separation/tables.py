"""The tables of the separation study, in reading order, each with the note that says how to read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from calib_bench.analysis import arms as each
from calib_bench.analysis import best_beta, choice, collapse, controls, interventions, seed_spread, tuned_arms
from calib_bench.analysis.contrast import DIFFERENCES
from calib_bench.analysis.result_rows import TWO_KINDS
from calib_bench.analysis.table_notes import NAMES
from calib_bench.analysis.tables import STAR, TableSpec, make_tables
from calib_bench.core.settings import Grid
from calib_bench.core.study import Table
from calib_bench.studies.separation import (
    decisions,
    ensembles,
    equal_confidence,
    factorial,
    head_start,
    literature,
    over_time,
    refinement,
    reversals,
    shift_page,
    speed,
    warm_up,
)

CONTRAST = (
    "Each arm minus {reference} with cross-entropy, paired by seed and example; {intervals}, which count the choice of "
    "both rates where several were tried: how far the contrast moves when they are chosen anew from other selection "
    "examples and tuning seeds (theirs are trained at every rate)",
    f"{STAR} over the arms of this table",
    "total = conf + dyn: conf is what temperature scaling repairs, dyn what it cannot; conf share: conf / total, where "
    "the data bound it (Fieller's interval); both count the calibration examples that temperatures were fitted on",
)
ARM = (*NAMES, "seeds", "dropped", TWO_KINDS, "doubtful", "limit")
BRIER = ("brier_total", "brier_conf", "brier_dyn")
TABLES = {
    "separation": TableSpec(
        "Confidence and dynamics: change of test log loss (nats) and accuracy",
        (
            *CONTRAST,
            "kappa > 1 is overconfident, < 1 underconfident: a geometric mean, its interval over seeds and calibration "
            "examples",
        ),
        paper=True,
        first=(*DIFFERENCES, "kappa", "log_loss_conf_share"),
        shown=(*ARM, *DIFFERENCES, "log_loss_conf_share", "kappa"),
        even_empty=True,
    ),
    "separation_brier": TableSpec(
        "Confidence and dynamics: change of the Brier score",
        CONTRAST,
        paper=True,
        of="separation",
        shown=(*ARM, *BRIER, "brier_conf_share"),
        even_empty=True,
    ),
    "comparisons": speed.TABLE,
    "matched": equal_confidence.TABLE,
    "matched_more": equal_confidence.OTHER_METRICS,
    "warm_up": warm_up.TABLE,
    **interventions.TABLES,
    "controls": replace(controls.TABLE, even_empty=True),
    "factorial": factorial.TABLE,
    "factorial_tests": factorial.TESTS_TABLE,
    "refinement": refinement.TABLE,
    "refinement_families": refinement.EVERY_FAMILY,
    **over_time.TABLES,
    "best_beta": best_beta.TABLE,
    "gain": seed_spread.GAIN_TABLE,
    "decisions": decisions.TABLE,
    "ensembles": ensembles.TABLE,
    "reversals": reversals.TABLE,
    "literature": literature.SPEC,
    "collapse": collapse.TABLE,
    "seeds": replace(seed_spread.TABLE, words=seed_spread.words),
    "baselines": TableSpec(
        "Every arm under every post-hoc method, test split",
        (
            "Means over seeds. Accuracy, log loss, Brier: {intervals}. ECE raw and after temperature scaling: the "
            "same, by bootstrap where examples count, wider by the bias that ECE may have. Coverage and size of "
            "conformal sets: the same, their threshold's calibration examples counted. All else: t intervals over "
            "seeds for this test set, none with one seed. ECE null: the mean ECE that a perfectly calibrated model "
            "with these probabilities would show. The calibration examples are counted in log loss and Brier after "
            "temperature scaling; after other calibrators intervals hold for these fits",
        ),
        first=("accuracy", "log_loss", "brier", "ece", "smece", "kappa"),
        even_empty=True,
    ),
    "choice": choice.TABLE,
    "head_start": head_start.TABLE,
    "rates": replace(tuned_arms.TABLES["rates"], even_empty=True),
    "intervention_rates": replace(tuned_arms.TABLES["rates"], title="Learning rates tried for interventions"),
    "trials": replace(tuned_arms.TABLES["trials"], even_empty=True),
    **shift_page.TABLES,
    "reliability_bins": TableSpec(
        "Reliability, bin by bin",
        ("Bins of equal width of the confidence, seeds pooled: examples, their mean confidence and accuracy",),
        names=("model", "variant", "beta", "objective", "method", "bin"),
    ),
}


def tables(grid: Grid, frames: Mapping[str, pd.DataFrame], nested: bool, bins: pd.DataFrame) -> dict[str, Table]:
    """Every table that has rows, and those every study has.

    Args:
        frames: by table, but for those of collapsed trials and of bins.
        nested: seeds have test examples of their own.
        bins: what the reliability diagrams are drawn from.
    """
    collapses = pd.DataFrame(collapse.rows(frames["trials"], grid))
    named = [column for column in (*NAMES, "method", "bin") if column in bins]
    bins = bins[[*named, *(column for column in bins if column not in named)]]
    how, note = tuned_arms.intervals(grid, nested), each.trials_note(frames["rates"])
    return make_tables(
        TABLES, {**frames, "collapse": collapses, "reliability_bins": bins}, grid, intervals=how, trials=note
    )
