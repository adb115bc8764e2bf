"""Keys of the command line that only this study has."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from calib_bench.core.settings import StudyOptions


class Options(StudyOptions):
    """Options of study=beta_switch."""

    switch_times: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.01, 0.03, 0.1, 0.3, 0.6), description="shares of the updates before beta switches"
    )
