"""What the study of switches of beta leaves for its figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calib_bench.core.study import StudyResult

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class SwitchResult(StudyResult):
    """What figures of the study of switches of beta read, see `StudyResult`.

    Attributes:
        switches: a row a switched arm and what it is compared with.
    """

    switches: pd.DataFrame
