"""Keys of the command line that only this study has."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from calib_bench.core.settings import StudyOptions
from calib_bench.core.trial import Positive


class Options(StudyOptions):
    """Options of study=homogeneity."""

    margin: Positive = Field(0.1, description="largest difference of a slope from the law that does not matter")
    regret_margin: Positive = Field(
        0.05, description="largest log loss, in nats, by which a carried rate may be worse that does not matter"
    )
    initial_scales: Literal["yes", "no"] = Field(
        "yes", description="find where training fails over the scale of the initial weights at beta=1 too"
    )
