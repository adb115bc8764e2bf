"""Keys of the command line that only this study has."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from calib_bench.core.settings import Count, StudyOptions


class Options(StudyOptions):
    """Options of study=separation."""

    budgets: tuple[Count, ...] = Field(
        (1,), description="train the grid for so many times the epochs, with rates tuned for each"
    )
    design: Literal["grid", "settling"] = Field(
        "grid",
        description="settling: whether an effect of beta is only one of speed or of a bad start: without and with an "
        "epoch of warm-up, for the epochs and 3 times as many, logits kept at equal training losses; 10 seeds or more",
    )
    probe: Literal["none", "lazy"] = Field(
        "none",
        description="lazy: measure at each epoch how far tangent kernel and weights are from initialization; the "
        "trials are others than without",
    )
