"""Warm-up against none, at each beta: what it changes, and whether it changes beta's own effect.

An effect of beta that warm-up takes away was one of early instability: an arm could not be trained at the rate that it
learns best at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pandas as pd

from calib_bench.analysis import arms as each
from calib_bench.analysis.collapse import two_kinds
from calib_bench.analysis.contrast import DIFFERENCES, contrast
from calib_bench.analysis.findings import findings_of, overview
from calib_bench.analysis.interventions import effects
from calib_bench.analysis.measure import Measures
from calib_bench.analysis.result_rows import TWO_KINDS, Row
from calib_bench.analysis.table_notes import families
from calib_bench.analysis.tables import STAR, TableSpec
from calib_bench.core.settings import Grid
from calib_bench.core.trial import Trial
from calib_bench.planning.tuning import together

CHANGED = {"accuracy": "accuracy", "repaired log loss": "log_loss_dyn"}
"""Metrics that only learning dynamics move, and their columns in contrasts."""
INTERACTION = "_of_beta"
"""End of the columns that say by how much beta's effect is another with warm-up."""


@dataclass
class ByWarmUp:
    """Cross-entropy arms of families that differ in warm-up alone: by family without it, warm-up and beta."""

    families: dict[Trial, dict[float, dict[float, Measures]]] = field(default_factory=dict)

    def add(self, grid: Grid, by_beta: Mapping[float, Measures]) -> None:
        """Keep a family's arms, where the grid has several warm-ups."""
        for beta, measures in by_beta.items():
            trial = measures.arm.trial
            if len(grid.spaces[trial.model]["warmup"]) > 1:
                alike = trial.family().model_copy(update={"warmup": 0.0})
                self.families.setdefault(alike, {}).setdefault(trial.warmup, {})[beta] = measures

    def rows(self, grid: Grid, variants: Mapping[Trial, str | None], nested: bool) -> list[Row]:
        """A row a warm-up and beta: the arm minus that of the least warm-up at the same beta."""
        rows: list[Row] = []
        for by_warmup in self.families.values():
            least = min(by_warmup)
            for warmup in sorted(set(by_warmup) - {least}):
                pair = by_warmup[least], by_warmup[warmup]
                for beta in sorted(set(pair[0]) & set(pair[1])):
                    arm = pair[1][beta].arm
                    name: Row = each.named(arm, variants[arm.trial.family()]) | {"warmup": warmup, "against": least}
                    rows.append(name | _row(*pair, beta, grid.reference, nested))
        return rows


def _row(
    without: Mapping[float, Measures], warmed: Mapping[float, Measures], beta: float, reference: float, nested: bool
) -> Row:
    """The contrast at one beta and, of another than the reference's, by how much beta's effect changes."""
    arm, other = warmed[beta], without[beta]
    examples = int(arm.examples["raw"]["correct"].shape[1]) if arm.seeds else 0
    row: Row = {"rate": arm.arm.chosen, "rate_against": other.arm.chosen, "nested": nested, "examples": examples}
    row |= {"tuning": together((arm.arm, other.arm))} | contrast(arm, other, nested) | two_kinds(arm, other)
    if beta == reference or reference not in without or reference not in warmed:
        return row
    return row | _interactions([without[reference], other, warmed[reference], arm], nested)


def _interactions(cells: list[Measures], nested: bool) -> Row:
    """By how much beta's effects change, on the seeds that all four cells have; nothing without any."""
    row: Row = {}
    seeds = [seed for seed in cells[-1].seeds if all(seed in cell.seeds for cell in cells)]
    for metric, column in CHANGED.items() if seeds else ():
        by_effect = effects(cells, seeds, metric, nested)
        ends = ("", "_low", "_high", "_p")
        row |= {f"{column}{INTERACTION}{end}": by_effect.get(f"interaction{end}") for end in ends}
    return row


def words(frame: pd.DataFrame, _: Grid) -> Iterator[str]:
    """Sentences on what warm-up changes, and what of beta's effect; none of a grid without several warm-ups."""
    for where, group in families(frame):
        rows = group.to_dict("records")
        changes = [one for metric, column in CHANGED.items() for one in findings_of(rows, column, metric)]
        yield f"{where}Warm-up against none. {overview(changes, estimates=True)}."
        beta_rows = [row for row in rows if math.isfinite(row.get(f"accuracy{INTERACTION}", math.nan))]
        columns = {f"{column}{INTERACTION}": f"beta's effect on {metric}" for metric, column in CHANGED.items()}
        of_beta = [one for column, name in columns.items() for one in findings_of(beta_rows, column, name)]
        if of_beta:
            yield f"{where}What warm-up changes of beta's effect. {overview(of_beta, estimates=True)}."


EFFECTS_OF_BETA = tuple(f"{column}{INTERACTION}" for column in CHANGED.values())
SHOWN = (
    "model", "variant", "beta", "tuning", "warmup", "against", "rate", "rate_against", "seeds", "dropped", TWO_KINDS,
    "doubtful", *DIFFERENCES, *EFFECTS_OF_BETA,
)  # fmt: skip
TABLE = TableSpec(
    "Warm-up against none, at each beta",
    (
        "Each arm with warm-up minus the arm of the same beta with less ({sample}), each at its own rate, whose choice "
        "is counted; warmup and against in epochs",
        "of beta: the effect of this beta against {reference} with warm-up, minus the same without: where it has the "
        "opposite sign of beta's effect without, part of that effect was one of early instability",
        f"{STAR} over the rows of this table",
    ),
    names=("model", "variant", "beta", "warmup"),
    first=("against", "accuracy", "log_loss_dyn", *EFFECTS_OF_BETA),
    shown=SHOWN,
    words=words,
)
"""Warm-up against none."""
