"""What the study of early learning leaves for its figures."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from calib_bench.core.study import StudyResult


@dataclass(frozen=True, kw_only=True)
class EarlyLearningResult(StudyResult):
    """What figures of the study of early learning read, see `StudyResult`.

    Attributes:
        times: time scales, a row a path.
        curves: largest curvature, a row a start.
        runs: a row a rate that was tried.
        edges: where descent is lost, a row a start.
        common: paths from equal initial logits, a row a path.
    """

    times: pd.DataFrame
    curves: pd.DataFrame
    runs: pd.DataFrame
    edges: pd.DataFrame
    common: pd.DataFrame
