"""What the study of initial logit magnitude reads of each family: the planes, and the 2x2."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from calib_bench.analysis import arms as each
from calib_bench.analysis import interventions
from calib_bench.analysis.measure import Measures
from calib_bench.analysis.result_rows import Row
from calib_bench.analysis.tuned_arms import Reader, by_objective
from calib_bench.core.trial import CROSS_ENTROPY, Trial
from calib_bench.planning.tuning import Arm
from calib_bench.studies.logit_magnitude import plane as magnitude
from calib_bench.studies.logit_magnitude.arms import FACTORS, factors
from calib_bench.studies.logit_magnitude.tables import TABLES


@dataclass
class PlaneReader(Reader):
    """A reader of planes.

    Attributes:
        rows: of the study's own tables.
    """

    rows: dict[str, list[Row]] = field(default_factory=lambda: {name: [] for name in TABLES})

    def cell(self, arm: Arm, name: Row) -> magnitude.Cell:
        """The arm in the plane, its initial magnitude read from what its trials recorded before their first update."""
        correlation = arm.trial.correlation
        about = {} if correlation is None else {"intervention": f"correlation={correlation:g}"}
        measures = self.measure(arm, {**name, **about})
        trials = {seed: arm.trials[seed] for seed in measures.seeds}
        norms = {seed: float(self.store.history(trial)["logit_norm"].iloc[0]) for seed, trial in trials.items()}
        return magnitude.Cell(arm.trial.beta, correlation, measures, norms)


def read_family(reader: PlaneReader, arms: list[Arm], variant: str | None) -> None:
    """Reads the planes of a family, one an objective, and the 2x2 of cross-entropy."""
    parts = factors(reader.grid, [arm.trial for arm in arms if of_grid(arm.trial, arms[0].trial)])
    plane, part_arms = arms[: len(arms) - len(parts)], arms[len(arms) - len(parts) :]
    alone: dict[float, Measures] = {}
    for objective, objective_arms in by_objective(plane):
        cells = _read_plane(reader, objective_arms, variant)
        if objective == CROSS_ENTROPY:
            alone = {cell.beta: cell.measures for cell in cells if cell.correlation is None}
    for beta in sorted({part.beta for part in parts}):
        beta_arms = [arm for part, arm in zip(parts, part_arms, strict=True) if part.beta == beta]
        _two_by_two(reader, variant, beta, beta_arms, alone)


def _read_plane(reader: PlaneReader, arms: list[Arm], variant: str | None) -> list[magnitude.Cell]:
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
    reader: PlaneReader, variant: str | None, beta: float, arms: list[Arm], alone: dict[float, Measures]
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
