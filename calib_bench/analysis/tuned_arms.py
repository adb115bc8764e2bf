"""What studies of tuned arms share: arms measured before and after temperature scaling, and what every report needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from calib_bench import registry
from calib_bench.analysis import arms as each
from calib_bench.analysis import collapse, controls
from calib_bench.analysis.measure import Measures, measure_arm
from calib_bench.analysis.result_rows import TRIALS_DOUBTFUL, Row, drop_single_seed_intervals, marks
from calib_bench.analysis.table_notes import display_columns, rate_unit, table_note
from calib_bench.analysis.warnings import untrained, warnings
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.study import Analysis, StudyResult, Table
from calib_bench.planning.tuning import Arm

if TYPE_CHECKING:
    import pandas as pd


REPAIR = ("temperature_scaling",)


@dataclass
class Reader:
    """Arms read so far.

    Attributes:
        grid: whose arms they are.
        store: what is read.
        nested: seeds have test examples of their own.
        arms: those measured.
        measurements: their metrics, a row a trial and method.
        trials, rates, controls: rows of the tables that every study of tuned arms has.
    """

    grid: Grid
    store: Results
    nested: bool
    arms: list[Arm] = field(default_factory=list)
    measurements: list[pd.DataFrame] = field(default_factory=list)
    trials: list[Row] = field(default_factory=list)
    rates: list[Row] = field(default_factory=list)
    controls: list[Row] = field(default_factory=list)

    def measure(self, arm: Arm, name: Row) -> Measures:
        """The arm before and after temperature scaling; `name` are the columns that name it."""

        measures = measure_arm(self.store, arm, registry.calibrators(REPAIR))
        self.measurements.append(measures.frame)
        self.trials += [{**name, **row} for row in each.trials(self.store, measures)]
        self.rates += [{**name, **row} for row in each.rates(arm, measures.redrawn_choice)]
        self.arms.append(arm)
        return measures

    def control(self, arms: Sequence[Arm], variant: str | None) -> None:
        """The controls of a family, whose trials `controls.plan` has; they are no arms of the study."""
        self.controls += controls.read(self.grid, self.store, arms, variant, self.nested)

    def controlled(self) -> pd.DataFrame:
        """Frame of the control rows, without the limits of rows that rest on one of several seeds."""
        import pandas as pd

        return drop_single_seed_intervals(pd.DataFrame(self.controls), self.grid)

    def tables(self) -> dict[str, Table]:
        """The controls, the rates that were tried, and the trials at the chosen ones."""
        import pandas as pd

        grid = self.grid
        score, tried = grid.select.replace("_", " "), pd.DataFrame(self.rates)
        rates = f"mean {score} on the selection split over the tuning seeds; inf: diverged; {each.rates_note(tried)}"
        unit = rate_unit(grid)
        optional = {"controls": controls.table(self.controlled(), grid)} if self.controls else {}
        trials = pd.DataFrame(self.trials)
        collapses = collapse.rows(trials, grid)
        if collapses:
            optional |= {"collapse": collapse.table(pd.DataFrame(collapses), grid)}
        return optional | {
            "rates": Table(
                "Learning rates tried",
                display_columns(tried, grid),
                table_note(grid, rates, unit),
            ),
            "trials": Table(
                "Trials at the chosen rates, test split",
                display_columns(trials, grid),
                table_note(grid, each.trials_note(tried), *marks(trials, TRIALS_DOUBTFUL)),
            ),
        }

    def warnings(self, more: Sequence[str] = ()) -> tuple[str, ...]:
        """Warnings on the arms read so far, then `more`, each once."""
        import pandas as pd

        grid = self.grid.model_copy(update={"interventions": "no"})
        frames = {"trials": pd.DataFrame(self.trials)}
        arm_warnings = warnings(grid, self.arms, (), frames, self.store.provenance())
        return tuple(dict.fromkeys([*arm_warnings, *more]))

    def analysis(
        self,
        verdict: Sequence[str],
        tables: Mapping[str, Table],
        more: Sequence[str] = (),
        summary: Sequence[str] = (),
        result: type[StudyResult] = StudyResult,
        **fields: Any,
    ) -> Analysis:
        """The analysis, its own tables first, the controls' words last in the verdict and in a summary.

        Args:
            more: further warnings.
            result: the study's own class of results.
            fields: of that class, beside those that every study has.
        """
        import pandas as pd

        scores = pd.concat(self.measurements, ignore_index=True) if self.measurements else pd.DataFrame()
        control_rows, trials = self.controlled(), pd.DataFrame(self.trials)
        verdict = (*untrained(self.arms), *verdict)
        return Analysis(
            verdict=(*verdict, *collapse.words(collapse.rows(trials, self.grid)), *controls.told(control_rows)),
            tables={**tables, **self.tables()},
            warnings=self.warnings(more),
            result=result(self.grid.limit, self.grid.reference, self.arms, scores, **fields),
            summary=(*summary, *controls.outcome(control_rows)) if summary else (),
        )


def intervals(grid: Grid, nested: bool) -> str:
    """What kind of interval crossed differences have, for notes."""
    if nested:
        return "95% t intervals over seeds, each with its own test examples"
    if len(grid.seed) > 1:
        return "95% intervals over seeds and test examples together"
    return "95% intervals over test examples only, since there is one seed"
