"""The tables of the separation study, in reading order, each with the note that says how to read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from calib_bench.analysis import arms as each
from calib_bench.analysis import best_beta, choice, collapse, controls, interventions, seed_spread
from calib_bench.analysis.result_rows import DOUBTFUL, TRIALS_DOUBTFUL, TWO_KINDS, marks
from calib_bench.analysis.table_notes import NAMES, rate_unit, smoke_note
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
    speed,
    warm_up,
)

if TYPE_CHECKING:
    import pandas as pd


LOG_LOSS, BRIER = ([f"{score}_{part}" for part in ("total", "conf", "dyn")] for score in ("log_loss", "brier"))
SPLIT = (
    "total = conf + dyn: conf is what temperature scaling repairs, dyn what it cannot; conf share: conf / total, where "
    "the data bound it (Fieller's interval); both count the calibration examples that temperatures were fitted on"
)
CHOICE = (
    "which count the choice of both rates: how far the contrast moves when they are chosen anew from other selection "
    "examples and tuning seeds (theirs are trained at every rate)"
)
STAR = "* Holm-adjusted p < .05 over the arms of this table"


def tables(grid: Grid, frames: Mapping[str, pd.DataFrame], nested: bool) -> dict[str, Table]:
    """Every table that has rows, and those every study has."""
    smoke = smoke_note(grid)
    how = _intervals(grid, nested)
    against = f"Each arm minus beta={grid.reference:g} with cross-entropy, paired by seed and example; {how}"
    against += f", {CHOICE}"
    contrasts = _marked(grid, frames["separation"])
    return {
        "separation": Table(
            "Confidence and dynamics: change of test log loss (nats) and accuracy",
            _columns(contrasts, "accuracy", *LOG_LOSS, "log_loss_conf_share", "kappa"),
            f"{smoke}{against}. {STAR}. {SPLIT}.{_marks(contrasts)} "
            "kappa > 1 is overconfident, < 1 underconfident: a geometric mean, its "
            "interval over seeds and calibration examples.",
            paper=True,
            first=("accuracy", *LOG_LOSS, "kappa", "log_loss_conf_share"),
        ),
        "separation_brier": Table(
            "Confidence and dynamics: change of the Brier score",
            _columns(contrasts, *BRIER, "brier_conf_share"),
            f"{smoke}{against}. {STAR}. {SPLIT}.{_marks(contrasts)}",
            paper=True,
        ),
        **_if_any(frames, "comparisons", speed.table, grid),
        **_if_any(frames, "matched", equal_confidence.table, grid, equal_confidence.words),
        **_if_any(frames, "matched", equal_confidence.other_metrics, grid, to="matched_more"),
        **_if_any(frames, "warm_up", warm_up.table, grid),
        **interventions.tables(grid, frames),
        "controls": controls.table(frames["controls"], grid),
        **_if_any(frames, "factorial", factorial.table, grid, factorial.words),
        **_if_any(frames, "factorial_tests", factorial.tests_table, grid),
        **_if_any(frames, "refinement", refinement.table, grid, refinement.words),
        **_if_any(frames, "refinement", refinement.every_family, grid, to="refinement_families"),
        **over_time.tables(frames, grid),
        **_if_any(frames, "best_beta", best_beta.table, grid),
        **_if_any(frames, "gain", seed_spread.gain_table, grid),
        **_if_any(frames, "decisions", decisions.table, grid),
        **_if_any(frames, "ensembles", ensembles.table, grid),
        **_if_any(frames, "reversals", reversals.table, grid),
        **_if_any(frames, "literature", literature.SPEC.table, grid),
        **_collapse(grid, frames["trials"]),
        **_if_any(frames, "seeds", seed_spread.table, grid, seed_spread.words),
        "baselines": Table(
            "Every arm under every post-hoc method, test split",
            _marked(grid, frames["baselines"]),
            f"{smoke}Means over seeds. Accuracy, log loss, Brier: {how}. ECE raw and after temperature scaling: the "
            "same, by bootstrap where examples count, wider by the bias that ECE may have. Coverage and size of "
            "conformal sets: the same, their threshold's calibration examples counted. All else: t intervals over "
            "seeds for this test set, none with one seed. ECE null: the mean ECE that a perfectly calibrated model "
            "with these probabilities would show. The calibration examples are counted in log loss and Brier after "
            "temperature scaling; after other calibrators intervals hold for these fits." + _marks(frames["baselines"]),
            first=("accuracy", "log_loss", "brier", "ece", "smece", "kappa"),
        ),
        **_if_any(frames, "choice", choice.table, grid),
        **_if_any(frames, "head_start", head_start.table, grid),
        "rates": _rates("Learning rates tried", _marked(grid, frames["rates"]), grid),
        **(
            {
                "intervention_rates": _rates(
                    "Learning rates tried for interventions", _marked(grid, frames["intervention_rates"]), grid
                )
            }
            if len(frames["intervention_rates"])
            else {}
        ),
        "trials": Table(
            "Trials at the chosen rates, test split",
            _marked(grid, frames["trials"]),
            f"{smoke}{each.trials_note(frames['rates'])}.{_marks(frames['trials'], TRIALS_DOUBTFUL)}",
        ),
    }


def _marks(frame: pd.DataFrame, doubtful: str = DOUBTFUL) -> str:
    """What the columns mean that only some frames have: "doubtful" and TWO_KINDS."""
    return "".join(f" {text}." for text in marks(frame, doubtful))


def bins(grid: Grid, frame: pd.DataFrame) -> dict[str, Table]:
    """What the reliability diagrams are drawn from."""
    if not len(frame):
        return {}
    note = "Bins of equal width of the confidence, seeds pooled: examples, their mean confidence and accuracy."
    first = [c for c in (*NAMES, "method", "bin") if c in frame]
    frame = frame[[*first, *(c for c in frame if c not in first)]]
    smoke = smoke_note(grid)
    names = ("model", "variant", "beta", "objective", "method", "bin")
    return {"reliability_bins": Table("Reliability, bin by bin", _marked(grid, frame), smoke + note, names=names)}


def _collapse(grid: Grid, trials: pd.DataFrame) -> dict[str, Table]:
    import pandas as pd

    collapse_rows = collapse.rows(trials, grid)
    return {"collapse": collapse.table(pd.DataFrame(collapse_rows), grid)} if collapse_rows else {}


def _intervals(grid: Grid, nested: bool) -> str:
    if nested:
        return "95% t intervals over seeds (each seed has its own test examples, which may overlap)"
    if len(grid.seed) > 1:
        return "95% intervals over seeds and test examples together"
    return "95% intervals over test examples only, since there is one seed"


def _marked(grid: Grid, frame: pd.DataFrame) -> pd.DataFrame:
    return frame if grid.limit is None else frame.assign(limit=grid.limit)


def _if_any(
    frames: Mapping[str, pd.DataFrame],
    name: str,
    make: Callable[[pd.DataFrame, Grid], Table],
    grid: Grid,
    words: Callable[[pd.DataFrame, Grid], list[str]] | None = None,
    to: str | None = None,
) -> dict[str, Table]:
    """The table of a part that has rows, what it says in words before its note, by `to` if not the part's name."""
    if not len(frames[name]):
        return {}
    table = make(frames[name], grid)
    description = " ".join(words(frames[name], grid)) if words else ""
    smoke = smoke_note(grid) if description else ""
    note = " ".join(text for text in (description, table.note.removeprefix(smoke)) if text)
    return {to or name: replace(table, note=smoke + note)}


def _rates(title: str, frame: pd.DataFrame, grid: Grid) -> Table:
    score = grid.select.replace("_", " ")
    smoke = smoke_note(grid)
    unit = f" {text}." if (text := rate_unit(grid)) else ""
    how = each.rates_note(frame)
    note = f"{smoke}Mean {score} on the selection split over the tuning seeds; inf: diverged; {how}.{unit}"
    return Table(title, frame, note)


def _columns(frame: pd.DataFrame, *stems: str) -> pd.DataFrame:
    names = (*NAMES, "seeds", "dropped", TWO_KINDS, "doubtful", "limit")
    return frame[[c for c in frame if c in names or _stem(c) in stems]]


def _stem(column: str) -> str:
    for end in ("_low", "_high", "_holm", "_p"):
        column = column.removesuffix(end)
    return column
