"""What the study of initial logit magnitude trains beside the models alone: pairs, and either factor of beta."""

from __future__ import annotations

from calib_bench.analysis import interventions
from calib_bench.core.settings import Grid
from calib_bench.core.trial import Trial
from calib_bench.planning.tuning import More

FACTORS = (interventions.RATE, interventions.MAGNITUDE)


def alone(grid: Grid) -> Grid:
    """The grid of the models alone, the 2x2 asked for."""
    spaces = {model: space | {"correlation": (None,)} for model, space in grid.spaces.items()}
    return grid.model_copy(update={"spaces": spaces, "interventions": "yes"})


def more(grid: Grid) -> More:
    """The pairs of a family, grid after grid, then its factors alone."""

    def all_templates(templates: list[Trial]) -> list[Trial]:
        correlations = grid.spaces[templates[0].model]["correlation"]
        pairs = [one.model_copy(update={"correlation": c}) for c in correlations for one in templates]
        return pairs + [part.template for part in factors(grid, templates)]

    return all_templates


def factors(grid: Grid, templates: list[Trial]) -> list[interventions.Part]:
    all_parts = interventions.parts(alone(grid), templates)
    return [part for part in all_parts if part.kind in FACTORS]
