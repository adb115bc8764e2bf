"""Warm-up against none, at each beta: what it changes, and whether it changes beta's own effect.

An effect of beta that warm-up takes away was one of early instability: an arm could not be trained at the rate that it
learns best at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from calib_bench.analysis import arms as each
from calib_bench.analysis.collapse import two_kinds
from calib_bench.analysis.contrast import contrast
from calib_bench.analysis.findings import findings_of, overview
from calib_bench.analysis.interventions import effects
from calib_bench.analysis.measure import Measures
from calib_bench.analysis.result_rows import TWO_KINDS, Row, marks
from calib_bench.analysis.table_notes import display_columns, families, sample, table_note
from calib_bench.core.settings import Grid
from calib_bench.core.study import Table
from calib_bench.core.trial import Trial
from calib_bench.planning.tuning import together

if TYPE_CHECKING:
    import pandas as pd

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
    cells = [without[reference], other, warmed[reference], arm]
    seeds = [seed for seed in arm.seeds if all(seed in cell.seeds for cell in cells)]
    for metric, column in CHANGED.items() if seeds else ():
        by_effect = effects(cells, seeds, metric, nested)
        ends = ("", "_low", "_high", "_p")
        row |= {f"{column}{INTERACTION}{end}": by_effect.get(f"interaction{end}") for end in ends}
    return row


def table(frame: pd.DataFrame, grid: Grid) -> Table:
    """Table of warm-up against none."""
    stems = ("accuracy", "log_loss_total", "log_loss_conf", "log_loss_dyn")
    names = ("model", "variant", "beta", "tuning", "warmup", "against", "rate", "rate_against", "seeds", "dropped")
    keep = [c for c in frame if c in (*names, TWO_KINDS, "doubtful") or (c.startswith(stems) and "share" not in c)]
    return Table(
        "Warm-up against none, at each beta",
        display_columns(frame[keep], grid),
        table_note(
            grid,
            *words(frame),
            f"Each arm with warm-up minus the arm of the same beta with less ({sample(frame)}), each at its own rate, "
            "whose choice is counted; warmup and against in epochs",
            f"of beta: the effect of this beta against beta={grid.reference:g} with warm-up, minus the same without: "
            "where it has the opposite sign of beta's effect without, part of that effect was one of early instability",
            "* Holm-adjusted p < .05 over the rows of this table",
            *marks(frame[keep]),
        ),
        names=("model", "variant", "beta", "warmup"),
        first=("against", "accuracy", "log_loss_dyn", *(f"{column}{INTERACTION}" for column in CHANGED.values())),
    )


def words(frame: pd.DataFrame) -> list[str]:
    """Sentences on what warm-up changes, and what of beta's effect; none of a grid without several warm-ups."""
    sentences = []
    for where, group in families(frame):
        rows = group.to_dict("records")
        changes = [one for metric, column in CHANGED.items() for one in findings_of(rows, column, metric)]
        sentences.append(f"{where}Warm-up against none. {overview(changes, estimates=True)}")
        beta_rows = [row for row in rows if math.isfinite(row.get(f"accuracy{INTERACTION}", math.nan))]
        of_beta = [
            one
            for metric, column in CHANGED.items()
            for one in findings_of(beta_rows, f"{column}{INTERACTION}", f"beta's effect on {metric}")
        ]
        if of_beta:
            sentences.append(f"{where}What warm-up changes of beta's effect. {overview(of_beta, estimates=True)}")
    return sentences
