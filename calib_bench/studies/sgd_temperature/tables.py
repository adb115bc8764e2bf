"""Tables of the study of SGD's temperature, each with the note that says how to read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calib_bench.analysis.result_rows import marks
from calib_bench.analysis.table_notes import smoke_note
from calib_bench.core.settings import Grid
from calib_bench.core.study import Table
from calib_bench.studies.sgd_temperature import arms
from calib_bench.studies.sgd_temperature import rows as measured_rows
from calib_bench.studies.sgd_temperature.read import Density

if TYPE_CHECKING:
    import pandas as pd


def temperature_tables(
    grid: Grid, results: list[measured_rows.FamilyResult], densities: list[Density], accepted: pd.DataFrame
) -> dict[str, Table]:
    """Every table that has rows, in reading order."""
    import pandas as pd

    smoke = smoke_note(grid)
    over = f"{smoke}95% t intervals over {len(grid.seed)} seeds. "
    held = "The mean over the second half of each run of the objective of all training examples, less the minimum's. "

    def rows(*parts: str) -> pd.DataFrame:
        return pd.DataFrame([row for one in results for row in measured_rows.stationary_rows(one, *parts)])

    def marked(frame: pd.DataFrame) -> str:
        return "".join(f" {text}." for text in marks(frame))

    every = {
        "acceptance": Table(
            "What theory claims and what was measured", accepted,
            f"{over}A claim is met when the measured value, not its interval, is within the tolerance (relative, but "
            f"for distances); undecided where seeds of two kinds made it.{marked(accepted)}", paper=True,
            names=("model", "claim"),
        ),
        "minima": Table(
            "Minima of the training objective", pd.DataFrame([measured_rows.minimum_row(one) for one in results]),
            f"{smoke}By L-BFGS in float64. mean_square is E||g_b||^2 over single examples, weight decay's gradient "
            "included; capacity is a quarter of it; noise_curvature is tr(CH) / tr(C).",
        ),
        "heat": Table(
            "Excess loss over eta0", heat := rows(arms.HEAT, arms.SHUFFLED),
            f"{over}{held}theory is capacity times eta0; theory_finite_rate divides it by 1 - rate "
            f"noise_curvature / (2 (1 + momentum)). ratio is excess over theory.{marked(heat)}", paper=True,
        ),
        "collapse": Table(
            "Excess loss over batch size and momentum at equal eta0", same := rows(arms.BATCHES, arms.MOMENTA),
            f"{over}{held}{marked(same)}",
        ),
        "cooling": Table(
            "The rate lowered for a third of the run and restored",
            cooling := pd.DataFrame([row for one in results for row in measured_rows.cooling_rows(one)]),
            f"{over}Excess loss in the second half of each third; control: the last third of runs with the same "
            f"batches at the unchanged rate; stationary: whether those had settled before.{marked(cooling)}",
        ),
        "adam": Table(
            "Adam over batch sizes",
            adam := pd.DataFrame([row for one in results for row in measured_rows.adam_rows(one)]),
            f"{over}{held}relative is to the first batch size at the same rate_at_first (Malladi et al., 2022)."
            f"{marked(adam)}",
        ),
        "gibbs": Table(
            "The one-parameter model", pd.DataFrame(measured_rows.gibbs_rows(densities)),
            f"{smoke}Total variation distance between the histogram of the parameter and its Gibbs density, in 20 bins "
            "of equal probability; chance is what as many samples would give; the normal is that of the minimum's "
            "curvature.",
        ),
    }  # fmt: skip
    return {name: table for name, table in every.items() if len(table.frame)}
