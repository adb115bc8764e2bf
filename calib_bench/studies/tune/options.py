"""Keys of the command line that only this study has."""

from __future__ import annotations

from pydantic import Field

from calib_bench.core.settings import Count, StudyOptions


class Options(StudyOptions):
    """Options of study=tune."""

    budget: Count = Field(40, description="configurations that each search may try")
