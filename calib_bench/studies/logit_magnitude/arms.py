"""What the study of initial logit magnitude trains beside the models alone: pairs, and either factor of beta."""

from __future__ import annotations

from calib_bench.analysis import interventions
from calib_bench.core.settings import Settings
from calib_bench.core.trial import Trial
from calib_bench.planning.tuning import More

FACTORS = (interventions.RATE, interventions.MAGNITUDE)


def alone(settings: Settings) -> Settings:
    """Settings whose grid is that of the models alone, the 2x2 asked for."""
    spaces = {model: space | {"correlation": (None,)} for model, space in (settings.spaces or {}).items()}
    return settings.model_copy(update={"spaces": spaces, "interventions": "yes"})


def more(settings: Settings) -> More:
    """The pairs of a family, grid after grid, then its factors alone."""

    def more(grid: list[Trial]) -> list[Trial]:
        correlations = (settings.spaces or {})[grid[0].model]["correlation"]
        pairs = [one.model_copy(update={"correlation": c}) for c in correlations for one in grid]
        return pairs + [part.template for part in factors(settings, grid)]

    return more


def factors(settings: Settings, grid: list[Trial]) -> list[interventions.Part]:
    all_parts = interventions.parts(alone(settings), grid)
    return [part for part in all_parts if part.kind in FACTORS]
