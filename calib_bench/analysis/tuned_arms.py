"""What studies of tuned arms share: arms measured before and after temperature scaling, and what every report needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import pandas as pd

from calib_bench import registry
from calib_bench.analysis import arms as each
from calib_bench.analysis import collapse, controls
from calib_bench.analysis.measure import Measures, measure_arm, own_tests
from calib_bench.analysis.result_rows import TRIALS_DOUBTFUL, Row, drop_single_seed_intervals
from calib_bench.analysis.table_notes import rate_unit
from calib_bench.analysis.tables import TableSpec, make_tables
from calib_bench.analysis.warnings import untrained, warnings
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.study import Analysis, Section, StudyResult, Table
from calib_bench.errors import SettingsError
from calib_bench.planning import tuning
from calib_bench.planning.tuning import CROSS_FITTED, Arm, More

REPAIR = ("temperature_scaling",)
TRIALS = Section("Tuning and trials", ("rates", "trials"))
"""Where a study's page shows the rates that were tried and the trials at the chosen ones."""
TABLES = {
    "controls": controls.TABLE,
    "collapse": collapse.TABLE,
    "rates": TableSpec(
        "Learning rates tried",
        (
            "Mean {score} on the selection split over the tuning seeds; inf: diverged; rechosen: how often a rate is "
            "chosen once the sampling error of the choice, over tuning seeds and selection examples, is drawn anew",
            "{unit}",
        ),
        columns={
            "cross_fitted": f"cross fitted: the seeds for which it is the choice of the others, where {CROSS_FITTED}"
        },
        fields=lambda _, grid: {"unit": rate_unit(grid)},
    ),
    "trials": TableSpec("Trials at the chosen rates, test split", ("{trials}",), columns={"doubtful": TRIALS_DOUBTFUL}),
}


def check_trains(grid: Grid, study: str) -> None:
    """Raises SettingsError where a study that compares trained models is given one of no epochs."""
    if any(0 in space["epochs"] for space in grid.spaces.values()):
        raise SettingsError(f"study={study} trains what it compares: give epochs=1 or more")


def by_objective(arms: Sequence[Arm]) -> Iterator[tuple[str, list[Arm]]]:
    """Arms by their objective, in the order in which objectives come."""
    for objective in dict.fromkeys(arm.trial.objective for arm in arms):
        yield objective, [arm for arm in arms if arm.trial.objective == objective]


@dataclass
class Reader:
    """Arms read so far.

    Attributes:
        grid: whose arms they are.
        store: what is read.
        nested: seeds have test examples of their own.
        families: arms that are compared with each other, and what tells the family from others of its model.
        arms: those measured.
        measurements: their metrics, a row a trial and method.
        trials, rates: rows of the tables that every study of tuned arms has.
    """

    grid: Grid
    store: Results
    nested: bool
    families: list[tuple[list[Arm], str | None]]
    arms: list[Arm] = field(default_factory=list)
    measurements: list[pd.DataFrame] = field(default_factory=list)
    trials: list[Row] = field(default_factory=list)
    rates: list[Row] = field(default_factory=list)

    @classmethod
    def of(cls, grid: Grid, store: Results, more: More | None = None) -> Self:
        """A reader of a grid's arms, of which none is measured yet.

        Args:
            more: arms that the study tunes beside the grid's, see `tuning.tuned`.
        """
        families = [family.arms for family in tuning.tuned(grid, store.scores(grid.select), more)]
        variants = each.variants(arms[0].trial.family() for arms in families)
        nested = own_tests(store, [arm for arms in families for arm in arms])
        return cls(grid, store, nested, [(arms, variants[arms[0].trial.family()]) for arms in families])

    def measure(self, arm: Arm, name: Row) -> Measures:
        """The arm before and after temperature scaling; `name` are the columns that name it."""
        measures = measure_arm(self.store, arm, registry.calibrators(REPAIR))
        self.measurements.append(measures.frame)
        self.trials += [{**name, **row} for row in each.trials(self.store, measures)]
        self.rates += [{**name, **row} for row in each.rates(arm, measures.redrawn_choice)]
        self.arms.append(arm)
        return measures

    def controls(self) -> pd.DataFrame:
        """The controls of every family, which `controls.plan` has trained, without limits that rest on one of several
        seeds; they are no arms of the study."""
        rows = [
            row
            for arms, variant in self.families
            for row in controls.read(self.grid, self.store, arms, variant, self.nested)
        ]
        return drop_single_seed_intervals(pd.DataFrame(rows), self.grid)

    def tables(self, control_rows: pd.DataFrame) -> dict[str, Table]:
        """The controls, the arms that collapsed, the rates that were tried, and the trials at the chosen ones."""
        frames = {"rates": pd.DataFrame(self.rates), "trials": pd.DataFrame(self.trials)}
        frames |= {"controls": control_rows, "collapse": pd.DataFrame(collapse.rows(frames["trials"], self.grid))}
        return make_tables(TABLES, frames, self.grid, trials=each.trials_note(frames["rates"]))

    def warnings(self, more: Sequence[str] = ()) -> tuple[str, ...]:
        """Warnings on the arms read so far, then `more`, each once."""
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
            verdict: the study's sentences.
            tables: the study's.
            more: further warnings.
            summary: the study's; where it is empty, the report makes one of the verdict.
            result: the study's own class of results.
            fields: of that class, beside those that every study has.
        """
        scores = pd.concat(self.measurements, ignore_index=True) if self.measurements else pd.DataFrame()
        control_rows = self.controls()
        collapses = collapse.words(collapse.rows(pd.DataFrame(self.trials), self.grid))
        return Analysis(
            verdict=(*untrained(self.arms), *verdict, *collapses, *controls.told(control_rows)),
            tables={**tables, **self.tables(control_rows)},
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
