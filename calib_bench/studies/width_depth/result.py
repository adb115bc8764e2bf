"""What the study of architectures leaves for its figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calib_bench.core.study import StudyResult

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class WidthDepthResult(StudyResult):
    """What figures of the study of architectures read, see `StudyResult`.

    Attributes:
        best: the best beta, a row an architecture and result.
        points: a row an architecture, beta and result.
    """

    best: pd.DataFrame
    points: pd.DataFrame
