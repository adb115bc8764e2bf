"""What the study of initial logit magnitude reads of each family: the planes, and the 2x2."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from calib_bench import registry
from calib_bench.analysis import arms as each
from calib_bench.analysis import interventions
from calib_bench.analysis.measure import Measures, measure_arm
from calib_bench.analysis.result_rows import Row
from calib_bench.analysis.scores import REPAIRED
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.trial import CROSS_ENTROPY, Trial
from calib_bench.planning.tuning import Arm
from calib_bench.studies.logit_magnitude import plane as magnitude
from calib_bench.studies.logit_magnitude.arms import FACTORS, factors

if TYPE_CHECKING:
    import pandas as pd


FRAMES = ("plane", "contrasts", "shares", "two_by_two", "controls", "rates", "trials")


@dataclass
class Reader:
    """What is read along the way."""

    grid: Grid
    store: Results
    nested: bool
    rows: dict[str, list[Row]] = field(default_factory=lambda: {name: [] for name in FRAMES})
    measurements: list[pd.DataFrame] = field(default_factory=list)

    def measure(self, arm: Arm, name: Row) -> Measures:
        """The arm before and after temperature scaling; its rates and trials go to their tables."""

        measures = measure_arm(self.store, arm, registry.calibrators((REPAIRED,)))
        self.rows["rates"] += [{**name, **row} for row in each.rates(arm, measures.redrawn_choice)]
        self.rows["trials"] += [{**name, **row} for row in each.trials(self.store, measures)]
        self.measurements.append(measures.frame)
        return measures

    def cell(self, arm: Arm, name: Row) -> magnitude.Cell:
        """The arm in the plane, its initial magnitude read from what its trials recorded before their first update."""
        correlation = arm.trial.correlation
        about = {} if correlation is None else {"intervention": f"correlation={correlation:g}"}
        measures = self.measure(arm, {**name, **about})
        trials = {seed: arm.trials[seed] for seed in measures.seeds}
        norms = {seed: float(self.store.history(trial)["logit_norm"].iloc[0]) for seed, trial in trials.items()}
        return magnitude.Cell(arm.trial.beta, correlation, measures, norms)


def read_family(reader: Reader, arms: list[Arm], variant: str | None) -> None:
    """Reads the planes of a family, one an objective, and the 2x2 of cross-entropy."""
    parts = factors(reader.grid, [arm.trial for arm in arms if of_grid(arm.trial, arms[0].trial)])
    plane, part_arms = arms[: len(arms) - len(parts)], arms[len(arms) - len(parts) :]
    alone: dict[float, Measures] = {}
    for objective in dict.fromkeys(arm.trial.objective for arm in plane):
        cells = _read_plane(reader, [arm for arm in plane if arm.trial.objective == objective], variant)
        if objective == CROSS_ENTROPY:
            alone = {cell.beta: cell.measures for cell in cells if cell.correlation is None}
    for beta in sorted({part.beta for part in parts}):
        beta_arms = [arm for part, arm in zip(parts, part_arms, strict=True) if part.beta == beta]
        _two_by_two(reader, variant, beta, beta_arms, alone)


def _read_plane(reader: Reader, arms: list[Arm], variant: str | None) -> list[magnitude.Cell]:
    """Reads the plane of one objective: its cells, pairs of them, and whose the variance is."""
    names = [each.named(arm, variant) for arm in arms]
    cells = [reader.cell(arm, name) for arm, name in zip(arms, names, strict=True)]
    reference, rows = reader.grid.reference, reader.rows
    base = next((cell for cell in cells if cell.correlation is None and cell.beta == reference), None)
    for name, cell in zip(names, cells, strict=True):
        rows["plane"].append({**name, **magnitude.row(cell, base, reader.nested)})
    about = {key: names[0][key] for key in ("model", "variant", "objective")}
    rows["contrasts"] += [{**about, **row} for row in magnitude.contrasts(cells, reference, reader.nested)]
    rows["shares"] += [{**about, **row} for row in magnitude.plane_shares(cells)]
    return cells


def of_grid(trial: Trial, first: Trial) -> bool:
    """Whether a template is of the models alone, given one that is."""
    return trial.correlation is None and (trial.head_lr, trial.head_init) == (first.head_lr, first.head_init)


def _two_by_two(
    reader: Reader, variant: str | None, beta: float, arms: list[Arm], alone: dict[float, Measures]
) -> None:
    name: Row = {"model": arms[0].trial.model, "variant": variant, "objective": CROSS_ENTROPY, "beta": beta}
    by_kind = {interventions.TRAINED: alone[beta]}
    for kind, arm in zip(FACTORS, arms, strict=True):
        by_kind[kind] = reader.measure(arm, {**name, "tuning": arm.tuning, "intervention": kind})
    reference = alone[reader.grid.reference]
    design = {key: name[key] for key in ("model", "variant", "beta")}
    reader.rows["two_by_two"] += interventions.two_by_two(by_kind, reference, design, reader.nested)
    rate, init = (by_kind[kind] for kind in FACTORS)
    square = {(False, False): reference, (True, False): rate, (False, True): init, (True, True): alone[beta]}
    about: dict[str, Any] = {key: name[key] for key in ("model", "variant", "objective")}
    reader.rows["shares"] += [{**about, **row} for row in magnitude.factor_shares(beta, square)]
