"""What the study of two temperatures leaves for its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calib_bench.core.study import StudyResult
from calib_bench.studies.two_temperatures.plane import Cell


@dataclass(frozen=True, kw_only=True)
class PlaneResult(StudyResult):
    """What figures of the study of two temperatures read, see `StudyResult`.

    Attributes:
        families: the cells of each family.
        guess: the loss of guessing, nats, where colours end.
    """

    families: Sequence[list[Cell]]
    guess: float
