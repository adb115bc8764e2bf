"""What the study of homogeneity leaves for its figures."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from calib_bench.core.study import StudyResult


@dataclass(frozen=True, kw_only=True)
class HomogeneityResult(StudyResult):
    """What figures of the study of homogeneity read, see `StudyResult`.

    Attributes:
        slopes, rates, regret, saddle: the tables of these names, with every row.
        margin: a slope this near to the law's is equivalent to it.
        regret_margin: a cost in nats that is smaller does not matter.
    """

    slopes: pd.DataFrame
    rates: pd.DataFrame
    regret: pd.DataFrame
    saddle: pd.DataFrame
    margin: float
    regret_margin: float
