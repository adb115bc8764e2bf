"""Tables of the gain of tuning beta, and of the configurations tried."""

from __future__ import annotations

from dataclasses import replace

from calib_bench.analysis import choice, collapse, controls
from calib_bench.analysis.contrast import DIFFERENCES
from calib_bench.analysis.tables import TableSpec
from calib_bench.core.settings import Grid
from calib_bench.planning.search import CUT, lengths
from calib_bench.planning.tuning import FEWEST_SEEDS, templates
from calib_bench.studies.tune.options import Options

TABLES = {
    "gain": TableSpec(
        "Beta and rate tuned together, minus the rate tuned at the reference",
        (
            "Test split, paired by seed and example, {intervals}, which count the choice of both configurations among "
            "those trained for their full length, not how the searches came to them. Elsewhere: the seeds that helped "
            "to choose and are reported at the configuration that the other tuning seeds choose (cross-fitting, where "
            f"{FEWEST_SEEDS} or more tune). conf is what temperature scaling repairs, dyn what it cannot. Budget "
            "{budget} configurations a search; epochs spent are over all tuning seeds",
        ),
        paper=True,
        first=("tuned_beta", *DIFFERENCES, "kappa"),
        rows=lambda gains: gains[[c for c in gains if not c.startswith("brier")]],
        fields=lambda _, grid: {"budget": str(Options.of(grid).budget)},
        even_empty=True,
    ),
    "gain_brier": TableSpec(
        "The same for the Brier score",
        of="gain",
        rows=lambda gains: gains[[c for c in gains if c.startswith("brier") or c in ("model", "objective", "seeds")]],
        even_empty=True,
    ),
    "choice": replace(
        choice.TABLE,
        title="Does the gain hang on the choice of configuration?",
        note=(
            *choice.TABLE.note,
            "A rate stands for its configuration, of both searches those trained for their full length",
        ),
        of="alternatives",
    ),
    "controls": replace(controls.TABLE, even_empty=True),
    "configurations": TableSpec(
        "Configurations tried",
        (
            "{score} on the selection split, mean over the tuning seeds, at the longest length that each was trained "
            f"for; inf: diverged. Each begins with a run of {{begin}}, and the best {1 / CUT:.0%} go on to all epochs",
        ),
        fields=lambda _, grid: {"begin": _begin(grid)},
        even_empty=True,
    ),
    "collapse": collapse.TABLE,
}


def _begin(grid: Grid) -> str:
    """The length of first runs, as "27 of 80 epochs (34%)"."""
    firsts = dict.fromkeys(lengths(template) for template in templates(grid))
    return ", ".join(f"{epochs[0]} of {epochs[-1]} epochs ({epochs[0] / epochs[-1]:.0%})" for epochs in firsts)
