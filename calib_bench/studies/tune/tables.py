"""Tables of the gain of tuning beta, and of the configurations tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from calib_bench.analysis import choice, collapse, controls
from calib_bench.analysis.result_rows import Row, marks
from calib_bench.analysis.table_notes import smoke_note
from calib_bench.analysis.tuned_arms import intervals
from calib_bench.core.settings import Grid
from calib_bench.core.study import Table
from calib_bench.planning.search import CUT, lengths
from calib_bench.planning.tuning import FEWEST_SEEDS, templates
from calib_bench.studies.tune.options import Options

if TYPE_CHECKING:
    import pandas as pd


def tune_tables(grid: Grid, frames: Mapping[str, pd.DataFrame]) -> dict[str, Table]:
    """The gain, how it hangs on the choice, the controls and the configurations, each with its note."""
    gains, alternatives = frames["gain"], frames["alternatives"]
    nested = "nested" in gains and bool(gains["nested"].any())
    how = intervals(grid, nested)
    smoke = smoke_note(grid)
    shown = [c for c in gains if not str(c).startswith("brier") and c != "nested"]
    return {
        "gain": Table(
            "Beta and rate tuned together, minus the rate tuned at the reference",
            gains[shown],
            f"{smoke}Test split, paired by seed and example, {how}, which count the choice of both configurations "
            "among those trained for their full length, not how the searches came to them. Elsewhere: the seeds "
            "that helped to choose and are reported at the configuration that the other tuning seeds choose "
            f"(cross-fitting, where {FEWEST_SEEDS} or more tune). "
            f"conf is what temperature scaling repairs, dyn what it cannot. Budget {Options.of(grid).budget} "
            "configurations a search; epochs spent are over all tuning seeds."
            + "".join(f" {text}." for text in marks(gains)),
            paper=True,
        ),
        "gain_brier": Table(
            "The same for the Brier score",
            gains[[c for c in gains if str(c).startswith("brier") or c in ("model", "objective", "seeds")]],
            smoke,
        ),
        **({"choice": _choice(grid, alternatives)} if len(alternatives) else {}),
        "controls": controls.table(frames["controls"], grid),
        "configurations": Table(
            "Configurations tried",
            frames["configurations"],
            f"{smoke}{grid.select.replace('_', ' ')} on the selection split, mean over the tuning seeds, at the "
            f"longest length that each was trained for; inf: diverged. Each begins with a run of {_begin(grid)}, and "
            f"the best {1 / CUT:.0%} go on to all epochs.",
        ),
    }


def collapse_table(grid: Grid, collapses: Sequence[Row]) -> dict[str, Table]:
    """The table of trials that collapsed, where some did."""
    import pandas as pd

    return {"collapse": collapse.table(pd.DataFrame(collapses), grid)} if collapses else {}


def _begin(grid: Grid) -> str:
    """The length of first runs, as "27 of 80 epochs (34%)"."""
    firsts = dict.fromkeys(lengths(template) for template in templates(grid))
    return ", ".join(f"{epochs[0]} of {epochs[-1]} epochs ({epochs[0] / epochs[-1]:.0%})" for epochs in firsts)


def _choice(grid: Grid, alternatives: pd.DataFrame) -> Table:
    table = choice.table(alternatives, grid)
    return replace(
        table,
        title="Does the gain hang on the choice of configuration?",
        note=f"{table.note} A rate stands for its configuration, of both searches those trained for their full length.",
    )
