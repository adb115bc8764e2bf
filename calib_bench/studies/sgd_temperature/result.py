"""What the study of the temperature of SGD leaves for its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calib_bench.core.study import StudyResult
from calib_bench.studies.sgd_temperature.read import Density
from calib_bench.studies.sgd_temperature.rows import FamilyResult


@dataclass(frozen=True, kw_only=True)
class TemperatureResult(StudyResult):
    """What figures of the study of the temperature of SGD read, see `StudyResult`.

    Attributes:
        families: what was read of each family.
        densities: histograms of the one-parameter model.
    """

    families: Sequence[FamilyResult]
    densities: Sequence[Density]
