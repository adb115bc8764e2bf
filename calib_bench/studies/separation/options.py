"""Keys of the command line that only this study has."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from calib_bench.core.settings import StudyOptions


class Options(StudyOptions):
    """Options of study=separation."""

    probe: Literal["none", "lazy"] = Field(
        "none",
        description="lazy: measure at each epoch how far tangent kernel and weights are from initialization; the "
        "trials are others than without",
    )
