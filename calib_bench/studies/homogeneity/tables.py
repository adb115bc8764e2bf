"""Tables of the study of the homogeneity law, each with the note that says how to read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from calib_bench.analysis import beta_rate_plane
from calib_bench.analysis.table_notes import display_columns, table_note
from calib_bench.core.settings import Grid
from calib_bench.core.study import Table
from calib_bench.studies.homogeneity.measure import AGREES
from calib_bench.studies.homogeneity.nets import RANGE
from calib_bench.studies.homogeneity.options import Options

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("model", "optimizer")


def rule(margin: str, family: str) -> str:
    """The declared rule as a sentence of a table's note.

    Args:
        margin: largest difference that does not matter, with its unit.
        family: what Holm's adjustment is over.
    """
    return (
        f"verdict, by a rule declared before the run: equivalent: the 95% interval lies within ±{margin}; else "
        f"established miss: it leaves out 0 and Holm's p over {family} is below .05; suggestive miss: it leaves out 0, "
        "but not after Holm; inconclusive otherwise"
    )


def law_tables(grid: Grid, frames: Mapping[str, pd.DataFrame], options: Options) -> dict[str, Table]:
    """The tables that have a row, in reading order."""
    tables = _Tables(grid, options)
    makers = {
        "slopes": tables.slopes, "rates": tables.rates, "regret": tables.regret, "saddle": tables.saddle,
        "exact": tables.exact, "scaled_start": tables.scaled_start,
    }  # fmt: skip
    return {name: make(frames[name]) for name, make in makers.items() if len(frames[name])}


@dataclass(frozen=True)
class _Tables:
    """The tables of one run."""

    grid: Grid
    options: Options

    @property
    def seeds(self) -> str:
        """n and the kind of interval over seeds."""
        return f"{len(self.grid.seed)} seeds, 95% t intervals over seeds"

    def slopes(self, frame: pd.DataFrame) -> Table:
        note = table_note(
            self.grid,
            f"least squares on log-log axes for each seed; {self.seeds}; prediction: -2 / L of sgd, -1 / L of adam; "
            "degree: L, the mean over seeds at initialization, and its standard deviation; slope: of the rate; "
            "slope hom: of the rate in lr_hom = rate beta^(2/L), of adam rate beta^(1/L), which is slope minus "
            "prediction",
            "by layers: the prediction with the number of layers for L, 2 under layer normalization; biases lower L at "
            "initialization",
            "best rate: vertex of a parabola through a seed's lowest selection score and its neighbours; "
            f"failure: where training begins to fail, known to a factor of {beta_rate_plane.FINE:.2f}; left out: seeds "
            "whose best rate stands at the end of the grid, or that were not seen to fail, at some beta; softmax "
            "regression fails at no rate: large steps scale its logits, which temperature scaling undoes",
            f"judged over {RANGE} alone",
            rule(f"{self.options.margin:g}", "nets, for each of the two rates"),
        )
        first = ("range", "degree", "seeds", "prediction", "slope", "slope_hom", "verdict")
        table = display_columns(frame, self.grid)
        return Table("Slopes over beta beside the law", table, note, True, (*NAMES, "rate"), first)

    def rates(self, frame: pd.DataFrame) -> Table:
        note = table_note(
            self.grid,
            f"geometric means over the seeds where the rate was found; {self.seeds}; lr hom: the rate times "
            "beta^(2/L), of adam times beta^(1/L); scaled start: where training fails at beta = 1 from initial weights "
            "times beta^(1/L), which stands for this beta, tuning seeds alone; headroom: failure over best rate",
        )
        first = ("best_rate_lr", "best_rate_lr_hom", "failure_lr", "failure_lr_hom", "scaled_start_lr_hom", "headroom")
        title = "Best rate and the rate where training fails, over beta"
        return Table(title, display_columns(frame, self.grid), note, False, (*NAMES, "beta"), first)

    def regret(self, frame: pd.DataFrame) -> Table:
        note = table_note(
            self.grid,
            "log loss, in nats, at the rate in lr_hom that is best at beta = 1 minus that at the rate tuned at this "
            f"beta; both chosen by the same {self.grid.tune_seeds} seeds and judged on others; ratio: of the two "
            "rates; 95% intervals over seeds and examples together; same rate: the rate of beta = 1 as it stands, "
            "on the test split",
            "failed: runs that diverged or end no better than guessing; the losses leave out those that diverged, "
            "and no case is equivalent where more carried than tuned runs failed",
            rule(f"{self.options.regret_margin:g} nats on the test split", "nets and betas"),
        )
        title = "What a carried rate costs"
        return Table(title, display_columns(frame, self.grid), note, True, (*NAMES, "beta"))

    def saddle(self, frame: pd.DataFrame) -> Table:
        note = table_note(
            self.grid,
            "steps: updates until the selection loss is half of that of guessing, at the carried rate; share: of "
            "the run; never: seeds that do not get there, or fail first; scale: s = beta^(1/L), by which the same "
            f"run at beta = 1 has smaller initial weights; growth: slope of log steps over log s for {RANGE}; law: "
            "-(L - 2), of the time in which gradient descent leaves the saddle at zero, 0 up to L = 2, where it "
            "grows as log 1/s at most, and 0 of Adam, whose steps do not shrink with the gradient",
            self.seeds,
        )
        return Table("Leaving the start", display_columns(frame, self.grid), note, False, (*NAMES, "beta"))

    def exact(self, frame: pd.DataFrame) -> Table:
        note = table_note(
            self.grid,
            "float64, one seed: a run at beta from initial weights times beta^(-1/L), all numbers of the recipe "
            "carried, against the run at beta = 1; difference: largest of the test logits times beta, over the "
            f"largest logit; passed: below {AGREES:g}",
        )
        return Table("The exact control: nets without biases", display_columns(frame, self.grid), note, False, NAMES)

    def scaled_start(self, frame: pd.DataFrame) -> Table:
        note = table_note(
            self.grid,
            "log of the rate where training fails at beta over that at beta = 1 from initial weights times beta^(1/L), "
            "the second times beta^(-2/L); mean over betas for each tuning seed, 95% t intervals over those; "
            "largest: of "
            "one seed and beta, without sign",
            rule(f"{beta_rate_plane.FINE:.2f} as a factor, to which a frontier is known", "nets"),
        )
        return Table(
            "Scale of the initial weights in place of beta", display_columns(frame, self.grid), note, False, NAMES
        )
