"""What the study of peak and reliability leaves for its figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calib_bench.core.study import StudyResult

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class StabilityResult(StudyResult):
    """What figures of the study of peak and reliability read, see `StudyResult`.

    Attributes:
        dots: a row a seed and result.
    """

    dots: pd.DataFrame
